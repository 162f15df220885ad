"""A revision in columns is the revision of its deltas, whatever happened in it."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.records.layered import Layered
from evolvedirector.records.split import Split
from evolvedirector.records.subset import Subset
from evolvedirector.store import DatasetStore, RevisionFiles, RevisionReader, StoreError
from evolvedirector.store.codec import canonical_json, prompt_to_json
from evolvedirector.store.columnar import ColumnarEntries
from evolvedirector.store.columns import Columns, read_columns, write_columns
from evolvedirector.store.delta import sample_to_json, shard_to_json
from evolvedirector.store.files import checked_file
from tests.store.sample_files import npy
from tests.store.test_dataset import png

BUCKETS = ((8, 8), (16, 8))


def changes(store: DatasetStore, rounds: int, seed: int) -> list[RevisionChange]:
    """Make rounds that add, replace, vary, master, retire, revive and weigh."""
    draw = random.Random(seed)
    prompts: list[Prompt] = []
    sampled: dict[str, Sample] = {}
    found = []
    for number in range(rounds):
        new = [
            Prompt.create(f"thing {number}.{n} ä", "expansion", f"skill{n % 3}", draw.choice([None, *prompts]))
            for n in range(draw.randint(0 if number else 2, 4))
        ]
        prompts += new
        samples = []
        for prompt in {p.id: p for p in (*new[1:], *draw.sample(prompts, min(2, len(prompts))))}.values():
            variant = draw.choice(["", "second"]) if prompt.id in sampled else ""
            sha256 = store.blobs.put(png(draw.randint(0, 9999), draw.choice([8, 16])))
            has_box = draw.random() < 0.3
            files = {"box": store.blobs.put_files([checked_file(npy([number]), "npy")])[0]} if has_box else {}
            samples.append(Sample.create(prompt, sha256, draw.choice(["one", "two"]), files, variant))
            sampled.setdefault(prompt.id, samples[-1])
        touched = draw.sample(sorted(sampled), min(2, len(sampled)))
        states: dict[str, Any] = {key: draw.choice(["mastered", "retired", "live"]) for key in touched}
        weights = {"skill0": draw.random(), "skill2": 1.0} if draw.random() < 0.4 else None
        found.append(RevisionChange(tuple(samples), tuple(new), states, weights, draw.choice([None, 0.25])))
    return found


def columnar_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold every revision that has a snapshot as columns, however small it is."""
    monkeypatch.setattr("evolvedirector.store.columnar.MAX_OBJECTS", -1)


def published(root: Path, rounds: int, seed: int, sample_weights: bool = False) -> list[str]:
    shas: list[str] = []
    with DatasetStore(root, create=True) as store:
        for number, change in enumerate(changes(store, rounds, seed)):
            shas.append(store.publish(shas[-1] if shas else None, f"r{number}", change))
        if sample_weights:
            keys = [sample.key for entry in store.state(shas[-1]).entries.values() for sample in entry.samples]
            weights = {key: 1.0 + n for n, key in enumerate(keys)}
            shas.append(store.publish(shas[-1], "weights", RevisionChange(sample_weights=weights)))
    return shas


def rows_of(reader: RevisionReader) -> dict[str, Any]:
    """Return all that a reader knows of its rows, and what order it draws them in."""
    order = reader.order(3, 4)
    return {
        "keys": reader.keys.tolist(),
        "strata": reader.strata,
        "numbers": reader.stratum_of_row.tolist(),
        "sizes": [reader.image_px(row) for row in range(len(reader))],
        "box": reader.having("box").tolist(),
        "raw": [reader.raw(row, verify=True) for row in range(len(reader))],
        "weights": None if reader.weight_of_row is None else reader.weight_of_row.tolist(),
        "order": [order.global_batch(batch).tolist() for batch in range(20)],
    }


@pytest.mark.parametrize("seed", range(4))
def test_columns_say_what_the_deltas_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    shas = published(tmp_path, 9, seed, sample_weights=seed % 2 == 0)
    files = RevisionFiles(tmp_path)
    plain = {sha: files.load(sha) for sha in shas}
    views: list[dict[str, Any]] = [
        {"optional_roles": ["box"]},
        {"optional_roles": ["box"], "buckets": BUCKETS},
        {"optional_roles": ["box"], "subset": Subset(["skill1", "skill0"], [""])},
        {"optional_roles": ["box"], "split": Split(0.5, 1, False)},
    ]
    rows = {sha: [rows_of(RevisionReader(tmp_path, sha, **view)) for view in views] for sha in shas[2:]}
    columnar_from_here(monkeypatch)
    for snapshot in (shas[2], shas[5]):
        files.write_snapshot(snapshot, plain[snapshot])
    for number, sha in enumerate(shas[2:]):
        found = files.load(sha)
        assert isinstance(found.state.entries, ColumnarEntries if number in (0, 3) else Layered)
        assert found == plain[sha] and found.places == plain[sha].places
        assert list(found.state.entries.items()) == list(plain[sha].state.entries.items())
        assert list(found.state.entries) == list(plain[sha].state.entries)
        for view, expected in zip(views, rows[sha], strict=True):
            drawn = rows_of(RevisionReader(tmp_path, sha, **view))
            assert {name for name in drawn if drawn[name] != expected[name]} == set()


def test_publishing_on_columns_writes_the_bytes_that_publishing_on_objects_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_objects = published(tmp_path / "objects", 8, 11, sample_weights=True)
    columnar_from_here(monkeypatch)
    monkeypatch.setattr("evolvedirector.store.revision.SNAPSHOT_EVERY", 3)
    assert published(tmp_path / "columns", 8, 11, sample_weights=True) == as_objects
    assert len(list((tmp_path / "columns" / "revisions").glob("*.columns"))) > 2


def test_a_revision_built_on_columns_makes_no_entry_that_it_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = published(tmp_path, 6, 2)[-1]
    files = RevisionFiles(tmp_path)
    files.write_snapshot(sha, files.load(sha))
    columnar_from_here(monkeypatch)
    with DatasetStore(tmp_path) as store:
        state = store.state(sha)
        first, second = list(state.entries)[:2]
        made: list[tuple[int, int]] = []
        of_all = type(state.entries.table).entries  # type: ignore[attr-defined]
        monkeypatch.setattr(
            "evolvedirector.store.columnar.SnapshotTable.entries",
            lambda self, start, stop: made.append((start, stop)) or of_all(self, start, stop),
        )
        monkeypatch.setattr("evolvedirector.store.dataset.wants_snapshot", lambda revision: False)
        store.publish(sha, "next", RevisionChange(states={first: "retired", second: "retired"}))
    assert {stop - start for start, stop in made} == {1} and {start for start, _ in made} == {0, 1}


def test_entries_are_kept_from_the_second_time_that_all_are_gone_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = published(tmp_path, 6, 5)[-1]
    files = RevisionFiles(tmp_path)
    files.write_snapshot(sha, files.load(sha))
    columnar_from_here(monkeypatch)
    entries = files.load(sha).state.entries
    passes = [list(entries.values()) for _ in range(4)]
    assert next(iter(entries.items()))[1] is passes[1][0] is entries[passes[0][0].prompt.id]
    assert passes[0] == passes[1] == passes[2] == passes[3]
    made = [[one is other for one, other in zip(passes[1], later, strict=True)] for later in passes]
    assert [all(same) for same in made] == [False, True, True, True]


def test_a_first_pass_that_ends_last_does_not_forget_what_another_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = published(tmp_path, 6, 5)[-1]
    files = RevisionFiles(tmp_path)
    files.write_snapshot(sha, files.load(sha))
    columnar_from_here(monkeypatch)
    entries = files.load(sha).state.entries
    slow = iter(entries.values())  # as a round in the background goes through them
    first = next(slow)
    kept = list(entries.values())
    assert [first, *slow] == kept
    assert entries[first.prompt.id] is kept[0]


def test_a_text_that_is_none_is_refused_when_its_entry_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DatasetStore(tmp_path, create=True) as store:
        sha = store.publish(None, "import", RevisionChange(prompts=(Prompt.create("a"), Prompt.create("b"))))
    files = RevisionFiles(tmp_path)
    columnar_from_here(monkeypatch)
    files.write_snapshot(sha, files.load(sha))
    edited(next((tmp_path / "revisions").glob("*.columns")), {"text.text": np.array([255, 255], np.uint8)})
    with pytest.raises(StoreError, match="snapshot of a revision cannot be read"):
        list(files.load(sha).state.entries.values())


@pytest.mark.parametrize("as_columns", [True, False])
def test_a_key_that_no_sample_has_is_refused_before_all_take_its_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_columns: bool
) -> None:
    with DatasetStore(tmp_path, create=True) as store:
        sample = Sample.create(Prompt.create("a"), store.blobs.put(png(1)), "t")
        sha = store.publish(None, "import", RevisionChange((sample,)))
    files = RevisionFiles(tmp_path)
    revision = files.load(sha)
    if as_columns:
        columnar_from_here(monkeypatch)
        files.write_snapshot(sha, revision)
        path = next((tmp_path / "revisions").glob("*.columns"))
        edited(path, {"key.ends": np.array([300], np.int32), "key.text": np.full(300, 97, np.uint8)})
    else:
        body = files.body(sha)
        body["samples"][0]["key"] = "a" * 300
        sha = files.write(body)
    with pytest.raises(StoreError, match=r"more than|sample key"):
        RevisionReader(tmp_path, sha)


def test_a_shard_of_no_size_is_refused(tmp_path: Path) -> None:
    with DatasetStore(tmp_path, create=True) as store:
        sample = Sample.create(Prompt.create("a"), store.blobs.put(png(1)), "t")
        sha = store.publish(None, "import", RevisionChange((sample,)))
    files = RevisionFiles(tmp_path)
    files.write_snapshot(sha, files.load(sha))
    (shard,) = files.load(sha).shards.values()
    for wrong in ({"tar_bytes": -1}, {"tar_bytes": 1.5}, {"samples": True}):
        edited(next((tmp_path / "revisions").glob("*.columns")), {}, {"shards": [{**shard_to_json(shard), **wrong}]})
        with pytest.raises(StoreError, match="whole numbers from 0 on"):
            files.load(sha)


def test_a_large_revision_is_written_in_columns_at_once_and_again_as_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("columnar", "revision"):
        monkeypatch.setattr(f"evolvedirector.store.{module}.MAX_OBJECTS", 50)
    prompts = tuple(Prompt.create(f"thing {n}") for n in range(100))
    with DatasetStore(tmp_path, create=True) as store:
        sha = store.publish(None, "import", RevisionChange(prompts=prompts))
        held = [type(store.state(sha).entries)]
        for number, prompt in enumerate(prompts[:4]):
            sha = store.publish(sha, f"r{number}", RevisionChange(states={prompt.id: "retired"}))
            held.append(type(store.state(sha).entries))
        counts = [entry.state for entry in store.state(sha).entries.values()].count("retired")
    assert held == [ColumnarEntries, Layered, Layered, Layered, ColumnarEntries]  # over 1/32 of them have changed
    assert len(list((tmp_path / "revisions").glob("*.columns"))) == 2 and counts == 4


def edited(path: Path, change: dict[str, Any], about: dict[str, Any] | None = None) -> None:
    columns = read_columns(path)
    assert columns is not None
    arrays = {name: np.array(values) for name, values in columns.arrays.items()} | change
    write_columns(path, Columns({**columns.about, **(about or {})}, arrays))


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ({"state": np.full(2, 9, np.int32)}, {}),
        ({"skill": np.full(2, -1, np.int32)}, {}),
        ({"samples_end": np.array([2, 1], np.int32)}, {}),
        ({"samples_end": np.array([1, 5], np.int32)}, {}),
        ({"shard": np.array([0, 7], np.int32)}, {}),
        ({"ordinal": np.array([0], np.int32)}, {}),
        ({}, {"states": ["live", "alive"]}),
        ({}, {"skills": 5}),
        ({}, {"shards": [{"name": "r0001-0123456789ab"}]}),
        ({"samples_end": np.array([1, 2], np.uint64)}, {}),
        ({"width_px": np.array([8, 8], np.int64)}, {}),
        ({}, {"skill_weights": {"a": "b"}}),
        ({}, {"skill_weights": [1]}),
        ({}, {"replay_share": True}),
        ({}, {"number": "1"}),
        ({}, {"parent": 5}),
        ({}, {"format": 99}),
        ({}, {"sha": "0" * 64}),
    ],
)
def test_columns_that_nobody_of_ours_wrote_are_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], about: dict[str, Any]
) -> None:
    with DatasetStore(tmp_path, create=True) as store:
        samples = [Sample.create(Prompt.create(f"a {n}"), store.blobs.put(png(n)), "t") for n in range(2)]
        sha = store.publish(None, "import", RevisionChange(tuple(samples)))
    files = RevisionFiles(tmp_path)
    plain = files.load(sha)
    columnar_from_here(monkeypatch)
    files.write_snapshot(sha, plain)
    assert isinstance(files.load(sha).state.entries, ColumnarEntries)
    edited(next((tmp_path / "revisions").glob("*.columns")), change, about)
    assert isinstance(files.load(sha).state.entries, dict) and files.load(sha) == plain


@pytest.mark.parametrize("change", [{"id.ends": np.array([5, 2], np.int32)}, {"id.rows": np.array([0, 9], np.int32)}])
def test_texts_that_nobody_of_ours_wrote_are_refused_when_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    with DatasetStore(tmp_path, create=True) as store:
        sha = store.publish(None, "import", RevisionChange(prompts=(Prompt.create("a"), Prompt.create("b"))))
    files = RevisionFiles(tmp_path)
    columnar_from_here(monkeypatch)
    files.write_snapshot(sha, files.load(sha))
    edited(next((tmp_path / "revisions").glob("*.columns")), change)
    with pytest.raises(StoreError, match=r"Delete the `\.columns` files"):
        assert "a" in files.load(sha).state.entries


def test_columns_that_name_a_path_as_a_shard_are_refused(tmp_path: Path) -> None:
    with DatasetStore(tmp_path, create=True) as store:
        sample = Sample.create(Prompt.create("a"), store.blobs.put(png(1)), "t")
        sha = store.publish(None, "import", RevisionChange((sample,)))
    files = RevisionFiles(tmp_path)
    files.write_snapshot(sha, files.load(sha))
    path = next((tmp_path / "revisions").glob("*.columns"))
    shard = {"name": "../../etc/r0001-0123456789ab", "samples": 1, "tar_bytes": 1, "sha256": "0" * 64}
    edited(path, {}, {"shards": [shard]})
    with pytest.raises(StoreError, match="Use no root of an unknown source"):
        files.load(sha)


def test_snapshots_of_before_there_were_columns_are_read(tmp_path: Path) -> None:
    shas = published(tmp_path, 4, 1)
    files = RevisionFiles(tmp_path)
    plain = files.load(shas[-1])
    state = plain.state
    fields = {
        "format": 2, "sha": shas[-1], "number": plain.number, "parent": plain.parent_sha, "round_id": plain.round_id,
        "skill_weights": dict(state.skill_weights), "replay_share": state.replay_share,
        "prompts": [prompt_to_json(entry.prompt) for entry in state.entries.values()],
        "states": {key: entry.state for key, entry in state.entries.items()},
        "samples": [sample_to_json(s, plain.places[s.key]) for e in state.entries.values() for s in e.samples],
        "shards": [shard_to_json(shard) for shard in plain.shards.values()],
    }  # fmt: skip
    data = canonical_json(fields)
    name = f"{plain.number:06d}-{shas[-1][:12]}.snapshot"
    (tmp_path / "revisions" / name).write_bytes(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
    for path in (tmp_path / "revisions").glob("*.json"):
        path.unlink()
    assert files.load(shas[-1]) == plain
