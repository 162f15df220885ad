"""Skills filled with images: what a round asks for, buys and states; rounds with a real SkillWriter and toys."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.errors import UserError
from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.round import run_round
from evolvedirector.evolution.round_parts import Round, RoundInterrupted, RoundParts, RoundWatch, tenants_of
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.models.part_files import built_part
from evolvedirector.policies import Policy, RunSize, SkillCycle
from evolvedirector.records import (
    Allowance,
    DatasetState,
    ImageReply,
    ImageRequest,
    Prompt,
    PromptEntry,
    RevisionChange,
    RoundInfo,
    Sample,
    WriteReply,
    WriteRequest,
)
from evolvedirector.report.history import read_history
from evolvedirector.report.rounds import rounds_story
from evolvedirector.store import RevisionFiles
from evolvedirector.store.dataset import DatasetStore
from evolvedirector.writers import SkillWriter
from tests import toys

FREE = Allowance(None, None, None)
INFO = RoundInfo("r", 0, None, 0, 0, "sha")


def state_of(**counts: int) -> DatasetState:
    entries = {}
    for skill, count in counts.items():
        for number in range(count):
            prompt = Prompt.create(f"{skill} {number}", skill=skill)
            entries[prompt.id] = PromptEntry(prompt, "live", Sample.create(prompt, "0" * 64, "self"))
    return DatasetState("sha", entries)


def with_candidates(state: DatasetState, **counts: int) -> DatasetState:
    prompts = [Prompt.create(f"new {s} {n}", "mutation", s) for s, count in counts.items() for n in range(count)]
    return DatasetState("sha", {**state.entries, **{p.id: PromptEntry(p, "candidate") for p in prompts}})


def test_it_asks_for_what_is_missing_and_for_nothing_when_all_is_full() -> None:
    policy = SkillCycle(["a", "b", "c"], prompts_per_skill=5, bought_from="self")
    assert isinstance(policy, Policy)
    plan = policy.plan(state_of(a=5, b=2, z=9), INFO)
    assert {request.skill: request.count for request in plan.write} == {"b": 3, "c": 5}
    assert not plan.screen and plan.bought_from == "self" and not plan.check_teacher and not plan.compare
    assert all(request.parent is None and len(request.known) == 16 for request in plan.write)
    assert len({request.request_id for request in plan.write}) == 2
    assert policy.plan(state_of(a=5, b=7, c=5), INFO).write == ()


def test_what_has_no_image_does_not_count() -> None:
    state = state_of(a=3)
    first, second, third = state.entries.values()
    lost = {
        first.prompt.id: PromptEntry(first.prompt, "retired"),
        second.prompt.id: PromptEntry(second.prompt, "candidate"),
    }
    mastered = {third.prompt.id: PromptEntry(third.prompt, "mastered", third.sample)}
    plan = SkillCycle(["a"], prompts_per_skill=3).plan(DatasetState("sha", lost | mastered), INFO)
    assert [request.count for request in plan.write] == [2]


def test_all_that_was_written_is_bought_the_skills_in_turn_and_a_shortfall_is_the_reason() -> None:
    policy, state = SkillCycle(["a", "b"], prompts_per_skill=4), with_candidates(state_of(a=1), a=3, b=2, z=2)
    decisions = policy.decide(state, [], FREE, INFO)
    assert [state.entries[d.prompt_id].prompt.skill for d in decisions] == ["a", "b", "a", "b", "a"]
    assert {d.kind for d in decisions} == {"buy"}
    assert {d.reason for d in decisions} == {"a: 3 of 3 missing prompts", "b: 2 of 4 missing prompts"}


def test_seeds_that_wait_are_none_of_its_business() -> None:
    seed = Prompt.create("a seed", skill="a")
    state = DatasetState("sha", {seed.id: PromptEntry(seed, "candidate")})
    assert SkillCycle(["a"]).decide(state, [], FREE, INFO) == []


def test_looks_mix_and_name_follow_the_settings() -> None:
    size = RunSize(3, None, 4, 2)
    assert SkillCycle(["a", "b"]).most_looks(size) == 0 and not SkillCycle(["a"]).checks_seeds
    checked = SkillCycle(["a", "b"], prompts_per_skill=10, check_teacher=True)
    assert checked.most_looks(size) == 64 and checked.checks_seeds
    assert checked.most_looks(RunSize(None, None)) is None and checked.most_looks(RunSize(None, 7)) == 7
    assert SkillCycle(["a"]).mix(state_of(a=1), [], INFO) is None
    mix = SkillCycle(["a", "b"], even=True).mix(state_of(a=1), [], INFO)
    assert mix is not None and mix.skill_weights == {"a": 1.0, "b": 1.0}
    others: list[dict[str, Any]] = [
        {}, {"prompts_per_skill": 2}, {"bought_from": "x"}, {"check_teacher": True}, {"even": True}
    ]  # fmt: skip
    assert len({SkillCycle(["a"], **other).fingerprint for other in others}) == 5


def test_skills_can_be_named_by_the_writers_files(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("name: tone\nseeds: [tone 3]\n")
    assert SkillCycle([str(tmp_path / "x.yaml"), "b"]).skills == ("tone", "b")
    described = {
        "class_path": "evolvedirector.policies.SkillCycle",
        "init_args": {"skills": [str(tmp_path / "x.yaml")]},
    }
    assert isinstance(built_part(described, Policy, "policy"), SkillCycle)


@pytest.mark.parametrize("wrong", [{"skills": []}, {"skills": ["a", "a"]}, {"skills": ["a"], "prompts_per_skill": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="skill"):
        SkillCycle(**wrong)
    with pytest.raises(UserError, match="bought_from is 'nobody'"):
        SkillCycle(["a"], bought_from="nobody").check_parts(["self"], [])


# --- whole rounds -----------------------------------------------------------------------------------------------------


class Tones:
    """Writes `tone N` with N even or odd as the skill says; remembers how often it was asked."""

    fingerprint = "tones"

    def __init__(self, ends: int = 256) -> None:
        self.ends, self.asked = ends, 0

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        for request in requests:
            self.asked += 1
            numbers = range(0 if request.skill == "even" else 1, self.ends, 2)
            start = request.seed % len(numbers)
            texts = [f"tone {n}" for n in [*numbers[start:], *numbers[:start]][: request.count]]
            yield WriteReply(request.request_id, tuple(texts))


class Shifted(toys.ToyTeacher):
    """Draws some tones too bright, so that the judge finds them unfaithful."""

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        for request in requests:
            self.asked.append(request.prompt)
            tone = toys.tone_of(request.prompt)
            yield ImageReply(request.request_id, "image", toys.flat_png((tone + 100) % 256 if tone % 3 == 0 else tone))


class Root:
    """A dataset with one given image, and rounds of the policy on it."""

    def __init__(self, folder: Path, policy: SkillCycle, inner: Any, budget: Budget | None = None) -> None:
        self.store = DatasetStore(folder / "data", create=True)
        self.policy, self.budget, self.inner = policy, budget or Budget(), inner
        self.teachers = {"other": toys.ToyTeacher("other"), "self": Shifted("self")}
        files = []
        for skill in ("even", "odd"):
            (folder / f"{skill}.yaml").write_text(json.dumps({"name": skill, "seeds": ["tone 999"]}))
            files.append(str(folder / f"{skill}.yaml"))
        self.writer = SkillWriter(inner, files, folder / "kept", rouge_limit=1.0, patience=2)
        image = self.store.blobs.put(toys.flat_png(1))
        first = Sample.create(Prompt.create("tone 998", skill="given"), image, "given")
        self.sha = self.store.publish(None, "import", RevisionChange(samples=(first,)))
        self.rounds = 0

    def round(self, watch: RoundWatch | None = None) -> DatasetState:
        """Run the next round, the same again after one that was broken off."""
        student = StudentPart(lambda requests: pytest.fail("the student is not asked"))
        judge = toys.ToyJudge()
        executor = LocalExecutor(tenants_of(student, self.teachers, judge, self.writer, {}), unit=4)
        who = (student, self.teachers, judge, self.writer, self.policy)
        parts = RoundParts(self.store, executor, *who, self.budget, 8)
        info = RoundInfo(f"r{self.rounds}", self.rounds, 9, 0, 10 * self.rounds, self.sha)
        self.sha = run_round(Round(parts, info, watch or RoundWatch()))
        self.rounds += 1
        return self.store.state(self.sha)

    def figures(self):
        return self.store.ledger.rounds.all()[-1].figures


@pytest.fixture
def root_of(tmp_path: Path):
    roots: list[Root] = []

    def make(*args: Any, **more: Any) -> Root:
        (folder := tmp_path / str(len(roots))).mkdir()
        roots.append(Root(folder, *args, **more))
        return roots[-1]

    yield make
    for root in roots:
        root.store.close()


def filled(state: DatasetState) -> Counter[str]:
    live = [entry for entry in state.in_state("live") if entry.sample and entry.prompt.skill != "given"]
    return Counter(f"{entry.prompt.skill} {entry.sample.teacher}" for entry in live)  # type: ignore[union-attr]


def test_a_round_fills_every_skill_from_the_named_teacher_and_the_next_one_buys_nothing(root_of) -> None:
    root = root_of(SkillCycle(["even", "odd"], prompts_per_skill=30, bought_from="self"), Tones())
    state = root.round()
    assert filled(state) == {"even self": 30, "odd self": 30} and not root.teachers["other"].asked
    assert all(
        toys.tone_of(e.prompt.text) % 2 == (e.prompt.skill == "odd")
        for e in state.in_state("live")
        if e.prompt.skill != "given"
    )
    assert root.figures().decisions["buy"] == 60 and not root.figures().shortfalls
    asked, drawn = root.inner.asked, len(root.teachers["self"].asked)
    again = root.round()
    assert filled(again) == filled(state) and (root.inner.asked, len(root.teachers["self"].asked)) == (asked, drawn)
    assert root.store.ledger.spend().teacher_calls == 60


def test_what_the_budget_left_is_bought_by_the_next_round_without_another_question(root_of) -> None:
    root = root_of(SkillCycle(["even", "odd"], 20, "other"), Tones(), Budget(teacher_calls_per_round=30))
    assert filled(root.round()) == {"even other": 15, "odd other": 15}
    asked = root.inner.asked
    assert filled(root.round()) == {"even other": 20, "odd other": 20} and root.inner.asked == asked


def test_a_shortfall_is_told_by_skill_and_asked_for_once(root_of) -> None:
    root = root_of(SkillCycle(["even", "odd"], 40, "other"), Tones(ends=50))
    assert filled(root.round()) == {"even other": 25, "odd other": 25}
    assert root.figures().shortfalls.keys() == {"even", "odd"}
    assert "25 of 40 prompts of even" in root.figures().shortfalls["even"]
    reasons = {decision.reason for decision in root.store.ledger.rounds.decisions("r0")}
    assert reasons == {"even: 25 of 40 missing prompts", "odd: 25 of 40 missing prompts"}
    history = read_history(root.store.ledger, RevisionFiles(root.store.root), root.sha)
    (told,) = rounds_story(root.store.ledger, history, root.sha)["rounds"]
    assert told["shortfalls"] == root.figures().shortfalls, "the report tells it"
    asked = root.inner.asked
    with pytest.warns(UserWarning, match="no news left"):
        root.round()
    assert root.inner.asked == asked and root.figures().shortfalls.keys() == {"even", "odd"}


def test_filtered_data_are_filled_up_with_other_prompts(root_of) -> None:
    root = root_of(SkillCycle(["even", "odd"], 12, "self", check_teacher=True), Tones())
    state = root.round()
    assert len(state.in_state("retired")) > 0 and sum(filled(state).values()) < 24
    for _ in range(6):
        state = root.round()
    assert filled(state) == {"even self": 12, "odd self": 12}
    assert not any(toys.tone_of(e.prompt.text) % 3 == 0 for e in state.in_state("live") if e.prompt.skill != "given")


def test_a_round_broken_off_anywhere_writes_and_draws_nothing_twice(root_of) -> None:
    policy = SkillCycle(["even", "odd"], 10, "self")
    whole, broken = root_of(policy, Tones()), root_of(policy, Tones())
    expected = whole.round()
    for stops in range(1, 30):
        calls = iter(range(1000))
        watch = RoundWatch(lambda calls=calls, stops=stops: "now" if next(calls) >= stops else None)
        try:
            state = broken.round(watch)
        except RoundInterrupted:
            continue
        break
    assert list(state.entries) == list(expected.entries)
    assert broken.inner.asked == whole.inner.asked and len(broken.teachers["self"].asked) == 20


def test_a_teacher_that_nobody_is_ends_the_round_before_anything_is_asked(root_of) -> None:
    root = root_of(SkillCycle(["even"], 10, "nobody"), Tones())
    with pytest.raises(UserError, match="no teacher is called so"):
        root.round()
    assert root.inner.asked == 0
