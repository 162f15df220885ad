"""Files of columns: what was written is read, and what is damaged is as good as none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.store.columns import (
    Columns,
    StringsBuilder,
    index_arrays,
    index_of,
    is_whole,
    read_columns,
    strings_of,
    write_columns,
)

TEXTS = st.lists(st.text(st.characters(), max_size=12), max_size=20)  # lone surrogates, too: JSON may hold them


def column(texts: list[str]) -> dict[str, np.ndarray]:
    builder = StringsBuilder()
    for text in texts:
        builder.add(text)
    return builder.arrays("word")


@given(TEXTS)
def test_texts_come_back_one_by_one_and_in_blocks(texts: list[str]) -> None:
    strings = strings_of(column(texts), "word", len(texts))
    assert [strings[n] for n in range(len(texts))] == texts == strings.block(0, len(texts))
    for start in range(len(texts)):
        assert strings.block(start, len(texts)) == texts[start:]
    rows = np.flatnonzero([n % 2 == 0 and "\0" not in text for n, text in enumerate(texts)])
    assert [bytes(key) for key in strings.ascii_rows(rows)] == [
        texts[row].encode("utf-8", "surrogatepass") for row in rows
    ]


@settings(max_examples=40)
@given(st.lists(st.text(max_size=6), unique=True, max_size=20), st.text(max_size=6))
def test_a_key_is_found_where_it_lies(keys: list[str], other: str) -> None:
    strings = strings_of(column(keys), "word", len(keys))
    index = index_of(index_arrays("word", keys), "word", strings)
    assert [index.row_of(key) for key in keys] == list(range(len(keys)))
    assert index.row_of(other) == (keys.index(other) if other in keys else None)
    assert index.row_of(5) is None


def test_keys_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolvedirector.store.columns._hash_of", lambda key: 7)
    index = index_of(index_arrays("word", ["a", "b", "c"]), "word", strings_of(column(["a", "b", "c"]), "word", 3))
    assert [index.row_of(key) for key in "cabd"] == [2, 0, 1, None]


def written(path: Path) -> Columns:
    arrays = {"a": np.arange(5, dtype=np.int32), "b": np.array([2**63], np.uint64), "c": np.empty(0, np.int64)}
    columns = Columns({"name": "ü", "n": [1, None]}, {**arrays, **column(["x", "yz"])})
    write_columns(path, columns)
    return columns


def test_what_was_written_is_mapped(tmp_path: Path) -> None:
    columns = written(tmp_path / "a.columns")
    found = read_columns(tmp_path / "a.columns")
    assert found is not None and found.about == columns.about and found.arrays.keys() == columns.arrays.keys()
    for name, values in columns.arrays.items():
        assert found.arrays[name].dtype == values.dtype and found.arrays[name].tolist() == values.tolist()
        assert not values.size or isinstance(_owner(found.arrays[name]), np.memmap)


def _owner(values: np.ndarray) -> object:
    while isinstance(values.base, np.ndarray) and not isinstance(values, np.memmap):
        values = values.base
    return values


def test_every_cut_and_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.columns"
    written(path)
    whole = path.read_bytes()
    assert is_whole(path) and len(whole) < 2000
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert not is_whole(path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not is_whole(path)
    path.write_bytes(whole + b"\0")
    assert not is_whole(path)


def test_texts_and_an_index_that_do_not_fit_are_refused() -> None:
    arrays = column(["a", "bc"])
    for ends in ([1], [2, 1], [-1, 3], [1, 4], [1, 2]):
        with pytest.raises(ValueError, match="do not end where they should"):
            strings_of({**arrays, "word.ends": np.array(ends, np.int64)}, "word", 2)
    index = index_arrays("word", ["a", "bc"])
    for rows in ([0], [0, 2], [-1, 0]):
        with pytest.raises(ValueError, match="of other keys"):
            index_of({**index, "word.rows": np.array(rows, np.int32)}, "word", strings_of(arrays, "word", 2))
