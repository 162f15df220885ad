"""Images of any unambiguous form become the same picture; the others are refused in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evolvedirector.callbacks._run.image_forms import rgb_image
from evolvedirector.errors import RunError

WANTED = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
FIRST = torch.from_numpy(WANTED).permute(2, 0, 1)
FORMS: dict[str, Any] = {
    "uint8 channels first": FIRST,
    "uint8 channels last": torch.from_numpy(WANTED),
    "array channels first": FIRST.numpy(),
    "array channels last": WANTED,
    "floats": FIRST / 255,
    "floats, channels last": WANTED.astype(np.float64) / 255,
    "with a gradient": (FIRST / 255).requires_grad_(),
    "PIL": Image.fromarray(WANTED),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_unambiguous_form_is_the_same_picture(form: str) -> None:
    assert np.array_equal(np.asarray(rgb_image(FORMS[form])), WANTED)


def test_half_precision_and_grey_are_taken() -> None:
    assert rgb_image(torch.ones(3, 2, 2, dtype=torch.bfloat16)).getpixel((0, 0)) == (255, 255, 255)
    assert rgb_image(Image.new("L", (2, 2), 9)).getpixel((0, 0)) == (9, 9, 9)
    assert rgb_image(FIRST[:, :3, :3]).getpixel((1, 0)) == tuple(FIRST[:, 0, 1].tolist())  # either: channels first


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (FIRST / 127.5 - 1, r"floats from -1 to 0\.9451\. Allowed"),
        (FIRST.float(), "floats from"),
        (torch.full((3, 4, 4), torch.nan), "floats from nan to nan"),
        (FIRST.long(), "image of int64 values"),
        (FIRST[None], r"shape \(1, 3, 5, 7\)"),
        (FIRST[:1], r"shape \(1, 5, 7\)"),
        (torch.zeros(3, 0, 4, dtype=torch.uint8), r"shape \(3, 0, 4\)"),
        (torch.zeros(4, 8, 8, dtype=torch.uint8), r"shape \(4, 8, 8\)"),
        (Image.new("RGBA", (2, 2)), r"mode RGBA.*convert\('RGB'\)"),
        (b"png", "drew a bytes"),
        (None, "drew a NoneType"),
    ],
)
def test_what_could_mean_two_things_is_refused(drawn: Any, said: str) -> None:
    with pytest.raises(RunError, match=said):
        rgb_image(drawn)
