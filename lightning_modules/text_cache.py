"""Text states, encoded once per text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.families.family import Family
from evolvedirector.lightning_modules.text_store import TextStore
from evolvedirector.records import digest
from evolvedirector.records.condition import TextStates, Tokens, join

ENCODE_CHUNK = 16


class TextCache:
    """Keep text states by content: the last ones in memory, those of training texts on disk too.

    Texts are encoded in chunks of fixed size and length, so the states of a text do not depend on which other texts
    were missing at the time. Only real tokens are kept; padding is added when states are read.

    Args:
        family: Makes what is missing.
        max_bytes: Cap of the memory part; the longest unused states leave first.
        store: Where states are also kept across runs and for other processes; None keeps them in memory only.
    """

    def __init__(self, family: Family, max_bytes: int, store: TextStore | None = None) -> None:
        self.store = store
        self._family = family
        self._max_bytes = max_bytes
        self._fingerprint: str | None = None
        self._states: OrderedDict[str, TextStates] = OrderedDict()
        self._bytes = 0

    def get(self, texts: Sequence[str], device: torch.device, keep: bool = True) -> TextStates:
        """Return states on `device`, padded to the longest of the texts; missing texts are encoded there.

        Args:
            texts: Prompts; the empty text is the null condition.
            device: Where the states are wanted.
            keep: Also write what is missing to disk; false for texts that may never come back.
        """
        keys = [self._key(text) for text in texts]
        found = self._found_or_encoded(dict(zip(keys, texts, strict=True)), device, keep)
        return join([found[key] for key in keys]).to(device)

    def fill(self, texts: Sequence[str], device: torch.device) -> int:
        """Encode what is not on disk yet, and return how many texts that were; without a store, none.

        Args:
            texts: Of training.
            device: Where the encoders work.
        """
        if self.store is None or not self.store.writes:
            return 0
        keys = {self._key(text): text for text in texts}
        missing = self.store.missing(keys)
        for start in range(0, len(missing), ENCODE_CHUNK):
            if self.store.writes:
                self._found_or_encoded({key: keys[key] for key in missing[start : start + ENCODE_CHUNK]}, device, True)
        return len(missing)

    def _key(self, text: str) -> str:
        if self._fingerprint is None:  # may read files
            self._fingerprint = self._family.text_fingerprint
        return digest("text states", self._fingerprint, text, length=32)

    def _found_or_encoded(self, text_of: dict[str, str], device: torch.device, keep: bool) -> dict[str, TextStates]:
        found: dict[str, TextStates] = {}
        missing = []
        for key in text_of:
            states = self._states.get(key)
            if states is None and self.store is not None:
                states = self.store.read(key)
            if states is None:
                missing.append(key)
            else:
                found[key] = states
                self._remember(key, states)
        if missing:
            for encoder in self._family.text_encoders.values():
                encoder.to(device)
        for start in range(0, len(missing), ENCODE_CHUNK):
            chunk = missing[start : start + ENCODE_CHUNK]
            texts = [text_of[key] for key in chunk]
            texts += texts[-1:] * (ENCODE_CHUNK - len(chunk))
            states = self._family.encode_text(texts).to(torch.device("cpu"))
            rows = {key: _trimmed(states.select([row])) for row, key in enumerate(chunk)}
            if keep and self.store is not None:
                self.store.write(rows)
            for key, row in rows.items():
                found[key] = row
                self._remember(key, row)
        return found

    def _remember(self, key: str, states: TextStates) -> None:
        if key not in self._states:
            self._bytes += states.nbytes
            self._states[key] = states
        self._states.move_to_end(key)
        while self._bytes > self._max_bytes and len(self._states) > 1:
            self._bytes -= self._states.popitem(last=False)[1].nbytes


def _trimmed(states: TextStates) -> TextStates:
    """Cut the padding behind the one text of these states."""
    tokens = {}
    for name, part in states.tokens.items():
        length = int(part.mask.sum())
        if not part.mask[0, :length].all():
            raise UserError(
                f"The field {name!r} of a text has padding before or between its tokens. Allowed is padding behind "
                "them. Write the encoder so that it pads on the right."
            )
        tokens[name] = Tokens(part.values[:, :length].clone(), part.mask[:, :length].clone())
    return TextStates(tokens, {name: values.clone() for name, values in states.vectors.items()})
