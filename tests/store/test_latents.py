"""Latents on disk: exact, keyed by content, size and encoder, whole or not at all, read by worker processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from evolvedirector.store.latents import LatentFiles

MEAN = np.random.default_rng(0).standard_normal((4, 2, 3), dtype=np.float32)


def files(folder: Path, fingerprint: str = "codec", max_bytes: int = 1 << 20, writes: bool = True) -> LatentFiles:
    return LatentFiles(folder, max_bytes, fingerprint, writes)


def test_latents_come_back_to_the_bit(tmp_path: Path) -> None:
    writer = files(tmp_path)
    both, alone = writer.key("a", 16, 24), writer.key("b", 16, 24)
    writer.write({both: (MEAN, MEAN * 0.1), alone: (MEAN, None)})
    found, certain = files(tmp_path, writes=False).read(both), writer.read(alone)
    assert found is not None and certain is not None
    assert np.array_equal(found[0], MEAN) and np.array_equal(found[1], MEAN * np.float32(0.1))  # type: ignore[arg-type]
    assert np.array_equal(certain[0], MEAN) and certain[1] is None


def test_another_encoder_or_size_is_another_latent(tmp_path: Path) -> None:
    writer = files(tmp_path)
    writer.write({writer.key("a", 16, 24): (MEAN, None)})
    others = [writer.key("a", 24, 16), writer.key("b", 16, 24), files(tmp_path, "another").key("a", 16, 24)]
    assert writer.missing([writer.key("a", 16, 24), *others]) == others
    assert all(writer.read(key) is None for key in others)


def test_a_worker_process_reads_what_was_written_after_it_began(tmp_path: Path) -> None:
    writer = files(tmp_path)
    key, later = writer.key("a", 8, 8), writer.key("b", 8, 8)
    writer.write({key: (MEAN, None)})
    assert writer.read(key) is not None
    worker: LatentFiles = pickle.loads(pickle.dumps(writer))
    writer.write({later: (MEAN + 1, None)})
    found = worker.read(later)
    assert found is not None and np.array_equal(found[0], MEAN + 1)
    worker.write({worker.key("c", 8, 8): (MEAN, None)})
    assert len(list(tmp_path.glob("*.latents"))) == 2, "each process appends to a file of its own"


def test_a_folder_that_is_emptied_while_it_is_read_has_no_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = files(tmp_path), files(tmp_path, writes=False)
    key = writer.key("a", 8, 8)
    writer.write({key: (MEAN, None)})
    listed = list(tmp_path.glob("*.latents"))
    monkeypatch.setattr(Path, "glob", lambda *_: iter(listed))
    listed[0].unlink()  # between the list of files and the look into them
    assert reader.read(key) is None and reader.missing([key]) == [key]


def test_a_full_folder_is_told_once_and_still_read(tmp_path: Path) -> None:
    writer = files(tmp_path, max_bytes=300)
    key = writer.key("a", 8, 8)
    writer.write({key: (MEAN, None)})
    with pytest.warns(UserWarning, match=r"Latents that are not in it .* larger latent_cache_gib"):
        writer.write({writer.key("b", 8, 8): (MEAN, None)})
    assert not writer.writes and writer.read(key) is not None


def test_a_folder_that_was_emptied_is_filled_under_other_names(tmp_path: Path) -> None:
    writer = files(tmp_path)
    writer.write({writer.key("a", 8, 8): (MEAN, None)})
    (old,) = tmp_path.glob("*.latents")
    old.unlink()
    writer.write({writer.key("b", 8, 8): (MEAN, None)})
    (new,) = tmp_path.glob("*.latents")
    assert new != old, "who has read the old file before would find other contents at its places"
    assert files(tmp_path).read(writer.key("b", 8, 8)) is not None
