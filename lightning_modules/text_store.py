"""Text states on disk: found by content, memory-mapped, shared by several processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors.torch import load, save

from evolvedirector.records.condition import TextStates, Tokens
from evolvedirector.store.keyed_files import KeyedFiles


class TextStore:
    """Keep text states by key in a folder, up to a size; at its size it stops writing, and still reads.

    Args:
        folder: Made at the first write.
        max_bytes: Size of all files together; no process writes past it.
        writes: False reads what is there, and no more.
    """

    def __init__(self, folder: Path, max_bytes: int, writes: bool = True) -> None:
        self._files = KeyedFiles(folder, max_bytes, "Text states", "text_cache_gib", ".states", writes)

    @property
    def writes(self) -> bool:
        """Whether there is still room, as far as this process knows."""
        return self._files.writes

    def missing(self, keys: Iterable[str]) -> list[str]:
        """List the keys whose states are not there.

        Args:
            keys: 32 hex characters each.
        """
        return self._files.missing(keys)

    def read(self, key: str) -> TextStates | None:
        """Return the states of a key; None where no process has written them whole.

        Args:
            key: 32 hex characters.
        """
        content = self._files.read(key)
        return None if content is None else _unpacked(content)

    def write(self, states: Mapping[str, TextStates]) -> None:
        """Append states, all or none of them.

        Args:
            states: One row by key.
        """
        if self._files.writes:
            self._files.write({key: _packed(row) for key, row in states.items()})

    def close(self) -> None:
        """Unmap the files; the next read maps them again."""
        self._files.close()


def _packed(states: TextStates) -> bytes:
    tensors = {f"mask/{field}": part.mask.contiguous() for field, part in states.tokens.items()}
    tensors |= {f"tokens/{field}": part.values.contiguous() for field, part in states.tokens.items()}
    tensors |= {f"vectors/{field}": part.contiguous() for field, part in states.vectors.items()}
    return save(tensors)


def _unpacked(content: bytes) -> TextStates:
    tensors = load(content)
    fields = {kind: {} for kind in ("mask", "tokens", "vectors")}  # type: ignore[var-annotated]
    for name, tensor in tensors.items():
        kind, field = name.split("/", 1)
        fields[kind][field] = tensor
    tokens = {field: Tokens(values, fields["mask"][field]) for field, values in fields["tokens"].items()}
    return TextStates(tokens, fields["vectors"])
