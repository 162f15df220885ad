"""A round of best of N: drawn once, scored once, whatever breaks it off or is corrected in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.opening import run_seeding
from evolvedirector.evolution.round import run_round
from evolvedirector.evolution.round_id import RoundSettings, round_id_of
from evolvedirector.evolution.round_parts import Round, RoundInterrupted, RoundParts, RoundWatch, tenants_of
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.planning.preflight import problems_of
from evolvedirector.policies import Aspect, BestOfN
from evolvedirector.records import (
    Decision,
    ImageAndPrompt,
    ImageReply,
    ImageRequest,
    RevisionChange,
    RoundInfo,
    Sample,
    Score,
    WriteReply,
    WriteRequest,
)
from evolvedirector.report.candidates import candidates_of
from evolvedirector.store.dataset import DatasetStore
from evolvedirector.store.reader import RevisionReader
from tests import toys

PROMPTS, IMAGES = 3, 4
ASPECTS = {"bright": Aspect("bright", top_share=0.75), "dark": Aspect("dark"), "chance": Aspect(by_chance=True)}


class Killed(BaseException):
    """The process dies here."""


class Fuse:
    """Kills the process at the n-th answer that a part is about to give; 0: never."""

    def __init__(self, at: int = 0) -> None:
        self.left = at

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


class SelfTeacher(toys.ToyTeacher):
    """Draws a tone that follows from the seed; remembers every request."""

    fuse = Fuse()

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        for request in requests:
            self.fuse.burn()
            self.asked.append(request.request_id)
            yield ImageReply(request.request_id, "image", toys.flat_png(request.seed % 256))


class Tone:
    """Finds bright images good, or dark ones; remembers what it was asked about."""

    fuse = Fuse()

    def __init__(self, name: str, sign: int) -> None:
        self.fingerprint, self.sign, self.asked = name, sign, Counter[str]()

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        for item in items:
            self.fuse.burn()
            self.asked[item.item_id] += 1
            yield Score(item.item_id, self.sign * toys.mean_tone(item.image))


class Flat(Tone):
    """Finds all images equally good."""

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        return (Score(item.item_id, 0.5) for item in items)


class Writer(toys.ToyWriter):
    """Remembers what it was asked to write."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        self.asked += [request.request_id for request in requests]
        return super().write(requests)


class Root:
    """A dataset with one given image, and the round that chooses from own images."""

    def __init__(self, folder: Path, **rewards: Tone) -> None:
        self.folder = folder
        self.store = DatasetStore(folder, create=True)
        self.teacher, self.writer = SelfTeacher("self"), Writer()
        self.rewards = rewards or {"bright": Tone("bright", 1), "dark": Tone("dark", -1)}
        seed = toys.ToyPrompts(1).prompts()[0]
        image = self.store.blobs.put(toys.flat_png(1))
        self.sha = self.store.publish(None, "import", RevisionChange(samples=(Sample.create(seed, image, "given"),)))

    def settings(self, policy: BestOfN) -> RoundSettings:
        teachers = {"self": self.teacher}
        return RoundSettings(teachers, toys.ToyJudge(), self.writer, policy, Budget(), rewards=self.rewards)

    def round_id(self, policy: BestOfN) -> str:
        return round_id_of(self.settings(policy), "", ["student"], 10, self.sha)

    def seed(self, policy: BestOfN) -> str:
        return run_seeding(self.made(policy))

    def round(self, policy: BestOfN, stop: Any = lambda: None, unit: int = 2) -> str:
        return run_round(self.made(policy, stop, unit))

    def made(self, policy: BestOfN, stop: Any = lambda: None, unit: int = 2) -> Round:
        student = StudentPart(lambda requests: [])
        teachers, judge = {"self": self.teacher}, toys.ToyJudge()
        executor = LocalExecutor(tenants_of(student, teachers, judge, self.writer, self.rewards), unit=unit)
        who = (student, teachers, judge, self.writer, policy)
        parts = RoundParts(self.store, executor, *who, Budget(), 8, rewards=self.rewards)
        info = RoundInfo(self.round_id(policy), 0, 2, 0, 10, self.sha)
        return Round(parts, info, RoundWatch(stop))

    def reopen(self) -> None:
        """Begin a new process on the same folder."""
        self.store.close()
        self.store = DatasetStore(self.folder)


@pytest.fixture
def root_of(tmp_path: Path) -> Iterator[Any]:
    roots: list[Root] = []

    def make(**rewards: Tone) -> Root:
        roots.append(Root(tmp_path / str(len(roots)), **rewards))
        return roots[-1]

    yield make
    for root in roots:
        root.store.close()


def policy_of(aspects: dict[str, Aspect] | None = None, **settings: Any) -> BestOfN:
    return BestOfN(aspects or ASPECTS, **{"prompts": PROMPTS, "images_per_prompt": IMAGES, **settings})


def test_each_aspect_trains_on_the_best_of_each_prompt_from_one_pool(root_of: Any) -> None:
    root = root_of()
    child = root.round(policy_of())
    assert len(root.teacher.asked) == PROMPTS * IMAGES == sum(root.rewards["bright"].asked.values())
    chosen = [
        (entry.prompt.id, sample)
        for entry in root.store.state(child).in_state("live")
        for sample in entry.samples
        if sample.teacher == "self"
    ]
    by_aspect = Counter(sample.variant for _, sample in chosen)
    assert by_aspect["dark"] == by_aspect["chance"] == PROMPTS and 1 <= by_aspect["bright"] <= PROMPTS
    pool = {told.prompt.id: told.candidates for told in candidates_of(root.store.ledger, root.round_id(policy_of()))}
    assert {key: len(candidates) for key, candidates in pool.items()} == dict.fromkeys(pool, IMAGES)
    for prompt_id, sample in chosen:
        tones = {candidate.image_sha256: candidate.scores["bright"] for candidate in pool[prompt_id]}
        if sample.variant != "chance":
            best = max if sample.variant == "bright" else min
            assert tones[sample.image_sha256] == best(tones.values())


def test_seed_prompts_wait_for_the_round_which_draws_them_as_often_as_others(root_of: Any) -> None:
    root, policy = root_of(), policy_of(prompts=None)
    waiting = toys.ToyPrompts(3).prompts()[1:]
    root.sha = root.store.publish(root.sha, "seeds", RevisionChange(prompts=tuple(waiting)))
    assert root.seed(policy) == root.sha and not root.teacher.asked
    child = root.round(policy)
    assert len(root.teacher.asked) == 3 * IMAGES
    entries = root.store.state(child).entries
    assert all({sample.variant for sample in entries[p.id].samples} >= {"dark", "chance"} for p in waiting)


def test_what_each_candidate_scored_and_why_it_was_kept_is_told_afterwards(root_of: Any) -> None:
    root, policy = root_of(), policy_of()
    root.round(policy)
    told = candidates_of(root.store.ledger, root.round_id(policy))
    kept: dict[str, list[str]] = {}
    for prompt in told:
        for candidate in prompt.candidates:
            assert candidate.drawn is not None and candidate.drawn.fingerprint == root.teacher.fingerprint
            assert candidate.drawn.teacher == "self" and candidate.drawn.seed is not None
            assert candidate.scores["bright"] == candidate.drawn.seed % 256 == -candidate.scores["dark"]
            for variant, reason in candidate.kept.items():
                kept.setdefault(variant, []).append(reason)
                assert reason.startswith(f"{variant} ") and f"best of {IMAGES}" in reason
    assert len(kept["dark"]) == len(kept["chance"]) == PROMPTS and all("at least" in text for text in kept["bright"])
    rewards = {row[0] for row in root.store.ledger.file.rows("SELECT reward FROM scores")}
    assert rewards == {"bright", "dark"}
    (row,) = root.store.ledger.rounds.all()
    assert row.figures.scored == PROMPTS * IMAGES and row.figures.buys_beyond_allowance == 0
    assert candidates_of(root.store.ledger, "another round") == []


def test_a_prompt_whose_only_samples_are_variants_is_read_and_drawn(root_of: Any) -> None:
    root = root_of()
    child = root.round(policy_of())
    state = root.store.state(child)
    entry = next(entry for entry in state.entries.values() if entry.sample and entry.sample.teacher == "self")
    assert all(sample.variant for sample in entry.samples) and len(entry.samples) in (2, 3)
    keys = {sample.key: sample for other in state.entries.values() for sample in other.samples}
    with closing(RevisionReader(root.folder, child)) as reader:
        read = {str(raw["__key__"]): raw for raw in map(reader.raw, range(len(reader)))}
        assert read.keys() == keys.keys() and len(keys) > 2 * PROMPTS
        for key, sample in keys.items():
            assert read[key]["txt"] == sample.prompt.text.encode()
            assert read[key]["png"] == root.store.blobs.get(sample.image_sha256)
        drawn = reader.order(0, len(reader)).global_batch(0)
        assert sorted(drawn) == list(range(len(reader)))


def test_stopped_between_any_two_units_nothing_is_written_drawn_or_scored_twice(root_of: Any) -> None:
    whole, broken = root_of(), root_of()
    expected = whole.round(policy_of())
    stops = 0
    while True:
        stops += 1
        calls = iter(range(1000))
        try:
            child = broken.round(policy_of(), lambda calls=calls, stops=stops: "now" if next(calls) >= stops else None)
            break
        except RoundInterrupted:
            broken.reopen()
    assert stops > 10 and child == expected
    assert broken.writer.asked == whole.writer.asked and sorted(broken.teacher.asked) == sorted(whole.teacher.asked)
    assert all(reward.asked == whole.rewards[name].asked for name, reward in broken.rewards.items())


@pytest.mark.parametrize("part", ["teacher", "bright", "dark"])
def test_killed_at_any_answer_only_what_was_in_flight_is_asked_again(root_of: Any, part: str) -> None:
    expected = root_of().round(policy_of(), unit=1)
    for at in (1, PROMPTS, PROMPTS * IMAGES):
        root = root_of()
        broken = root.teacher if part == "teacher" else root.rewards[part]
        broken.fuse = Fuse(at)
        with pytest.raises(Killed):
            root.round(policy_of(), unit=1)
        root.reopen()
        assert root.round(policy_of(), unit=1) == expected
        assert len(root.writer.asked) == 1 and len(root.teacher.asked) == PROMPTS * IMAGES
        assert all(set(reward.asked.values()) == {1} for reward in root.rewards.values())
        assert root.store.ledger.spend().lost_calls == (part == "teacher")


@pytest.mark.parametrize(
    ("aspects", "message"),
    [
        ({"bright": Aspect("bright", 999.0)}, r"No image passes the threshold 999 .*the best of 12 images has \d+"),
        ({"dark": Aspect("dark"), "flat": Aspect("flat")}, r"'flat' cannot choose: the reward 'flat' gives all 12"),
        ({"bright": Aspect("birght")}, r"aspect 'bright' is chosen by 'birght', but no reward is called so"),
    ],
)
def test_a_round_that_cannot_choose_loses_nothing_and_a_corrected_one_asks_nobody(
    root_of: Any, aspects: dict[str, Aspect], message: str
) -> None:
    root = root_of(bright=Tone("bright", 1), dark=Tone("dark", -1), flat=Flat("flat", 0))
    wrong, right = policy_of(aspects), policy_of({"bright": Aspect("bright", 1.0)})
    with pytest.raises(ValueError, match=message):
        root.round(wrong)
    assert root.store.current() == root.sha
    drawn, scored = len(root.teacher.asked), sum(root.rewards["bright"].asked.values())
    assert drawn in (0, PROMPTS * IMAGES)  # a reward that does not exist is found before anything is drawn
    if drawn:
        assert len(candidates_of(root.store.ledger, root.round_id(wrong))) == PROMPTS
    root.reopen()
    assert root.round_id(right) != root.round_id(wrong), "another threshold decides another round"
    state = root.store.state(root.round(right))
    assert Counter(s.variant for e in state.entries.values() for s in e.samples)["bright"] == PROMPTS
    if drawn:
        assert len(root.writer.asked) == 1 and len(root.teacher.asked) == drawn
        assert sum(root.rewards["bright"].asked.values()) == scored


def test_a_teacher_that_takes_no_part_is_named_before_anything_is_written(root_of: Any) -> None:
    root, policy = root_of(), policy_of(drawn_by="itself")
    with pytest.raises(ValueError, match=r"drawn_by is 'itself', but no teacher is called so\. Allowed: self\."):
        root.round(policy)
    assert not root.writer.asked and not root.teacher.asked


def test_the_prompts_of_the_dataset_get_a_variant_beside_what_they_have(root_of: Any) -> None:
    root = root_of()
    policy = policy_of({"bright": Aspect("bright")}, prompts=None)
    (entry,) = root.store.state(root.round(policy)).entries.values()
    assert [(sample.variant, sample.teacher) for sample in entry.samples] == [("", "given"), ("bright", "self")]
    assert not root.writer.asked


class TwoOfOne(BestOfN):
    """Chooses two images of a prompt under one name, or an aspect without an image."""

    def __init__(self, nameless: bool) -> None:
        super().__init__({"bright": Aspect("bright")}, PROMPTS, IMAGES)
        self.nameless = nameless

    def decide(self, *args: Any) -> list[Decision]:
        best, *_ = super().decide(*args)
        if self.nameless:
            return [Decision("buy", best.prompt_id, variant="bright")]
        other = next(i for i in args[1] if i.prompt_id == best.prompt_id and i.teacher_sha256 != best.image_sha256)
        return [best, Decision("buy", best.prompt_id, image_sha256=other.teacher_sha256, variant="bright")]


@pytest.mark.parametrize(
    ("nameless", "message"),
    [
        (False, r"chose two images of prompt '\w+' with the variant 'bright'\. Allowed is one"),
        (True, r"decided 'buy' with image None for prompt '\w+'\. Allowed is `buy` with one of the 12 images"),
    ],
)
def test_a_choice_that_no_sample_can_hold_is_refused(root_of: Any, nameless: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        root_of().round(TwoOfOne(nameless))


def test_a_run_is_refused_before_it_starts_where_a_part_is_missing(root_of: Any) -> None:
    root = root_of()

    class Evolving:
        def evolution(self) -> Any:
            from evolvedirector.evolution.schedule import RoundSchedule
            from evolvedirector.planning.roles import EvolutionPlan

            settings = root.settings(policy_of({"a": Aspect("nobody")}))
            return EvolutionPlan(settings, RoundSchedule(1, None))

        def parts(self) -> dict[str, Any]:
            return {}

    (problem,) = problems_of([Evolving()], ())
    assert "aspect 'a' is chosen by 'nobody', but no reward is called so. Allowed: bright, dark." in problem
