"""How a thing gets its name: equal parts, equal name, on every machine."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_SPACES = re.compile(r"\s+")


def normalise_prompt(text: str) -> str:
    """Return the form under which two prompts count as the same (case, white space, articles, final stop ignored)."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _SPACES.sub(" ", _ARTICLES.sub(" ", folded)).strip(" .\t\n")


def digest(*parts: str | bytes | int, length: int = 16) -> str:
    """Return `length` hex characters naming the given parts; equal parts give equal names on every machine."""
    hasher = hashlib.blake2b(digest_size=32)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(8, "little"))  # length prefix: ("ab", "c") and ("a", "bc") differ
        hasher.update(data)
    return hasher.hexdigest()[:length]


def seed_of(*parts: str | bytes | int) -> int:
    """Return a 63-bit seed named by the given parts: same parts, same draw, whatever happened before."""
    return int(digest(*parts, length=16), 16) >> 1


def prompt_id_of(text: str) -> str:
    """Return the id of a prompt: the digest of its normalised text, so that duplicates share one id."""
    return digest("prompt", normalise_prompt(text))
