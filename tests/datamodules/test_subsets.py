"""Training on a part of a revision: which samples, in which order, and what a checkpoint says of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch import equal

from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.errors import RunError, UserError
from evolvedirector.evolution.schedule import RoundSchedule
from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.records.subset import EVERYTHING, Subset
from evolvedirector.store import DatasetStore, RevisionReader
from tests.callbacks.evolving_toy import Evolving
from tests.toys import ToyJudge, flat_png


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve prompts of two skills, each with a first sample and one of the variant `sharp`."""
    folder = tmp_path_factory.mktemp("subsets") / "data"
    with DatasetStore(folder, create=True) as store:
        prompts = [Prompt.create(f"tone {n}", skill=f"skill{n % 2}") for n in range(12)]
        names = store.blobs.put_many([flat_png(n) for n in range(24)])
        samples = [
            Sample.create(prompt, names[2 * n + place], "toy", variant=variant)
            for n, prompt in enumerate(prompts)
            for place, variant in enumerate(("", "sharp"))
        ]
        store.publish(None, "import", RevisionChange(samples=tuple(samples)))
    return folder


def module(root: Path, **settings: Any) -> EvolvingDataModule:
    return EvolvingDataModule(root, global_batch_size=4, batches_per_epoch=3, image_size_px=8, **settings)


def epoch(data: EvolvingDataModule) -> list[list[str]]:
    return [batch["key"] for batch in data.train_dataloader()]


def tones(data: EvolvingDataModule) -> set[int]:
    return {int(image.flatten()[0]) for batch in data.train_dataloader() for image in batch["image"]}


def test_a_subset_takes_skills_and_variants() -> None:
    both = Subset(["counting"], ["sharp"])
    assert both.takes("counting", "sharp") and not both.takes("counting", "") and not both.takes("colour", "sharp")
    assert Subset(variants=[""]).takes("any", "") and EVERYTHING.takes("any", "any") and EVERYTHING.is_everything
    assert Subset(**both.plain()) == both and both.named() == "{skills: [counting], variants: [sharp]}"
    for wrong in ([], "counting", ["one", "one"]):
        with pytest.raises(UserError, match=r"skills of a subset is .*Write skills: \[counting\]"):
            Subset(skills=wrong)


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        (Subset(["skill1"]), {n for n in range(24) if n // 2 % 2 == 1}),
        (Subset(variants=["sharp"]), set(range(1, 24, 2))),
        (Subset(["skill0"], ["sharp"]), set(range(1, 24, 4))),
        (EVERYTHING, set(range(24))),
    ],
)
def test_only_the_samples_of_the_subset_are_read(root: Path, subset: Subset, expected: set[int]) -> None:
    data = module(root)
    data.train_on(subset)
    assert set.union(*(tones(data) for _ in range(3))) == expected


def test_without_a_subset_the_order_is_that_of_before(root: Path) -> None:
    plain, named = module(root), module(root)
    named.train_on(None)
    assert epoch(plain) == epoch(named)
    assert plain.state_dict() == named.state_dict() and "subset" not in plain.state_dict()


def test_a_subset_begins_at_its_first_batch_each_time(root: Path) -> None:
    data = module(root)
    data.train_on(Subset(["skill0"]))
    first = epoch(data)
    assert epoch(data) != first
    data.train_on(Subset(["skill1"]))
    other = epoch(data)
    data.train_on(Subset(["skill0"]))
    assert epoch(data) == first and not {key for batch in other for key in batch} & {k for b in first for k in b}


def test_one_that_is_named_before_the_first_batch_of_an_epoch_is_read_in_it(root: Path) -> None:
    data, other = module(root), module(root)
    loader = data.train_dataloader()
    data.train_on(Subset(["skill1"]))
    other.train_on(Subset(["skill1"]))
    assert [batch["key"] for batch in loader] == epoch(other)


def test_one_that_is_named_inside_an_epoch_waits_for_the_next(root: Path) -> None:
    data, plain = module(root), module(root)
    batches = iter(data.train_dataloader())
    keys = [next(batches)["key"]]
    data.train_on(Subset(["skill1"]))
    assert data.state_dict()["next_subset"] == {"skills": ["skill1"]}
    assert keys + [batch["key"] for batch in batches] == epoch(plain)
    assert {tone // 2 % 2 for tone in tones(data)} == {1}


def test_a_checkpoint_goes_on_in_its_subset(root: Path) -> None:
    data, again = module(root), module(root)
    data.train_on(Subset(["skill1"], ["sharp"]))
    epoch(data)
    batches = iter(data.train_dataloader())
    next(batches)
    again.load_state_dict(data.state_dict())
    for one, two in zip(batches, again.train_dataloader(), strict=True):
        assert one["key"] == two["key"] and equal(one["sample_seed"], two["sample_seed"])


def test_ranks_share_the_batches_of_a_subset(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for shares in ((0, 1), (0, 2), (1, 2)):
        data = module(root)
        monkeypatch.setattr(data, "_rank_and_world_size", lambda shares=shares: shares)
        data.train_on(Subset(["skill0"]))
        found.append(epoch(data))
    assert found[0] == [one + two for one, two in zip(*found[1:], strict=True)]


def test_a_subset_without_a_sample_says_what_there_is(root: Path) -> None:
    data = module(root)
    data.check_subset(Subset(["skill0"]))
    said = r"no sample of the subset \{skills: \[skill2\]\}\. It has skills skill0, skill1; variants '', 'sharp'"
    with pytest.raises(RunError, match=said):
        data.check_subset(Subset(["skill2"]))
    data.train_on(Subset(["skill2"]))
    with pytest.raises(RunError, match=said):
        data.train_dataloader()


def test_a_reader_in_another_process_reads_the_same_rows(root: Path) -> None:
    import pickle

    reader = RevisionReader(root, module(root).revision_sha, subset=Subset(["skill1"], ["sharp"]))
    again = pickle.loads(pickle.dumps(reader))
    assert len(again) == 6 and again.keys.tolist() == reader.keys.tolist()


def test_an_empty_revision_waits_for_the_rounds_before_the_first_step(tmp_path: Path) -> None:
    with DatasetStore(tmp_path, create=True) as store:
        first = store.publish(None, "prompts", RevisionChange(prompts=(Prompt.create("tone 7"),)))
    data = module(tmp_path)
    first_rounds = Evolving(ToyJudge())
    plan = first_rounds.evolution()
    first_rounds.evolution = lambda: plan.__class__(plan.settings, RoundSchedule(1, None, 1))  # type: ignore[method-assign]
    trainer: Any = SimpleNamespace(
        global_step=0, callbacks=[first_rounds], fast_dev_run=False, limit_train_batches=1.0,
        global_rank=0, world_size=1, strategy=None, fit_loop=SimpleNamespace(
            epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(processed=0)))
        ),
    )  # fmt: skip
    data.trainer = cast(Any, trainer)
    loader = data.train_dataloader()
    with DatasetStore(tmp_path) as store:
        (name,) = store.blobs.put_many([flat_png(7)])
        bought = RevisionChange(samples=(Sample.create(Prompt.create("tone 7"), name, "toy"),))
        second = store.publish(first, "round", bought)
    data.open_revision(second)
    assert data.revision_sha == second
    assert [batch["prompt"] for batch in loader] == [["tone 7"] * 4] * 3
