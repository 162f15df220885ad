"""T5: the text encoder of PixArt-alpha and Edgen, and the third one of SD3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.component import Component, needs_revision


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
        attend_padding: padding is attended to and stays part of the states, as SD3 was trained; false masks it.

    Raises:
        UserError: if a repository is named without revision.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        dimension: int = 4096,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        subfolder: str | None = None,
        tokenizer_subfolder: str | None = None,
        attend_padding: bool = False,
    ) -> None:
        needs_revision("T5 encoder", name, revision)
        self.component = Component("the T5 text encoder", name, revision, subfolder)
        self.tokenizer_component = Component(
            "the T5 text encoder", name, revision, tokenizer_subfolder or subfolder, "tokenizer_config.json"
        )
        self.name, self.revision, self.dtype, self.attend_padding = name, revision, dtype, attend_padding
        self._dimension = dimension
        self._device = torch.device("cpu")
        self._model: Any = None
        self._tokenizer: Any = None

    @property
    def fingerprint(self) -> str:
        """Name repository, revision, precision and whether padding is attended to; of a folder, its weights."""
        padding = "-unmasked" if self.attend_padding else ""
        return f"t5-{self.name}-{self.revision}-{self.dtype}{padding}{self.component.content_digest()}"

    @property
    def dimension(self) -> int:
        """Dimension of a state."""
        return self._dimension

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the encoder's last states, all texts padded to `max_tokens`."""
        model, tokenizer = self.models()
        tokens = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=max_tokens, return_tensors="pt"
        ).to(self._device)
        mask = None if self.attend_padding else tokens.attention_mask
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            states = model(input_ids=tokens.input_ids, attention_mask=mask).last_hidden_state
        return states, torch.ones_like(tokens.attention_mask).bool() if mask is None else mask.bool()

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self._device = device
        if self._model is not None:
            self._model.to(device)

    def verify(self) -> None:
        """Check weights, tokenizer and, where its config is here, the dimension.

        Raises:
            ValueError: One of them would not work.
        """
        self.component.verify_weights()
        self.tokenizer_component.verify_tokenizer()
        if (config := self.component.config()) is not None:
            self._check(config["d_model"])

    def estimated_bytes(self) -> int:
        """Return the size of the weights; 0 before they are downloaded."""
        return self.component.weight_bytes(self.dtype)

    def models(self) -> tuple[Any, Any]:
        """Return model and tokenizer, loaded at the first call."""
        if self._model is None:
            from transformers import AutoTokenizer, T5EncoderModel

            with torch.random.fork_rng(devices=[]):
                model: Any = T5EncoderModel.from_pretrained(
                    self.name,
                    revision=self.revision or "main",  # a folder has no revisions; a repository always names one
                    subfolder=self.component.subfolder or "",
                    dtype=getattr(torch, self.dtype),
                    use_safetensors=True,
                )
            self._check(model.config.d_model)
            self._model = model.eval().requires_grad_(False).to(self._device)
            self._tokenizer = AutoTokenizer.from_pretrained(
                self.name, revision=self.revision, subfolder=self.tokenizer_component.subfolder or ""
            )
        return self._model, self._tokenizer

    def _check(self, dimension: int) -> None:
        if dimension != self._dimension:
            raise UserError(
                f"T5 encoder {self.name!r} has dimension {dimension}, but dimension is {self._dimension}. "
                f"Allowed is its own. Write dimension: {dimension}, and the same text_dimension for the network."
            )
