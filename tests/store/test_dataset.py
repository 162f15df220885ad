"""Publishing: what is read back, what a crash or a full disk leaves, who may write."""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore, DiskFullError, RevisionFiles, RevisionReader, StoreError
from evolvedirector.store.files import checked_file, decode_file
from tests.store.sample_files import npy

# webdataset does not close the tars it has read
leaves_files_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def png(number: int, width_px: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width_px, 8), (number % 256, number // 256, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def bought(store: DatasetStore, *numbers: int, tint: int = 0) -> tuple[Sample, ...]:
    prompts = [Prompt.create(f"thing {n}", skill=f"skill{n % 2}") for n in numbers]
    names = store.blobs.put_many([png(n + tint) for n in numbers])
    return tuple(Sample.create(p, name, "toy") for p, name in zip(prompts, names, strict=True))


def thing(number: int) -> str:
    return Prompt.create(f"thing {number}").id


def live_keys(root: Path, sha: str) -> set[str]:
    reader = RevisionReader(root, sha)
    return {str(reader.raw(row, verify=True)["__key__"]) for row in range(len(reader))}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_weights_of_samples_are_kept_until_others_take_their_place(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        samples = bought(store, 0, 1, 2, 3)
        first = store.publish(None, "import", RevisionChange(samples=samples))
        weights = {samples[0].key: 3.0, samples[2].key: 0.5}
        second = store.publish(first, "r1", RevisionChange(sample_weights=weights))
        third = store.publish(second, "r2", RevisionChange(states={thing(3): "retired"}))
        fourth = store.publish(third, "r3", RevisionChange(sample_weights={}))
        found = [store.state(sha).sample_weights for sha in (first, second, third, fourth)]
        files = RevisionFiles(root)
        formats = [files.body(sha)["format"] for sha in (first, second, third, fourth)]
        files.write_snapshot(third, store.revision(third))
    assert found == [{}, weights, weights, {}]
    assert formats == [1, 3, 1, 3]  # a program that knows no such weights reads none of the two, nor what follows
    assert [RevisionReader(root, sha).weight_of_row for sha in (first, fourth)] == [None, None]
    reader = RevisionReader(root, third)
    assert files._snapshot(third) is not None
    assert dict(zip(reader.keys.tolist(), reader.weight_of_row, strict=True)) == {
        samples[0].key: 3.0, samples[1].key: 1.0, samples[2].key: 0.5
    }  # fmt: skip
    order = reader.order(0, 4)
    drawn = [row for batch in range(300) for row in order.global_batch(batch).tolist()]
    assert drawn.count(0) / len(drawn) == pytest.approx(3 / 4.5, abs=0.01)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"nobody": 1.0}, "unknown sample 'nobody'"),
        ({"": 0.0}, "the weight 0.0. Allowed: over 0"),
        ({"": float("nan")}, "the weight nan. Allowed: over 0"),
        ({"": float("inf")}, "the weight inf. Allowed: over 0"),
    ],
)
def test_a_weight_that_no_order_could_follow_is_refused(root: Path, weights: dict[str, float], said: str) -> None:
    with DatasetStore(root, create=True) as store:
        samples = bought(store, 0)
        named = {key or samples[0].key: weight for key, weight in weights.items()}
        with pytest.raises(StoreError, match=said):
            store.publish(None, "import", RevisionChange(samples=samples, sample_weights=named))
        assert store.current() is None


def test_revisions_build_on_each_other(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        assert store.current() is None
        child = Prompt.create("a child", "expansion", "skill0", Prompt.create("thing 0"))
        first = store.publish(None, "import", RevisionChange(samples=bought(store, 0, 1, 2), prompts=(child,)))
        second = store.publish(
            first,
            "round1",
            RevisionChange(
                samples=bought(store, 3),
                states={thing(0): "retired", thing(1): "mastered"},
                skill_weights={"skill1": 2.0},
                replay_share=0.25,
            ),
        )
        third = store.publish(second, "round2", RevisionChange(states={thing(0): "live"}))
        before, state, after = store.state(first), store.state(second), store.state(third)
        assert [store.number(sha) for sha in (first, second, third)] == [1, 2, 3]
        assert store.current() == third
    assert {e.prompt.text: e.state for e in before.entries.values()} == {
        "a child": "candidate",
        "thing 0": "live",
        "thing 1": "live",
        "thing 2": "live",
    }
    assert before.entries[child.id].prompt == child
    assert [state.entries[thing(n)].state for n in range(4)] == ["retired", "mastered", "live", "live"]
    assert (state.skill_weights, state.replay_share) == ({"skill1": 2.0}, 0.25)
    assert (after.skill_weights, after.replay_share) == ({"skill1": 2.0}, 0.25)
    assert after.entries[thing(0)].sample == before.entries[thing(0)].sample
    reader = RevisionReader(root, second)
    assert sorted((s.skill, s.state) for s in reader.strata) == [
        ("skill0", "live"),
        ("skill1", "live"),
        ("skill1", "mastered"),
    ]


@leaves_files_open
def test_webdataset_reads_the_live_set(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        first = store.publish(None, "import", RevisionChange(samples=bought(store, *range(20))))
        change = RevisionChange(samples=bought(store, 30, 31), states={thing(4): "retired"})
        second = store.publish(first, "round1", change)
        live = {entry.sample.key for entry in store.state(second).in_state("live") if entry.sample}
    tars = sorted(str(path) for path in (root / "shards").glob("*.tar"))
    streamed = {s["__key__"]: s for s in webdataset.WebDataset(tars, shardshuffle=False)}
    assert live == live_keys(root, second) and len(live) == 21
    assert set(streamed) - live == {key for key in streamed if key.startswith(thing(4))}
    reader = RevisionReader(root, second)
    for row in range(len(reader)):
        raw = reader.raw(row)
        assert {name: streamed[raw["__key__"]][name] for name in raw} == raw
        assert json.loads(raw["json"])["text"] == raw["txt"].decode()


def test_a_repeated_round_gives_its_revision(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        first = store.publish(None, "import", RevisionChange(samples=bought(store, 0)))
        second = store.publish(first, "round1", RevisionChange(samples=bought(store, 1)))
        store.publish(second, "round2", RevisionChange(samples=bought(store, 2)))
        assert store.publish(first, "round1", RevisionChange(samples=bought(store, 5))) == second
        assert store.current() == second
        fork = store.publish(first, "other", RevisionChange(samples=bought(store, 7)))
        assert store.number(fork) == store.number(second) == 2 and fork != second
        assert len(store.revisions()) == 4
    assert live_keys(root, fork).isdisjoint(live_keys(root, second) - live_keys(root, first))


def test_a_new_image_replaces_the_old_one(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        first = store.publish(None, "import", RevisionChange(samples=bought(store, 0, 1)))
        second = store.publish(first, "round1", RevisionChange(samples=bought(store, 0, tint=100)))
        wanted = {entry.sample.key for entry in store.state(second).in_state("live") if entry.sample}
    assert live_keys(root, second) == wanted and len(wanted) == 2
    assert len(live_keys(root, second) & live_keys(root, first)) == 1


def test_snapshots_say_what_the_deltas_say(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolvedirector.store.revision.SNAPSHOT_EVERY", 3)
    with DatasetStore(root, create=True) as store:
        sha = None
        for n in range(7):
            states = {thing(n - 1): "mastered"} if n else {}
            change = RevisionChange(samples=bought(store, n), states=states, skill_weights={"skill0": float(n)})
            sha = store.publish(sha, f"round{n}", change)
    assert sha is not None
    snapshots = list((root / "revisions").glob("*.columns"))
    quick = RevisionFiles(root).load(sha)
    assert len(snapshots) == 2
    snapshots[0].write_bytes(snapshots[0].read_bytes()[:-3])  # a damaged snapshot is ignored
    assert RevisionFiles(root).load(sha) == quick
    for path in snapshots:
        path.unlink()
    assert RevisionFiles(root).load(sha) == quick
    assert list(quick.state.entries) == [thing(n) for n in range(7)]


@pytest.mark.parametrize("how", ["killed", "full"])
def test_a_crash_at_any_write_leaves_the_old_or_the_new(root: Path, how: str) -> None:
    with DatasetStore(root, create=True) as store:
        first = store.publish(None, "import", RevisionChange(samples=bought(store, 0, 1)))
    old, failures = live_keys(root, first), 0
    while True:
        ended = in_child(lambda n=failures: failing_at(n, how, root, lambda store: publish_thing_2(store, first)))
        if ended == 0:
            break
        assert ended == (137 if how == "killed" else 3)
        failures += 1
        current = RevisionFiles(root).current()
        assert current is not None
        assert live_keys(root, current) in (old, old | {s for s in live_keys(root, current) if s[:16] == thing(2)})
        if how == "full":
            assert not list(root.rglob("*.tmp.*")) and not list(root.rglob("*.writing"))
    assert failures >= 9  # tar, its name, index, revision, CURRENT: each with its fsyncs
    with DatasetStore(root) as store:
        assert len(store.revisions()) == 2 and store.number(store.current() or "") == 2
        assert len(store.ledger.prompts.all()) == 3
        assert not list(root.rglob("*.tmp.*")) and not list(root.rglob("*.writing"))
    assert {key[:16] for key in live_keys(root, RevisionFiles(root).current() or "")} == {thing(0), thing(1), thing(2)}


def in_child(work: Callable[[], int]) -> int:
    """Run `work` in a forked process and return its exit code."""
    process = os.fork()
    if process == 0:
        try:
            os._exit(work())
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def publish_thing_2(store: DatasetStore, parent: str) -> Callable[[], str]:
    samples = bought(store, 2)
    return lambda: store.publish(parent, "round1", RevisionChange(samples=samples))


def failing_at(number: int, how: str, root: Path, prepare: Callable[[DatasetStore], Callable[[], str]]) -> int:
    """Prepare and publish, and fail at the n-th fsync or rename: by dying, or for want of space."""
    calls = iter(range(10_000))

    def failing(real: Callable) -> Callable:
        def call(*args: object) -> object:
            if next(calls) == number:
                if how == "killed":
                    os._exit(137)
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args)

        return call

    with DatasetStore(root) as store:
        publish = prepare(store)
        os.fsync, os.replace = failing(os.fsync), failing(os.replace)
        try:
            publish()
        except DiskFullError:
            return 3
    return 0


@pytest.mark.parametrize("how", ["killed", "full"])
def test_a_crash_at_any_write_of_companions_leaves_the_old_or_the_new(
    root: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolvedirector.store.dataset.MAX_SHARD_SAMPLES", 2)  # two companions for three samples
    with DatasetStore(root, create=True) as store:
        first = store.publish(None, "import", RevisionChange(samples=bought(store, 0, 1, 2)))
    wanted = {key: int(key[:4], 16) for key in live_keys(root, first)}
    derived = [(key, {"image_embedding": checked_file(npy([value]), "npy")}) for key, value in wanted.items()]
    seen, failures = set(), 0
    while True:
        publish = lambda store: lambda: store.publish_companion(first, "clip", derived)  # noqa: E731
        ended = in_child(lambda n=failures, p=publish: failing_at(n, how, root, p))
        if ended == 0:
            break
        assert ended == (137 if how == "killed" else 3)
        failures += 1
        current = RevisionFiles(root).current()
        assert live_keys(root, current or "") == wanted.keys()
        for name in RevisionFiles(root).listed():  # whatever can be opened is whole, also before CURRENT names it
            sha = RevisionFiles(root).resolve(name.split("-")[1])
            seen.add("old" if sha == first else "new")
            if sha != first:
                assert derived_values(root, sha) == wanted
        if how == "full":
            assert not list(root.rglob("*.tmp.*")) and not list(root.rglob("*.writing"))
    assert failures >= 12 and seen == {"old", "new"}  # tar, its name, index: twice; revision, CURRENT
    with DatasetStore(root) as store:
        current = store.current() or ""
        assert len(store.revisions()) == 2 and store.number(current) == 2
        assert not list(root.rglob("*.tmp.*")) and not list(root.rglob("*.writing"))
    assert derived_values(root, current) == wanted and live_keys(root, first) == wanted.keys()
    assert len(list((root / "shards").glob("c*.tar"))) == 2


def derived_values(root: Path, sha: str) -> dict[str, int]:
    """Read the one number of each sample's embedding, every byte checked."""
    reader = RevisionReader(root, sha, ("image_embedding",))
    raws = [reader.raw(row, verify=True) for row in range(len(reader))]
    return {str(r["__key__"]): int(decode_file(r["image_embedding.npy"], "npy", "image_embedding")[0]) for r in raws}


def test_a_second_writer_is_refused(root: Path) -> None:
    with (
        DatasetStore(root, create=True),
        pytest.raises(StoreError, match=rf"open for writing in process {os.getpid()} on"),
    ):
        DatasetStore(root)
    DatasetStore(root).close()


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no dataset root"):
        DatasetStore(tmp_path / "missing")
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match=r"holds 'letter.txt'"):
        DatasetStore(tmp_path, create=True)
    with pytest.raises(StoreError, match="is a file"):
        DatasetStore(tmp_path / "letter.txt", create=True)


@pytest.mark.parametrize("about", ['{"name": "evolvedirector dataset", "format": 2}', "[]", "no json"])
def test_another_format_version_is_refused(root: Path, about: str) -> None:
    DatasetStore(root, create=True).close()
    (root / "format.json").write_text(about)
    for opening in (
        lambda: DatasetStore(root),
        lambda: DatasetStore(root, create=True),
        lambda: RevisionReader(root, ""),
    ):
        with pytest.raises(StoreError, match="was written with format"):
            opening()


def test_a_change_that_cannot_be_held_is_refused(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        prompt = Prompt.create("never bought")
        unpublishable = [
            (RevisionChange(states={"unknown": "retired"}), "unknown prompt"),
            (RevisionChange(prompts=(prompt,), states={prompt.id: "live"}), "has no image"),
            (RevisionChange(samples=(Sample.create(prompt, "0" * 64, "toy"),)), "is not in"),
            (RevisionChange(samples=bought(store, 1) + bought(store, 1, tint=9)), "same prompt"),
        ]
        for change, reason in unpublishable:
            with pytest.raises(StoreError, match=reason):
                store.publish(None, "import", change)
        assert store.current() is None and store.revisions() == []


def test_a_missing_revision_names_those_that_exist(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        sha = store.publish(None, "import", RevisionChange(samples=bought(store, 0)))
    with pytest.raises(StoreError, match=rf"The revisions there are: 000001-{sha[:12]}"):
        RevisionReader(root, "f" * 64)
    assert RevisionReader(root, sha[:8]).revision_sha == sha


def test_a_changed_revision_is_noticed(root: Path) -> None:
    with DatasetStore(root, create=True) as store:
        sha = store.publish(None, "import", RevisionChange(samples=bought(store, 0)))
    path = next((root / "revisions").glob("*.json"))
    path.write_bytes(path.read_bytes().replace(b"thing 0", b"thing 9"))
    with pytest.raises(StoreError, match="no longer has the content"):
        RevisionFiles(root).load(sha)


def test_the_store_needs_neither_torch_nor_lightning() -> None:
    heavy = "torch", "lightning", "webdataset", "PIL"
    imports = "import sys, evolvedirector.store, evolvedirector.store.imports"
    code = f"{imports}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
