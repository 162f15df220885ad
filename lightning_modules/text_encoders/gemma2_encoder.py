"""Gemma 2 as a text encoder: what Sana reads."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.lightning_modules.text_encoders.tokenizer import check_dimension, frozen_text_parts
from evolvedirector.models.import_diffusers import import_diffusers
from evolvedirector.records import digest
from evolvedirector.store.paths import folder_or_hub_name

_INSTRUCTION = "complex_human_instruction"


class Gemma2Encoder:
    """Encode text with a Gemma 2 (arXiv:2408.00118), as Sana (Xie et al. 2024, arXiv:2410.10629, section 3.1) reads it.

    An instruction that asks for a richer prompt stands before every text but the empty one. Of the states, the first
    one (the beginning of the text) and the last `max_tokens` - 1 are kept, which begin at the end of the instruction.
    Attention looks back only, so the states do not depend on padding. The weights load at the first `encode`; those of
    2B take 5 GB in bfloat16.

    Args:
        name: repository name or folder.
        revision: git revision of the repository; None only for a folder.
        dimension: dimension of its states, verified when the weights are loaded; 2304 for 2B.
        dtype: precision of its weights.
        subfolder: folder of the text encoder inside the repository, for diffusers pipelines; None for none.
        tokenizer_subfolder: likewise for the tokenizer.
        instruction: lines before a text; None takes those of the stock pipeline, with which Sana was trained, an empty
            list none.

    Raises:
        UserError: if a repository is named without revision.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        dimension: int = 2304,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        subfolder: str | None = None,
        tokenizer_subfolder: str | None = None,
        instruction: Sequence[str] | None = None,
    ) -> None:
        name = folder_or_hub_name(name)
        self.name, self.revision, self.dtype = name, revision, dtype
        self._dimension = dimension
        self._instruction = None if instruction is None else tuple(instruction)
        subfolders = (subfolder, tokenizer_subfolder)
        self.frozen, self.tokenizer = frozen_text_parts(
            "Gemma 2", "Gemma2Model", name, revision, dtype, subfolders, self._check
        )

    @property
    def fingerprint(self) -> str:
        """Name repository, revision, precision and instruction; of a folder, its weights."""
        instruction = digest(*self.instruction, length=12)
        return f"gemma2-{self.name}-{self.revision}-{self.dtype}-{instruction}{self.frozen.component.content_digest()}"

    @property
    def dimension(self) -> int:
        """Dimension of a state."""
        return self._dimension

    @property
    def instruction(self) -> tuple[str, ...]:
        """Lines before a text."""
        if self._instruction is None:
            import_diffusers()
            from diffusers import SanaPipeline

            pipeline: Any = SanaPipeline  # publishes it as the default of a parameter
            self._instruction = tuple(inspect.signature(pipeline.__call__).parameters[_INSTRUCTION].default)
        return self._instruction

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the last states, all texts padded to `max_tokens` with zeros."""
        instruction = "\n".join(self.instruction)
        device = self.frozen.device
        states = torch.zeros(len(texts), max_tokens, self.dimension, dtype=getattr(torch, self.dtype), device=device)
        mask = torch.zeros(states.shape[:2], dtype=torch.bool, device=device)
        for lead, rows in (("", [not text for text in texts]), (instruction, [bool(text) for text in texts])):
            if any(rows):  # then all of them, so that a row does not depend on which others there are
                found, real = self._encode([lead + text for text in texts], lead, max_tokens)
                chosen = torch.tensor(rows, device=device)
                states = torch.where(chosen[:, None, None], found, states)
                mask = torch.where(chosen[:, None], real, mask)
        return states, mask

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

    def _encode(self, texts: list[str], instruction: str, max_tokens: int) -> tuple[Tensor, Tensor]:
        model, tokenizer = self.models()
        # the instruction's own count includes the beginning token, and its last token is among the kept ones
        length = max_tokens if not instruction else len(tokenizer.encode(instruction)) + max_tokens - 2
        tokens = tokenizer(
            texts,
            padding="max_length",
            padding_side="right",
            truncation=True,
            max_length=length,
            add_special_tokens=True,
            return_tensors="pt",
        ).to(self.frozen.device)
        with torch.no_grad(), torch.autocast(self.frozen.device.type, enabled=False):
            states = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        kept = [0, *range(length - max_tokens + 1, length)]
        mask = tokens.attention_mask[:, kept].bool()
        return states[:, kept] * mask.unsqueeze(-1), mask

    def _check(self, config: Mapping[str, Any]) -> None:
        check_dimension("Gemma 2 encoder", self.name, config["hidden_size"], self._dimension)
