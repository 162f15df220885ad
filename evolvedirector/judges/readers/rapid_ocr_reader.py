"""Reads text in images with a small local model; needs the extra `ocr`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import decode_image

_LEAST_SIDE_PX = 512
_MOST_ENLARGED = 4
"""Letters of a 64 px image are found once it is enlarged four times, hardly any before."""


class RapidOCRReader:
    """Read text with the PP-OCR models that come with `rapidocr-onnxruntime` (15 MB, no download, CPU, Apache-2.0).

    Install it by `pip install 'evolvedirector[ocr]'` (Python below 3.13). It takes 0.5 to 2 s an image on one core.

    Args:
        min_confidence: Lines read with less confidence are left out, 0 to 1.

    Raises:
        UserError: A confidence outside of 0 to 1.
    """

    def __init__(self, min_confidence: float = 0.5) -> None:
        if not 0.0 <= min_confidence <= 1.0:
            raise UserError(f"min_confidence is {min_confidence}. Allowed: 0 to 1. Write `min_confidence: 0.5`.")
        self.min_confidence = min_confidence
        self._model: Any = None

    @property
    def fingerprint(self) -> str:
        """Name the models and the confidence."""
        return f"rapidocr-1/{self.min_confidence}"

    def read(self, images: Sequence[bytes]) -> Iterator[tuple[str, ...]]:
        """Yield, per encoded image in order, the lines found in it; none for an image that cannot be decoded.

        Args:
            images: PNG, JPEG or WebP bytes.

        Raises:
            ValueError: The extra is not installed.
        """
        for image in images:
            try:
                pixels = _enlarged(decode_image(image))
            except StoreError:  # the judge will say so too
                yield ()
                continue
            found, _ = self._loaded()(pixels)
            yield tuple(str(text) for _, text, confidence in found or () if float(confidence) >= self.min_confidence)

    def verify(self) -> None:
        """Check that the extra is installed.

        Raises:
            UserError: It is not.
        """
        if importlib.util.find_spec("rapidocr_onnxruntime") is None:
            raise UserError(
                "RapidOCRReader needs the package rapidocr-onnxruntime, which is not installed. Allowed: Python below "
                "3.13 with the extra `ocr`. Write `pip install 'evolvedirector[ocr]'`, or leave the OCRGate out."
            )

    def close(self) -> None:
        """Free the memory of the models."""
        self._model = None

    def _loaded(self) -> Any:
        if self._model is None:
            self.verify()
            from rapidocr_onnxruntime import RapidOCR

            self._model = RapidOCR()
        return self._model


def _enlarged(pixels: Any) -> Any:
    """Enlarge a small picture: RGB [h, w, 3] in, BGR out, as the models were trained."""
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(pixels)
    times = min(_MOST_ENLARGED, max(1, round(_LEAST_SIDE_PX / min(picture.size))))
    if times > 1:
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])
