"""Qwen2.5-VL as a text encoder: what Qwen-Image reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from evolvedirector.lightning_modules.text_encoders.tokenizer import check_dimension, frozen_text_parts
from evolvedirector.store.paths import folder_or_hub_name

# The frame of the published model. The states of its first tokens are dropped; what follows the prompt, five tokens,
# is kept.
SYSTEM = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:"
)
TEMPLATE = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{{}}<|im_end|>\n<|im_start|>assistant\n"
DROPPED_TOKENS = 34


class QwenVLEncoder:
    """Encode text with the language half of a Qwen2.5-VL (Bai et al. 2025, arXiv:2502.13923), as Qwen-Image reads it.

    The prompt stands in a fixed frame that asks for a description of the image (Wu et al. 2025, arXiv:2508.02324,
    section 2); the states of the 34 tokens before it are dropped. Attention looks back only, so the states of a text
    depend neither on padding nor on where longer texts are cut. The weights load at the first `encode`; those of 7B
    take 16.6 GB in bfloat16.

    Args:
        name: repository name or folder.
        revision: git revision of the repository; None only for a folder.
        dimension: dimension of its states, verified when the weights are loaded; 3584 for 7B.
        dtype: precision of its weights.
        subfolder: folder of the text encoder inside the repository, for diffusers pipelines; None for none.
        tokenizer_subfolder: likewise for the tokenizer.

    Raises:
        UserError: if a repository is named without revision.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        dimension: int = 3584,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        subfolder: str | None = None,
        tokenizer_subfolder: str | None = None,
    ) -> None:
        name = folder_or_hub_name(name)
        self.name, self.revision, self.dtype = name, revision, dtype
        self._dimension = dimension
        subfolders = (subfolder, tokenizer_subfolder)
        self.frozen, self.tokenizer = frozen_text_parts(
            "Qwen2.5-VL", "Qwen2_5_VLForConditionalGeneration", name, revision, dtype, subfolders, self._check
        )

    @property
    def fingerprint(self) -> str:
        """Name repository, revision and precision; of a folder, its weights."""
        return f"qwen-vl-{self.name}-{self.revision}-{self.dtype}{self.frozen.component.content_digest()}"

    @property
    def dimension(self) -> int:
        """Dimension of a state."""
        return self._dimension

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the last states behind the frame's beginning, all texts padded to `max_tokens` with zeros."""
        model, tokenizer = self.models()
        tokens = tokenizer(
            [TEMPLATE.format(text) for text in texts],
            padding="max_length",
            padding_side="right",
            truncation=True,
            max_length=max_tokens + DROPPED_TOKENS,
            return_tensors="pt",
        ).to(self.frozen.device)
        with torch.no_grad(), torch.autocast(self.frozen.device.type, enabled=False):
            # the model without its head: logits over the whole vocabulary would take more than all the rest
            states = model.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        mask = tokens.attention_mask[:, DROPPED_TOKENS:].bool()
        kept = states[:, DROPPED_TOKENS:] * mask.unsqueeze(-1)
        missing = max_tokens - kept.shape[1]
        return pad(kept, (0, 0, 0, missing)), pad(mask, (0, missing))

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.frozen.to(device)

    def verify(self) -> None:
        """Check weights, tokenizer and, where its config is here, the dimension.

        Raises:
            ValueError: One of them would not work.
        """
        self.frozen.verify()
        self.tokenizer.verify()

    def estimated_bytes(self) -> int:
        """Return the size of the weights; 0 before they are downloaded."""
        return self.frozen.estimated_bytes()

    def models(self) -> tuple[Any, Any]:
        """Return model and tokenizer, loaded at the first call."""
        return self.frozen.model(), self.tokenizer.load()

    def _check(self, config: Mapping[str, Any]) -> None:
        width = config.get("text_config", config)["hidden_size"]
        check_dimension("Qwen2.5-VL encoder", self.name, width, self._dimension)
