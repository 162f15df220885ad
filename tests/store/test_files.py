"""Seven kinds of files enter, whole and as they say they are; nothing they bring is executed."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from evolvedirector.records import FileRef
from evolvedirector.store import Blobs, StoreError
from evolvedirector.store.files import MAX_FILE_BYTES, checked_file, checked_ref, decode_file, is_mask
from evolvedirector.store.images import fit_square
from tests.store.sample_files import mask, npy, picture


@pytest.mark.parametrize(
    ("content", "extension", "size"),
    [
        (picture(3, (5, 7)), "png", (5, 7)),
        (picture(3, (5, 7), kind="JPEG"), "jpeg", (5, 7)),
        (picture(3, (5, 7), kind="WEBP"), "webp", (5, 7)),
        (npy([[1, 2]]), "npy", (0, 0)),
        (save({"states": torch.ones(2, 3, dtype=torch.bfloat16)}), "safetensors", (0, 0)),
        (b'{"a": 1}', "json", (0, 0)),
        ("Zürich".encode(), "txt", (0, 0)),
    ],
)
def test_what_is_allowed_is_named_and_decoded(content: bytes, extension: str, size: tuple[int, int]) -> None:
    file = checked_file(content, extension)
    assert (file.width_px, file.height_px) == size and file.size_bytes == len(content)
    assert checked_ref(FileRef.of(content, file.media_type)) == file
    assert decode_file(content, extension.replace("jpeg", "jpg"), "source") is not None


def test_decoded_values() -> None:
    assert decode_file(npy([[1, 2]], "int16"), "npy", "x").tolist() == [[1, 2]]
    assert decode_file(save({"a": torch.ones(2, dtype=torch.bfloat16)}), "safetensors", "x")["a"].tolist() == [1, 1]
    assert decode_file(b'{"a": [1]}', "json", "x") == {"a": [1]}
    assert decode_file("Zürich".encode(), "txt", "x") == "Zürich"
    assert decode_file(picture(9, mode="L"), "png", "mask").tolist() == np.full((8, 8, 1), 9).tolist()
    assert decode_file(picture(9, mode="L"), "png", "source").shape == (8, 8, 3)
    assert [is_mask(role) for role in ("mask", "mask_2", "subject_mask", "masked_source", "source")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_mask_is_scaled_without_new_values() -> None:
    pixels = np.zeros((9, 5, 1), np.uint8)
    pixels[:, 2:] = 255
    scaled = fit_square(pixels, 16)
    assert scaled.shape == (16, 16, 1) and set(np.unique(scaled)) == {0, 255}


class Bomb:
    def __reduce__(self) -> tuple:
        return (print, ("executed",))


def pickled_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], object), allow_pickle=True)
    return buffer.getvalue()


def claimed_array(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + b"\0" * 16


@pytest.mark.parametrize(
    ("content", "extension", "reason"),
    [
        (pickled_array(), "npy", "cannot be used"),
        (pickle.dumps(Bomb()), "npy", "cannot be used"),
        (claimed_array((10**9, 10**9)), "npy", "cannot be used"),
        (claimed_array((-1, -4)), "npy", "cannot be used"),
        (npy([1, 2, 3])[:-1], "npy", "cannot be used"),
        (npy([1, 2, 3]).replace(b"(3,), }", b"(((((((", 1), "npy", "cannot be used"),
        (npy([1, 2, 3]) + b"x", "npy", "cannot be used"),
        (npy(["text"], "U4"), "npy", "cannot be used"),
        (b"", "npy", "cannot be used"),
        (b"\xff" * 8 + b"{}", "safetensors", "cannot be used"),
        (pickle.dumps(Bomb()), "safetensors", "cannot be used"),
        (b"[" * 100_000, "json", "cannot be read"),
        (b"\xff\xfe", "txt", "not UTF-8"),
        (picture(1, kind="JPEG"), "png", "should be png is jpg"),
        (picture(1)[:-35], "png", "cannot be decoded"),
        (b"<svg/>", "png", "no image"),
        (b"cos\nsystem\n(S'false'\ntR.", "pkl", "are not kept"),
        (b"\0" * (MAX_FILE_BYTES + 1), "npy", "too large"),
    ],
    ids=range(18),
)
def test_what_is_refused(content: bytes, extension: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StoreError, match=reason):
        checked_file(content, extension)
    assert capsys.readouterr().out == ""


def test_a_file_that_is_not_what_it_says_is_refused() -> None:
    good = mask(1)
    for wrong, reason in (
        (FileRef(good.sha256, good.size_bytes, good.media_type), "without its content"),
        (FileRef("0" * 64, good.size_bytes, good.media_type, content=good.content), "another one than its name"),
        (FileRef(good.sha256, 1, good.media_type, content=good.content), "another one than its name"),
        (FileRef.of(b"x", "application/x-python"), "are not kept"),
    ):
        with pytest.raises(StoreError, match=reason):
            checked_ref(wrong)


def test_blobs_keep_files_and_name_them_without_content(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    array, text = checked_file(npy([1]), "npy"), checked_file(b"a caption", "txt")
    refs = blobs.put_files([mask(4), array, text])
    assert [ref.content for ref in refs] == [None] * 3 and refs == [mask(4), array, text]
    assert (refs[0].width_px, refs[0].height_px) == (8, 8)
    assert blobs.get(refs[1].sha256) == array.content
    assert blobs.path(refs[2].sha256).suffix == ".txt"
    claimed_larger = FileRef.of(picture(5), "image/png", 999, 999)
    assert (blobs.put_files([claimed_larger])[0].width_px) == 8
    with pytest.raises(StoreError, match="cannot be used"):
        blobs.put_files([checked_file(b"kept?", "txt"), FileRef.of(b"no array", "application/x-npy")])
    assert not blobs.has(FileRef.of(b"kept?", "text/plain").sha256)
    assert blobs.put_files([]) == []


def test_an_image_with_a_palette_is_a_mask_too() -> None:
    buffer = io.BytesIO()
    Image.new("P", (2, 2), 0).save(buffer, "PNG")
    assert decode_file(buffer.getvalue(), "png", "mask").shape == (2, 2, 1)
    assert json.loads(b"1") == decode_file(b"1", "json", "about")
