"""Files for tests about roles: pictures, masks and arrays of a number."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from evolvedirector.records import FileRef, Prompt, Sample
from evolvedirector.store import Blobs
from evolvedirector.store.files import checked_file


def picture(number: int, size: tuple[int, int] = (8, 8), mode: str = "RGB", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    colour = number if mode == "L" else (number, 255 - number, 1)
    Image.new(mode, size, colour).save(buffer, kind)
    return buffer.getvalue()


def npy(values: object, dtype: str = "float32") -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, dtype), allow_pickle=False)
    return buffer.getvalue()


def mask(number: int) -> FileRef:
    return checked_file(picture(number, mode="L"), "png")


def embedding(number: int, width: int = 4) -> FileRef:
    return checked_file(npy([number] * width), "npy")


def thing(number: int) -> Prompt:
    return Prompt.create(f"thing {number}", skill=f"skill{number % 2}")


def kept(
    blobs: Blobs, number: int, tint: int = 0, variant: str = "", files: dict[str, FileRef] | None = None
) -> Sample:
    """Make the sample of a numbered prompt, with all its files in the blobs."""
    image = blobs.put(picture(number + tint))
    refs = dict(zip(files or {}, blobs.put_files(list((files or {}).values())), strict=True))
    return Sample.create(thing(number), image, "toy", refs, variant)
