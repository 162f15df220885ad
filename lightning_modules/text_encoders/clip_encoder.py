"""CLIP's text half: token states and one pooled vector, as Stable Diffusion, SDXL and SD3 read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.text_encoders.tokenizer import frozen_text_parts
from evolvedirector.store.paths import folder_or_hub_name


class CLIPEncoder:
    """Encode text with CLIP (Radford et al. 2021, arXiv:2103.00020): states of one of the last layers, and the vector.

    Padding is attended to and stays part of the states, as in the stock pipelines. The weights load at the first call.

    Args:
        name: repository name or folder.
        revision: git revision of the repository; None only for a folder.
        dimension: dimension of its states; 768 for CLIP-L, 1280 for CLIP-G.
        pooled_dimension: dimension of its projected vector; None equals `dimension`.
        dtype: precision of its weights.
        subfolder: folder of the text encoder inside the repository.
        tokenizer_subfolder: likewise for the tokenizer.
        layer: whose states: the last but one (`penultimate`; SDXL, SD3), or the `last` behind its norm (Stable
            Diffusion 1.x and 2.x).
        projected: the weights hold a projection of the vector (SD3, CLIP-G of SDXL); false for those without, whose
            vector is as wide as their states.

    Raises:
        UserError: if a repository is named without revision, or a vector without projection is to have another width.
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
        layer: Literal["penultimate", "last"] = "penultimate",
        projected: bool = True,
    ) -> None:
        name = folder_or_hub_name(name)
        if not projected and pooled_dimension not in (None, dimension):
            raise UserError(
                f"pooled_dimension is {pooled_dimension} and projected false. Without a projection the vector is as "
                f"wide as the states. Leave pooled_dimension out, or write {dimension}."
            )
        self.name, self.revision, self.dtype = name, revision, dtype
        self.dimension, self.pooled_dimension = dimension, pooled_dimension or dimension
        self.layer, self.projected = layer, projected
        class_name = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
        subfolders = (subfolder, tokenizer_subfolder)
        self.frozen, self.tokenizer = frozen_text_parts(
            "CLIP", class_name, name, revision, dtype, subfolders, self._check
        )

    @property
    def fingerprint(self) -> str:
        """Name repository, subfolder, revision, precision, and what is read; of a folder, its weights."""
        read = ("" if self.layer == "penultimate" else f"-{self.layer}") + ("" if self.projected else "-unprojected")
        content = self.frozen.component.content_digest()
        return f"clip-{self.name}-{self.frozen.component.subfolder}-{self.revision}-{self.dtype}{read}{content}"

    def encode_pooled(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the states of the layer, and the vectors."""
        model, tokenizer = self.models()
        tokens = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        with torch.no_grad(), torch.autocast(self.frozen.device.type, enabled=False):
            found = model(tokens.input_ids.to(self.frozen.device), output_hidden_states=True)
        states = found.last_hidden_state if self.layer == "last" else found.hidden_states[-2]
        return states, found.text_embeds if self.projected else found.pooler_output

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.frozen.to(device)

    def verify(self) -> None:
        """Check weights, tokenizer and, where its config is here, the dimensions.

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
        dimension = config["hidden_size"]
        pooled = config["projection_dim"] if self.projected else dimension
        if (dimension, pooled) != (self.dimension, self.pooled_dimension):
            raise UserError(
                f"CLIP encoder {self.name!r} has dimension {dimension} and pooled_dimension {pooled}, but the config "
                f"says {self.dimension} and {self.pooled_dimension}. Allowed are its own. "
                f"Write dimension: {dimension}, pooled_dimension: {pooled}."
            )
