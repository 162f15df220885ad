"""Text states on disk: whole or not at all, within their size, for several processes at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evolvedirector.lightning_modules.text_store import TextStore
from evolvedirector.records.condition import TextStates, Tokens

KEYS = [f"{number:032x}" for number in range(200)]


def states(value: float, tokens: int = 3) -> TextStates:
    values = torch.full((1, tokens, 4), value, dtype=torch.bfloat16)
    return TextStates({"text": Tokens(values, torch.ones(1, tokens, dtype=torch.bool))}, {"pooled": torch.ones(1, 2)})


def value_of(found: TextStates | None) -> float | None:
    return None if found is None else float(found.tokens["text"].values[0, 0, 0])


def test_what_was_written_is_read_by_others_and_later(tmp_path: Path) -> None:
    writer, reader = TextStore(tmp_path, 1 << 20), TextStore(tmp_path, 1 << 20, writes=False)
    assert reader.read(KEYS[0]) is None
    writer.write({KEYS[0]: states(1), KEYS[1]: states(2, tokens=1)})
    assert value_of(reader.read(KEYS[0])) == 1 and value_of(reader.read(KEYS[1])) == 2
    found = reader.read(KEYS[1])
    assert found is not None and found.tokens["text"].values.dtype == torch.bfloat16 and found.vectors["pooled"].all()
    writer.write({KEYS[2]: states(3)})  # the file has grown
    assert value_of(reader.read(KEYS[2])) == 3
    reader.write({KEYS[3]: states(4)})
    assert TextStore(tmp_path, 1 << 20).read(KEYS[3]) is None  # it only reads
    assert reader.read(KEYS[4]) is None


def test_a_torn_end_is_never_read_and_hides_nothing(tmp_path: Path) -> None:
    TextStore(tmp_path, 1 << 20).write({KEYS[0]: states(1), KEYS[1]: states(2)})
    file = next(tmp_path.glob("*.states"))
    whole = file.read_bytes()
    half = len(whole) // 2
    for length in range(half, len(whole)):  # killed while it wrote the second entry, at every byte
        file.write_bytes(whole[:length])
        store = TextStore(tmp_path, 1 << 20)
        assert value_of(store.read(KEYS[0])) == 1 and store.read(KEYS[1]) is None
        store.close()
    store.write({KEYS[1]: states(5)})
    assert value_of(TextStore(tmp_path, 1 << 20).read(KEYS[1])) == 5


def test_a_damaged_content_is_written_again(tmp_path: Path) -> None:
    TextStore(tmp_path, 1 << 20).write({KEYS[0]: states(1)})
    file = next(tmp_path.glob("*.states"))
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    store = TextStore(tmp_path, 1 << 20)
    assert store.read(KEYS[0]) is None
    store.write({KEYS[0]: states(2)})
    assert value_of(store.read(KEYS[0])) == 2


def test_it_stops_at_its_size_with_one_warning_and_still_reads(tmp_path: Path) -> None:
    TextStore(tmp_path, 1 << 20).write({KEYS[0]: states(1)})
    size = next(tmp_path.glob("*.states")).stat().st_size
    store = TextStore(tmp_path, 2 * size)
    store.write({KEYS[1]: states(2)})
    with pytest.warns(UserWarning, match="has reached its size") as warned:
        store.write({KEYS[2]: states(3)})
        store.write({KEYS[3]: states(4)})
    assert len(warned) == 1 and sum(path.stat().st_size for path in tmp_path.glob("*.states")) == 2 * size
    assert value_of(store.read(KEYS[0])) == 1 and value_of(store.read(KEYS[1])) == 2 and store.read(KEYS[2]) is None


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = TextStore(tmp_path / "file" / "text", 1 << 20)
    with pytest.warns(UserWarning, match="cannot be written"):
        store.write({KEYS[0]: states(1)})
    store.write({KEYS[0]: states(1)})
    assert store.read(KEYS[0]) is None


def test_an_emptied_folder_is_an_empty_cache(tmp_path: Path) -> None:
    store = TextStore(tmp_path, 1 << 20)
    store.write({KEYS[0]: states(1)})
    assert TextStore(tmp_path, 1 << 20).read(KEYS[0]) is not None
    other = TextStore(tmp_path, 1 << 20)
    other._files._scan()
    for file in tmp_path.glob("*.states"):
        file.unlink()
    assert other.read(KEYS[0]) is None


WRITER = """
import sys
from pathlib import Path
from tests.lightning_modules.test_text_store import KEYS, states, value_of
from evolvedirector.lightning_modules.text_store import TextStore

store = TextStore(Path(sys.argv[1]), 1 << 20)
mine = int(sys.argv[2])
for number, key in enumerate(KEYS):
    found = store.read(key)
    assert found is None or value_of(found) == number, "another process's states are torn"
    if number % 2 == mine or number % 5 == 0:
        store.write({key: states(number)})
"""


@pytest.mark.slow
def test_two_processes_write_at_once(tmp_path: Path) -> None:
    started = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(mine)]) for mine in range(2)]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    store = TextStore(tmp_path, 1 << 20)
    assert [value_of(store.read(key)) for key in KEYS] == list(range(len(KEYS)))
    assert len(list(tmp_path.glob("*.states"))) == 2
