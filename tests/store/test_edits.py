"""Edits by hand: what enters, what leaves, what is listed, and that a refused edit publishes nothing."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore, EvolvingDataset, RevisionFiles, StoreError, edits
from evolvedirector.store.imports import CaptionedImage
from evolvedirector.store.revision import RevisionFiles as Files
from tests.store.sample_files import kept, mask, picture, thing


def given(text: str, number: int, **more: object) -> CaptionedImage:
    return CaptionedImage(f"{text} {number}", text, picture(number), **more)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DatasetStore]:
    """Three live prompts of two skills, one of which has two samples, and one candidate."""
    with DatasetStore(tmp_path / "data", create=True) as opened:
        samples = (*(kept(opened.blobs, number) for number in range(3)), kept(opened.blobs, 0, 50, "b"))
        opened.publish(None, "import", RevisionChange(samples=samples, prompts=(Prompt.create("a wish"),)))
        opened.ledger.prompts.hold_out([Prompt.create("a secret").id])
        yield opened


def texts(store: DatasetStore, *states: str) -> list[str]:
    entries = edits.newest(store).state.entries.values()
    return [entry.prompt.text for entry in entries if entry.state in states]


def live_keys(store: DatasetStore) -> list[str]:
    return [sample.key for sample in edits.live_samples(edits.newest(store))]


def test_added_prompts_wait_for_their_images(store: DatasetStore) -> None:
    texts_given = ("an owl", "An owl.", "a secret", "thing 1", "a bat")
    report = edits.add_prompts(store, [Prompt.create(text, skill="bird") for text in texts_given])
    assert (report.prompts, report.duplicates, report.held_out, report.number) == (2, 2, 1, 2)
    assert texts(store, "candidate") == ["a wish", "an owl", "a bat"]
    revision = edits.newest(store)
    assert revision.parent_sha is not None and revision.state.revision_sha == report.revision_sha == store.current()
    assert {e.prompt.origin for e in revision.state.in_state("candidate")} == {"seed"}, "only seeds are bought first"
    assert len(store.ledger.prompts.get([Prompt.create("a bat").id])) == 1


def test_a_retired_prompt_comes_back_when_it_is_added_again(store: DatasetStore) -> None:
    before = live_keys(store)
    gone = edits.retire(store, [thing(0).id, Prompt.create("a wish").id])
    assert (gone.prompts, gone.images) == (2, 2)
    assert texts(store, "live") == ["thing 1", "thing 2"] and len(live_keys(store)) == 2
    back = edits.add_prompts(store, [thing(0), Prompt.create("a wish")])
    assert (back.prompts, back.revived, back.duplicates) == (0, 2, 0)
    assert live_keys(store) == before and texts(store, "candidate") == ["a wish"]


def test_added_pictures_stand_beside_those_that_are_there(store: DatasetStore) -> None:
    files = {"mask": mask(9)}
    report = edits.add_images(
        store,
        [
            given("an owl", 1, skill="bird", files=files),
            given("an owl", 2),
            given("An Owl", 1, files=files),
            given("thing 1", 1),  # the one that it has
            given("THING 1", 90),
            given("a wish", 91),
            given("a secret", 92),
            given("", 93),
            CaptionedImage("x.png", "broken", b"no picture"),
        ],
    )
    assert (report.prompts, report.images, report.duplicates, report.held_out) == (1, 4, 2, 1)
    assert report.unusable == 2 and any(problem.startswith("x.png: ") for problem in report.problems)
    assert any("the same picture is in revision 1 already" in problem for problem in report.problems)
    entries = edits.newest(store).state.entries
    owl, known = entries[Prompt.create("an owl").id], entries[thing(1).id]
    assert [bool(sample.variant) for sample in owl.samples] == [False, True]
    assert owl.sample is not None and owl.sample.files.keys() == {"mask"}
    assert [sample.teacher for sample in known.samples] == ["toy", "given"] and known.prompt == thing(1)
    assert texts(store, "candidate") == []
    dataset = EvolvingDataset(store.root, report.revision_sha)
    assert {dataset[row]["prompt"] for row in range(len(dataset))} >= {"an owl", "thing 1", "a wish"}
    with pytest.raises(StoreError, match="nothing to add: 1 are in revision 2 already"):
        edits.add_images(store, [given("an owl", 2)])


@pytest.mark.parametrize("order", [(0, 80), (80, 0)])
def test_pictures_of_a_retired_prompt(store: DatasetStore, order: tuple[int, int]) -> None:
    edits.retire(store, [thing(1).id])
    report = edits.add_images(store, [given("thing 1", {0: 1}.get(n, n)) for n in order])
    entry = edits.newest(store).state.entries[thing(1).id]
    assert entry.state == "live" and report.revived == 1
    shown = {store.blobs.get(sample.image_sha256) for sample in entry.samples}
    assert shown == {picture(1), picture(80)}, "both were given"


def test_a_new_picture_of_a_retired_prompt_takes_the_place_of_the_old_one(store: DatasetStore) -> None:
    edits.retire(store, [thing(1).id])
    report = edits.add_images(store, [given("thing 1", 80)])
    entry = edits.newest(store).state.entries[thing(1).id]
    assert [store.blobs.get(sample.image_sha256) for sample in entry.samples] == [picture(80)]
    assert (report.revived, report.images, entry.state) == (1, 1, "live")


def test_a_key_means_its_prompt_and_a_skill_all_its_prompts(store: DatasetStore) -> None:
    variant_key = live_keys(store)[1]
    assert not variant_key.startswith(thing(0).id)
    assert edits.ids_of(edits.newest(store), [variant_key, thing(0).id]) == [thing(0).id]
    chosen = edits.ids_of_skill(edits.newest(store), "skill0")
    report = edits.retire(store, chosen)
    assert (report.prompts, report.images) == (2, 3)
    assert texts(store, "live") == ["thing 1"]
    assert edits.ids_of_texts(edits.newest(store), [Prompt.create("Thing 1.")]) == [thing(1).id]
    again = edits.retire(store, [*chosen, Prompt.create("a wish").id])
    assert (again.prompts, again.duplicates) == (1, 2)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: edits.retire(s, [thing(0).id, "nobody", "none"]), "2 of 3 ids are not in revision 1: 'nobody', 'n"),
        (lambda s: edits.retire(s, [thing(0).id[:8]]), "Did you mean"),
        (lambda s: edits.retire(s, []), "nothing to retire"),
        (lambda s: edits.retire(s, [*edits.newest(s).state.entries]), "retire the last 4 prompts"),
        (lambda s: edits.ids_of_skill(edits.newest(s), "bird"), "'skill0', 'skill1', 'unlabelled'"),
        (lambda s: edits.ids_of_texts(edits.newest(s), [Prompt.create("a moon")]), "1 of 1 prompts .* 'a moon'"),
        (lambda s: edits.add_prompts(s, [thing(0), Prompt.create("a secret")]), "1 are in .* 1 are held out"),
        (lambda s: edits.add_images(s, [CaptionedImage("x.png", "a moon", b"?")]), r"1 cannot be used.*\n.*x.png"),
    ],
)  # fmt: skip
def test_a_refused_edit_publishes_nothing(store: DatasetStore, edit: object, message: str) -> None:
    before = store.current()
    with pytest.raises(StoreError, match=message):
        edit(store)  # type: ignore[operator]
    assert store.current() == before and len(store.revisions()) == 1


def test_an_edit_that_was_cut_off_can_be_given_again(store: DatasetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.current()
    monkeypatch.setattr(Files, "set_current", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        edits.add_prompts(store, [Prompt.create("an owl")])
    monkeypatch.undo()
    assert store.current() == before
    report = edits.add_prompts(store, [Prompt.create("an owl")])
    assert len(store.revisions()) == 2 and store.current() == report.revision_sha


def test_a_root_without_a_revision_cannot_be_edited(tmp_path: Path) -> None:
    with DatasetStore(tmp_path / "empty", create=True) as empty, pytest.raises(StoreError, match="no revision yet"):
        edits.add_prompts(empty, [thing(0)])
    with pytest.raises(StoreError, match="no revision yet"):
        edits.revision_of(tmp_path / "empty")


def test_the_list_names_each_sample_with_its_tar_and_what_is_left_out(store: DatasetStore) -> None:
    edits.retire(store, [thing(2).id])
    replaced = kept(store.blobs, 1)
    sha = store.publish(store.current(), "round1", RevisionChange(samples=(kept(store.blobs, 1, 60),)))
    other = store.publish(sha, "round2", RevisionChange(samples=(replaced,)))  # back: it lies in two tars now
    revision = edits.revision_of(store.root, other[:8])
    listed = list(edits.live_samples(revision))
    assert [sample.prompt for sample in listed] == ["thing 0", "thing 0", "thing 1"]
    assert all((store.root / sample.shard).is_file() for sample in listed)
    assert (listed[1].variant, listed[0].parent, listed[0].width_px) == ("b", "", 8)
    left_out = list(edits.left_out_samples(store.root, revision))
    assert len(left_out) == 3 and f"{listed[0].shard}/{replaced.key}" in left_out
    assert f"{listed[2].shard}/{replaced.key}" not in left_out
    assert edits.edits_since(store.root, revision.state.revision_sha) == []
    first = RevisionFiles(store.root).resolve(store.revisions()[0].partition("-")[2])
    assert [(number, kind) for number, kind, _ in edits.edits_since(store.root, first)] == [(2, "retire")]
    json.dumps([sample._asdict() for sample in listed])


def test_a_mastered_prompt_is_listed_and_can_be_retired(store: DatasetStore) -> None:
    store.publish(store.current(), "round1", RevisionChange(states={thing(1).id: "mastered"}))
    assert {s.state for s in edits.live_samples(edits.newest(store))} == {"live", "mastered"}
    assert edits.retire(store, [Sample.create(thing(1), "1" * 64, "x").prompt.id]).images == 1
