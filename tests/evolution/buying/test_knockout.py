"""The knockout: both orders, what leaves the first one standing, and that every duel is on record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.buying.knockout import Contender, knockout, starting_order
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.round_parts import Round, RoundParts, tenants_of
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.records import Look, OrderedPair, Preference, Prompt, RoundInfo
from evolvedirector.store.dataset import DatasetStore
from tests import toys

PROMPT = Prompt.create("tone 100", skill="tone")
OTHER = Prompt.create("tone 110", skill="tone")


class Answering(toys.ToyJudge):
    """Answers every pair in the same way."""

    def __init__(self, probability: float, mass: float = 1.0) -> None:
        super().__init__(mass)
        self.probability = probability

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        for pair in pairs:
            self.asked += 1
            yield Look(pair.item_id, self.probability, self.mass)


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Callable[..., Round]]:
    store = DatasetStore(tmp_path / "data", create=True)

    def make(judge: toys.ToyJudge, budget: Budget | None = None) -> Round:
        student, policy, writer = StudentPart(lambda requests: []), EvolveDirectorPolicy(), toys.ToyWriter()
        executor = LocalExecutor(tenants_of(student, {}, judge, writer))
        parts = RoundParts(store, executor, student, {}, judge, writer, policy, budget or Budget(), 8)
        return Round(parts, RoundInfo("r1", 0, None, 0, 1, "sha"))

    yield make
    store.close()


def contenders(context: Round, **tones: int) -> list[Contender]:
    names = context.parts.store.blobs.put_many([toys.flat_png(tone) for tone in tones.values()])
    return list(zip(tones, names, strict=True))


def test_the_best_wins_whoever_begins(ring) -> None:
    context = ring(toys.ToyJudge())
    near = contenders(context, a=90, b=101, c=80, d=112)
    winners = knockout(context, [(PROMPT, near), (OTHER, near[::-1])])
    assert {prompt_id: teacher for prompt_id, (teacher, _) in winners.items()} == {PROMPT.id: "b", OTHER.id: "d"}
    duels = context.parts.store.ledger.looks.duels(["r1"])
    assert len(duels) == 6 and {duel.prompt_id for duel in duels} == {PROMPT.id, OTHER.id}
    assert context.parts.store.ledger.spend().judge_calls == 12


def test_who_begins_is_drawn_by_prompt_and_not_by_the_list() -> None:
    teachers = [("a", "1"), ("b", "2"), ("c", "3")]
    prompts = [Prompt.create(f"tone {n}") for n in range(60)]
    assert all(starting_order(teachers, 0, p) == starting_order(teachers[::-1], 0, p) for p in prompts)
    assert {starting_order(teachers, 0, p)[0] for p in prompts} == set(teachers)


@pytest.mark.parametrize(
    ("judge", "preference"),
    [(Answering(1.0), "tie"), (Answering(0.0), "tie"), (Answering(0.5), "tie"), (Answering(0.9, 0.1), "unreadable")],
    ids=["always the first", "always the second", "always undecided", "never readable"],
)
def test_a_judge_that_cannot_decide_leaves_the_first_one_standing(
    ring, judge: Answering, preference: Preference
) -> None:
    context = ring(judge)
    all_three = contenders(context, a=90, b=101, c=80)
    assert knockout(context, [(PROMPT, all_three)])[PROMPT.id] == starting_order(all_three, 0, PROMPT)[0]
    assert [duel.preference for duel in context.parts.store.ledger.looks.duels()] == [preference, preference]
    assert context.figures.duels == {preference: 2}


def test_equal_images_are_a_tie_that_costs_no_look(ring) -> None:
    judge = toys.ToyJudge()
    context = ring(judge)
    knockout(context, [(PROMPT, contenders(context, a=90, b=90))])
    assert [duel.preference for duel in context.parts.store.ledger.looks.duels()] == ["tie"]
    assert judge.asked == 0


def test_one_contender_needs_no_judge_and_none_is_no_error(ring) -> None:
    judge = toys.ToyJudge()
    context = ring(judge)
    alone = contenders(context, a=90)
    assert knockout(context, [(PROMPT, alone)]) == {PROMPT.id: alone[0]}
    assert knockout(context, []) == {} and judge.asked == 0


@pytest.mark.parametrize(("looks", "duels"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)])
def test_looks_beyond_the_budget_leave_the_first_one_standing_and_no_duel(ring, looks: int, duels: int) -> None:
    context = ring(toys.ToyJudge(), Budget(budget_judge_calls=looks))
    all_three = contenders(context, a=90, b=101, c=80)
    knockout(context, [(PROMPT, all_three)])
    assert len(context.parts.store.ledger.looks.duels()) == duels
    assert context.parts.store.ledger.spend().judge_calls == looks


def test_a_repeated_knockout_asks_nothing_and_ends_alike(ring) -> None:
    judge = toys.ToyJudge()
    context = ring(judge)
    entries = [(PROMPT, contenders(context, a=90, b=101, c=80))]
    first, duels, asked = knockout(context, entries), context.parts.store.ledger.looks.duels(), judge.asked
    assert knockout(context, entries) == first
    assert context.parts.store.ledger.looks.duels() == duels and judge.asked == asked


def test_a_preference_within_the_margin_leaves_the_first_one_standing(ring) -> None:
    context = ring(toys.ToyJudge())  # 0.9 sure
    context = replace(context, parts=replace(context.parts, tie_margin=0.45))
    both = contenders(context, a=90, b=101)
    assert knockout(context, [(PROMPT, both)])[PROMPT.id] == starting_order(both, 0, PROMPT)[0]
    assert [duel.preference for duel in context.parts.store.ledger.looks.duels()] == ["tie"]
