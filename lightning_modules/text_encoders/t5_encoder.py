"""T5: the text encoder of PixArt-alpha and Edgen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor


class T5Encoder:
    """Encode text with the encoder half of a T5 (Raffel et al. 2020, arXiv:1910.10683), loaded through transformers.

    The weights load at the first `encode`; T5 v1.1 XXL takes 9.5 GB in bfloat16.

    Args:
        name: repository name or folder.
        revision: git revision of the repository; None only for a folder.
        dimension: dimension of its states, verified when the weights are loaded; 4096 for T5 v1.1 XXL.
        dtype: precision of its weights.
        subfolder: folder of the text encoder inside the repository, for diffusers pipelines; None for none.
        tokenizer_subfolder: likewise for the tokenizer.

    Raises:
        ValueError: if a repository is named without revision.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        dimension: int = 4096,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        subfolder: str | None = None,
        tokenizer_subfolder: str | None = None,
    ) -> None:
        if revision is None and not Path(name).is_dir():
            raise ValueError(
                f"T5 encoder {name!r} is no folder here and has no revision. A repository needs one, so that a run can "
                f"be repeated. Write revision: <git hash>, or the path of a folder."
            )
        self.name, self.revision, self.dtype = name, revision, dtype
        self._dimension = dimension
        self._subfolder, self._tokenizer_subfolder = subfolder, tokenizer_subfolder
        self._device = torch.device("cpu")
        self._model: Any = None
        self._tokenizer: Any = None

    @property
    def fingerprint(self) -> str:
        """Name repository, revision and precision."""
        return f"t5-{self.name}-{self.revision}-{self.dtype}"

    @property
    def dimension(self) -> int:
        """Dimension of a state."""
        return self._dimension

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the encoder's last states, all texts padded to `max_tokens`."""
        if self._model is None:
            self._load()
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=max_tokens, return_tensors="pt"
        ).to(self._device)
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            states = self._model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return states, tokens.attention_mask.bool()

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self._device = device
        if self._model is not None:
            self._model.to(device)

    def _load(self) -> None:
        from transformers import AutoTokenizer, T5EncoderModel

        with torch.random.fork_rng(devices=[]):
            model = T5EncoderModel.from_pretrained(
                self.name,
                revision=self.revision or "main",  # a folder has no revisions; a repository always names one
                subfolder=self._subfolder or "",
                dtype=getattr(torch, self.dtype),
                use_safetensors=True,
            )
        if model.config.d_model != self._dimension:
            raise ValueError(
                f"T5 encoder {self.name!r} has dimension {model.config.d_model}, but dimension is {self._dimension}. "
                f"Allowed is its own. Write dimension: {model.config.d_model}, and the same text_dimension for the "
                "transformer."
            )
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._tokenizer = AutoTokenizer.from_pretrained(
            self.name, revision=self.revision, subfolder=self._tokenizer_subfolder or self._subfolder or ""
        )
