"""Qwen3 as a text encoder: what Z-Image reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.lightning_modules.text_encoders.tokenizer import check_dimension, frozen_text_parts
from evolvedirector.store.paths import folder_or_hub_name


class ZImageQwen3Encoder:
    """Encode text with a Qwen3 (Yang et al. 2025, arXiv:2505.09388), as Z-Image (arXiv:2511.22699) reads it.

    The prompt is a user's turn in the tokenizer's chat template, thinking on. The states are those before the last
    layer; no token is dropped. Attention looks back only, so the states of a text do not depend on padding. The
    weights load at the first `encode`; those of 4B take 8 GB in bfloat16.

    Args:
        name: repository name or folder.
        revision: git revision of the repository; None only for a folder.
        dimension: dimension of its states, verified when the weights are loaded; 2560 for 4B.
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
        dimension: int = 2560,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        subfolder: str | None = None,
        tokenizer_subfolder: str | None = None,
    ) -> None:
        name = folder_or_hub_name(name)
        self.name, self.revision, self.dtype = name, revision, dtype
        self._dimension = dimension
        subfolders = (subfolder, tokenizer_subfolder)
        self.frozen, self.tokenizer = frozen_text_parts(
            "Qwen3", "Qwen3Model", name, revision, dtype, subfolders, self._check, chats_of="Z-Image"
        )

    @property
    def fingerprint(self) -> str:
        """Name repository, revision and precision; of a folder, its weights."""
        return f"z-image-qwen3-{self.name}-{self.revision}-{self.dtype}{self.frozen.component.content_digest()}"

    @property
    def dimension(self) -> int:
        """Dimension of a state."""
        return self._dimension

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the states before the last layer, all texts padded to `max_tokens` with zeros."""
        model, tokenizer = self.models()
        turns = self.tokenizer.chats(texts, thinking=True)
        tokens = tokenizer(
            turns,
            padding="max_length",
            padding_side="right",
            truncation=True,
            max_length=max_tokens,
            return_tensors="pt",
        ).to(self.frozen.device)
        mask = tokens.attention_mask.bool()
        with torch.no_grad(), torch.autocast(self.frozen.device.type, enabled=False):
            states = model(input_ids=tokens.input_ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
        return states * mask.unsqueeze(-1), mask

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.frozen.to(device)

    def verify(self) -> None:
        """Check weights, tokenizer with chat template and, where its config is here, the dimension.

        Raises:
            ValueError: One of them would not work.
        """
        self.frozen.verify()
        self.tokenizer.verify()

    def estimated_bytes(self) -> int:
        """Return the size of the weights; 0 before they are downloaded."""
        return self.frozen.estimated_bytes()

    def models(self) -> tuple[Any, Any]:
        """Return model and tokenizer, loaded at the first call.

        Raises:
            UserError: The tokenizer has no chat template.
        """
        return self.frozen.model(), self.tokenizer.load()

    def _check(self, config: Mapping[str, Any]) -> None:
        check_dimension("Qwen3 encoder", self.name, config["hidden_size"], self._dimension)
