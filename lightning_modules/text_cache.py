"""Text states, encoded once per text."""

from __future__ import annotations

import os
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evolvedirector.lightning_modules.text_encoders.text_encoder import TextEncoder
from evolvedirector.records import digest

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

ENCODE_CHUNK = 16


class TextCache:
    """Keep text states by content (encoder, text, length), in memory and optionally in a folder of safetensors files.

    Texts are encoded in chunks of fixed size and length, so the states of a text do not depend on which other texts
    were missing at the time. Only real tokens are kept; padding is added when states are read.

    Args:
        encoder: makes what is missing.
        text_length: tokens per text; longer texts are cut.
        max_bytes: cap of the memory part; the longest unused states leave first.
        folder: where states are also kept across runs; None keeps them in memory only.
    """

    def __init__(
        self, encoder: TextEncoder, text_length: int, max_bytes: int = 1 << 30, folder: Path | None = None
    ) -> None:
        self.encoder = encoder
        self.text_length = text_length
        self._max_bytes = max_bytes
        self._folder = folder
        self._states: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0

    def get(
        self, texts: Sequence[str], device: torch.device
    ) -> tuple[Float[Tensor, "text token dimension"], Bool[Tensor, "text token"]]:
        """Return padded states and their mask on `device`; missing texts are encoded there.

        Args:
            texts: prompts; the empty text is the null condition.
            device: where the states are wanted.
        """
        keys = [digest("text states", self.encoder.fingerprint, self.text_length, text, length=32) for text in texts]
        found = self._found_or_encoded(dict(zip(keys, texts, strict=True)), device)
        states = next(iter(found.values())).new_zeros(len(texts), self.text_length, self.encoder.dimension)
        mask = torch.zeros(len(texts), self.text_length, dtype=torch.bool)
        for row, key in enumerate(keys):
            length = len(found[key])
            states[row, :length] = found[key]
            mask[row, :length] = True
        return states.to(device, non_blocking=True), mask.to(device, non_blocking=True)

    def _found_or_encoded(self, text_of: dict[str, str], device: torch.device) -> dict[str, Tensor]:
        found = {}
        missing = []
        for key in text_of:
            states = self._states.get(key)
            if states is None:
                states = self._read(key)
            if states is None:
                missing.append(key)
            else:
                found[key] = states
                self._remember(key, states)
        if missing:
            self.encoder.to(device)
        for start in range(0, len(missing), ENCODE_CHUNK):
            chunk = missing[start : start + ENCODE_CHUNK]
            texts = [text_of[key] for key in chunk]
            texts += texts[-1:] * (ENCODE_CHUNK - len(chunk))
            states, mask = (part.cpu() for part in self.encoder.encode(texts, self.text_length))
            for row, key in enumerate(chunk):
                found[key] = states[row, : int(mask[row].sum())].clone()
                self._write(key, found[key])
                self._remember(key, found[key])
        return found

    def _remember(self, key: str, states: Tensor) -> None:
        if key not in self._states:
            self._bytes += states.nbytes
            self._states[key] = states
        self._states.move_to_end(key)
        while self._bytes > self._max_bytes and len(self._states) > 1:
            self._bytes -= self._states.popitem(last=False)[1].nbytes

    def _path(self, key: str) -> Path | None:
        return self._folder and self._folder / key[:2] / f"{key}.safetensors"

    def _read(self, key: str) -> Tensor | None:
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            states = load_file(path).get("states")
        except (SafetensorError, OSError):  # a torn or foreign file: encode again, and replace it
            return None
        if states is None or states.ndim != 2 or states.shape[1] != self.encoder.dimension:
            return None
        return states if len(states) <= self.text_length else None

    def _write(self, key: str, states: Tensor) -> None:
        path = self._path(key)
        if path is None:
            return
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex}")  # several ranks may write the same text
        save_file({"states": states}, part)
        os.replace(part, path)
