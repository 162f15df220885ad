"""Embeddings that wait for their revision: whole or not there, of one embedder, and gone afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evolvedirector.store import StoreError
from evolvedirector.store.embeddings import FOLDER, EmbeddingFiles


def arrays(value: float) -> dict[str, np.ndarray]:
    return {"states": np.full((3, 4), value, np.float16), "pooled": np.full(4, value, np.float32)}


def test_a_torn_or_damaged_end_does_not_exist(tmp_path: Path) -> None:
    files = EmbeddingFiles(tmp_path, "clip")
    keys = [files.text_key(f"text {n}") for n in range(3)]
    for number, key in enumerate(keys):
        files.write({key: arrays(number)})
    path = next((tmp_path / FOLDER).glob("*.embeddings"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert EmbeddingFiles(tmp_path, "clip").missing(keys) == keys[2:]
    path.write_bytes(whole[:-3] + b"xyz")  # as a power cut leaves it
    again = EmbeddingFiles(tmp_path, "clip")
    assert again.missing(keys) == keys[2:]
    again.write({keys[2]: arrays(2)})
    assert EmbeddingFiles(tmp_path, "clip").missing(keys) == []
    found = EmbeddingFiles(tmp_path, "clip").read(keys[1])
    assert found is not None and found["states"].dtype == np.float16 and found["pooled"].tolist() == [1] * 4


def test_texts_images_and_embedders_have_names_of_their_own(tmp_path: Path) -> None:
    one, other = EmbeddingFiles(tmp_path, "a"), EmbeddingFiles(tmp_path, "b")
    assert len({one.text_key("x"), one.image_key("x"), other.text_key("x"), other.image_key("x")}) == 4
    one.write({one.text_key("x"): arrays(1)})
    assert other.missing([other.text_key("x")]) and not other.missing([one.text_key("x")])
    other.discard()
    assert not (tmp_path / FOLDER).exists() and one.missing([one.text_key("y")])


def test_no_room_is_an_error_and_not_a_warning_alone(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_bytes(b"in the way")
    files = EmbeddingFiles(tmp_path, "clip")
    with pytest.warns(UserWarning, match="cannot be written"), pytest.raises(StoreError, match="cannot be kept"):
        files.write({files.text_key("x"): arrays(1)})
