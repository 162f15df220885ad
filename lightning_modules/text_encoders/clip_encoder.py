"""CLIP's text half: token states and one pooled vector, as SD3 and SDXL read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.component import Component, needs_revision


class CLIPEncoder:
    """Encode text with CLIP (Radford et al. 2021, arXiv:2103.00020): states of the last layer but one, and the vector.

    Padding is attended to and stays part of the states, as in the stock pipelines. The weights load at the first call.

    Args:
        name: repository name or folder.
        revision: git revision of the repository; None only for a folder.
        dimension: dimension of its states; 768 for CLIP-L, 1280 for CLIP-G.
        pooled_dimension: dimension of its projected vector; None equals `dimension`.
        dtype: precision of its weights.
        subfolder: folder of the text encoder inside the repository.
        tokenizer_subfolder: likewise for the tokenizer.

    Raises:
        UserError: if a repository is named without revision.
    """

    max_tokens = 77

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        dimension: int = 768,
        pooled_dimension: int | None = None,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        subfolder: str | None = None,
        tokenizer_subfolder: str | None = None,
    ) -> None:
        needs_revision("CLIP encoder", name, revision)
        self.component = Component("the CLIP text encoder", name, revision, subfolder)
        self.tokenizer_component = Component(
            "the CLIP text encoder", name, revision, tokenizer_subfolder or subfolder, "tokenizer_config.json"
        )
        self.name, self.revision, self.dtype = name, revision, dtype
        self.dimension, self.pooled_dimension = dimension, pooled_dimension or dimension
        self._device = torch.device("cpu")
        self._model: Any = None
        self._tokenizer: Any = None

    @property
    def fingerprint(self) -> str:
        """Name repository, subfolder, revision and precision; of a folder, its weights."""
        return (
            f"clip-{self.name}-{self.component.subfolder}-{self.revision}-{self.dtype}{self.component.content_digest()}"
        )

    def encode_pooled(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the states of the last layer but one, and the projected vectors."""
        model, tokenizer = self.models()
        tokens = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            found = model(tokens.input_ids.to(self._device), output_hidden_states=True)
        return found.hidden_states[-2], found.text_embeds

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self._device = device
        if self._model is not None:
            self._model.to(device)

    def verify(self) -> None:
        """Check weights, tokenizer and, where its config is here, the dimensions.

        Raises:
            ValueError: One of them would not work.
        """
        self.component.verify_weights()
        self.tokenizer_component.verify_tokenizer()
        if (config := self.component.config()) is not None:
            self._check(config["hidden_size"], config["projection_dim"])

    def estimated_bytes(self) -> int:
        """Return the size of the weights; 0 before they are downloaded."""
        return self.component.weight_bytes(self.dtype)

    def models(self) -> tuple[Any, Any]:
        """Return model and tokenizer, loaded at the first call."""
        if self._model is None:
            from transformers import AutoTokenizer, CLIPTextModelWithProjection

            with torch.random.fork_rng(devices=[]):
                model: Any = CLIPTextModelWithProjection.from_pretrained(
                    self.name,
                    revision=self.revision or "main",  # a folder has no revisions; a repository always names one
                    subfolder=self.component.subfolder or "",
                    dtype=getattr(torch, self.dtype),
                    use_safetensors=True,
                )
            self._check(model.config.hidden_size, model.config.projection_dim)
            self._model = model.eval().requires_grad_(False).to(self._device)
            self._tokenizer = AutoTokenizer.from_pretrained(
                self.name, revision=self.revision, subfolder=self.tokenizer_component.subfolder or ""
            )
        return self._model, self._tokenizer

    def _check(self, dimension: int, pooled: int) -> None:
        if (dimension, pooled) != (self.dimension, self.pooled_dimension):
            raise UserError(
                f"CLIP encoder {self.name!r} has dimension {dimension} and pooled_dimension {pooled}, but the config "
                f"says {self.dimension} and {self.pooled_dimension}. Allowed are its own. "
                f"Write dimension: {dimension}, pooled_dimension: {pooled}."
            )
