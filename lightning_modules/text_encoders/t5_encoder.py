"""T5: the text encoder of PixArt-alpha and Edgen, and the third one of SD3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.lightning_modules.text_encoders.tokenizer import check_dimension, frozen_text_parts
from evolvedirector.store.paths import folder_or_hub_name


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
        name = folder_or_hub_name(name)
        self.name, self.revision, self.dtype, self.attend_padding = name, revision, dtype, attend_padding
        self._dimension = dimension
        subfolders = (subfolder, tokenizer_subfolder)
        self.frozen, self.tokenizer = frozen_text_parts(
            "T5", "T5EncoderModel", name, revision, dtype, subfolders, self._check
        )

    @property
    def fingerprint(self) -> str:
        """Name repository, revision, precision and whether padding is attended to; of a folder, its weights."""
        padding = "-unmasked" if self.attend_padding else ""
        return f"t5-{self.name}-{self.revision}-{self.dtype}{padding}{self.frozen.component.content_digest()}"

    @property
    def dimension(self) -> int:
        """Dimension of a state."""
        return self._dimension

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the encoder's last states, all texts padded to `max_tokens`."""
        model, tokenizer = self.models()
        tokens = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=max_tokens, return_tensors="pt"
        ).to(self.frozen.device)
        mask = None if self.attend_padding else tokens.attention_mask
        with torch.no_grad(), torch.autocast(self.frozen.device.type, enabled=False):
            states = model(input_ids=tokens.input_ids, attention_mask=mask).last_hidden_state
        return states, torch.ones_like(tokens.attention_mask).bool() if mask is None else mask.bool()

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
        also = ", and the same text_dimension for the network"
        check_dimension("T5 encoder", self.name, config["d_model"], self._dimension, also)
