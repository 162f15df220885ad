"""Small pictures inside the page: each once, as a data URL, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

from PIL import Image

from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import decode_image

SIDE_PX = 96
MAX_BYTES = 12 * 2**20
"""Of all data URLs in one page together."""
LOSSLESS_PX = 64
"""Up to this side a lossless picture is smaller than a blurred one, and its pixels stay what they are."""


class Thumbnails:
    """Collect the pictures of a page.

    They are decoded and encoded again: nothing that a file carries beside its pixels reaches the page.

    Args:
        max_bytes: Budget of the page; pictures beyond it are left out and counted.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.left_out = 0
        self.damaged = 0
        self._used: dict[str, str] = {}
        self._bytes = 0
        self._encoded: dict[str, str | None] = {}  # survives `start`, so that a page built again costs little

    def start(self) -> None:
        """Begin another page; what was encoded before is remembered."""
        if len(self._encoded) > 4 * (len(self._used) + 1000):
            self._encoded.clear()
        self._used, self._bytes, self.left_out, self.damaged = {}, 0, 0, 0

    def add(self, key: str, read: Callable[[], bytes]) -> str | None:
        """Take a picture into the page; returns its key there, or None where it cannot be shown.

        Args:
            key: Names its content.
            read: Returns the encoded image; called when it is not known yet.
        """
        name = key[:16]
        if name in self._used:
            return name
        if self._bytes >= self.max_bytes:
            self.left_out += 1
            return None
        if name not in self._encoded:
            self._encoded[name] = _data_url(read)
        url = self._encoded[name]
        if url is None:
            self.damaged += 1
            return None
        if self._bytes + len(url) > self.max_bytes:
            self.left_out += 1
            return None
        self._used[name] = url
        self._bytes += len(url)
        return name

    def urls(self) -> dict[str, str]:
        """Return the data URLs of this page by key."""
        return self._used


def _data_url(read: Callable[[], bytes]) -> str | None:
    try:
        picture = Image.fromarray(decode_image(read()))
    except (StoreError, OSError, ValueError):
        return None  # lost or damaged: the page says how many
    picture.thumbnail((SIDE_PX, SIDE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=max(picture.size) <= LOSSLESS_PX, quality=80, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
