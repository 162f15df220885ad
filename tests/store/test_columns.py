"""Files of columns: what was written is read, and what is damaged is as good as none."""

from __future__ import annotations

import hashlib
import json
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


def crafted(path: Path, header: bytes, data: bytes = bytes(64)) -> None:
    """Write a file with the right checksum, whatever its header says."""
    length = b"%012d" % len(header)
    sha = hashlib.sha256(length + header + data).hexdigest().encode()
    path.write_bytes(sha + b" " + length + b"\n" + header + data)


@pytest.mark.parametrize(
    "arrays",
    [
        [["a", "i4", -1, 8]],
        [["a", "i4", 17, 0]],
        [["a", "i4", 10**30, 0]],
        [["a", "u1", 1, -1]],
        [["a", "i4", True, 0]],
        [["a", "i4", 1, False]],
        [["a", "i4", 1.0, 0]],
        [["a", "O", 1, 0]],
        [["a", ["i4"], 1, 0]],
        [["a", "i4", 1]],
        [[]],
        5,
        None,
    ],
)
def test_a_header_that_nobody_of_ours_wrote_is_as_good_as_no_file(tmp_path: Path, arrays: object) -> None:
    path = tmp_path / "a.columns"
    crafted(path, json.dumps({"about": {}, "arrays": [["a", "i4", 16, 0]]}).encode())
    assert is_whole(path)
    crafted(path, json.dumps({"about": {}, "arrays": arrays}).encode())
    assert read_columns(path) is None


@pytest.mark.parametrize(
    "header", [b"", b"[]", b"{}", b'{"about": 3, "arrays": []}', b"\xff", b"[" * 100_000], ids=range(6)
)
def test_a_header_that_is_no_header_is_as_good_as_no_file(tmp_path: Path, header: bytes) -> None:
    crafted(tmp_path / "a.columns", header)
    assert not is_whole(tmp_path / "a.columns")


def test_texts_and_an_index_of_other_numbers_are_refused() -> None:
    arrays = column(["a", "bc"])
    for change in ({"word.ends": np.array([1, 3], np.uint64)}, {"word.text": np.zeros(3, np.int32)}):
        with pytest.raises(ValueError, match="numbers of another kind"):
            strings_of(arrays | change, "word", 2)
    index = index_arrays("word", ["a", "bc"])
    for change in ({"word.hashes": np.array([1, 3], np.int64)}, {"word.rows": np.array([0, 1], np.uint8)}):
        with pytest.raises(ValueError, match="numbers of another kind"):
            index_of(index | change, "word", strings_of(arrays, "word", 2))


def test_a_text_that_is_too_long_is_refused() -> None:
    assert len(strings_of(column(["abc", "", "ab"]), "word", 3, 3)) == 3
    for texts in (["abcd", ""], ["a", "abcd"]):
        with pytest.raises(ValueError, match="more than 3 bytes"):
            strings_of(column(texts), "word", 2, 3)


def test_texts_and_an_index_that_do_not_fit_are_refused() -> None:
    arrays = column(["a", "bc"])
    for ends in ([1], [2, 1], [-1, 3], [1, 4], [1, 2]):
        with pytest.raises(ValueError, match="do not end where they should"):
            strings_of({**arrays, "word.ends": np.array(ends, np.int64)}, "word", 2)
    index = index_arrays("word", ["a", "bc"])
    for rows in ([0], [0, 2], [-1, 0]):
        with pytest.raises(ValueError, match="of other keys"):
            index_of({**index, "word.rows": np.array(rows, np.int32)}, "word", strings_of(arrays, "word", 2))
