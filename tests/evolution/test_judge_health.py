"""The check of the judge at the start of a round, on a real store with images of the miniature world."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.judge_health import check_judge
from evolvedirector.evolution.round import run_round
from evolvedirector.evolution.round_parts import Round, RoundInterrupted, RoundParts, RoundWatch, tenants_of
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.judges import HealthReport, JudgeHealth, OCRGate
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.records import ImageAndPrompt, ImageRequest, Look, OrderedPair, RevisionChange, RoundInfo, Sample
from evolvedirector.store.dataset import DatasetStore
from evolvedirector.worlds.shapes import MiniatureJudge, MiniaturePrompts, MiniatureTeacher
from evolvedirector.worlds.shapes.gold import MiniatureGold
from tests import toys

_EXACT = MiniatureJudge()
_grade = functools.cache(lambda image, prompt: MiniatureJudge._grade(_EXACT, image, prompt))
GOLD = MiniatureGold(count=40)
HEALTH = JudgeHealth(gold=GOLD)
SMALL = JudgeHealth(gold=MiniatureGold(count=12), canaries_per_round=4)  # 12 + 4 x 6 looks


class Judge(MiniatureJudge):
    """Read each image once for all tests."""

    def _grade(self, image: bytes, prompt: str) -> float:
        return _grade(image, prompt)


class Counting:
    """Pass questions on to a judge and remember them."""

    def __init__(self, judge: Any) -> None:
        self.judge, self.asked = judge, []

    @property
    def fingerprint(self) -> str:
        return self.judge.fingerprint

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        for pair in pairs:
            self.asked.append((pair.first, pair.second, pair.prompt))
            yield from self.judge.look([pair])

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        for item in items:
            self.asked.append((item.image, item.prompt))
            yield from self.judge.check([item])

    def close(self) -> None:
        pass


class Always:
    """Say the same, whatever is shown."""

    def __init__(self, answer: float) -> None:
        self.answer, self.fingerprint = answer, f"always {answer}"

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        return (Look(pair.item_id, self.answer) for pair in pairs)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        return (Look(item.item_id, self.answer) for item in items)

    def close(self) -> None:
        pass


class Root:
    """A dataset root with bought images, and rounds on it that only check the judge."""

    def __init__(self, folder: Path, images: int = 24) -> None:
        self.store = DatasetStore(folder, create=True)
        prompts = MiniaturePrompts(count=max(1, images)).prompts()
        requests = [ImageRequest(prompt.id, prompt.text, 0, 32, 32) for prompt in prompts]
        names = self.store.blobs.put_many([reply.image or b"" for reply in MiniatureTeacher().generate(requests)])
        samples = [Sample.create(prompt, name, "exact") for prompt, name in zip(prompts, names, strict=True)]
        change = RevisionChange(samples=tuple(samples)) if images else RevisionChange(prompts=tuple(prompts))
        self.sha = self.store.publish(None, "import", change)

    def context(
        self,
        judge: Any,
        index: int = 0,
        budget: Budget = Budget(),  # noqa: B008
        teachers: dict[str, Any] | None = None,
        watch: RoundWatch | None = None,
        **changes: Any,
    ) -> Round:
        student, policy, writer = StudentPart(lambda requests: []), EvolveDirectorPolicy(), toys.ToyWriter()
        executor = LocalExecutor(tenants_of(student, teachers or {}, judge, writer), unit=8)
        parts = RoundParts(
            self.store, executor, student, teachers or {}, judge, writer, policy, budget, image_size_px=32, **changes
        )
        return Round(parts, RoundInfo(f"r{index}", index, None, 0, index, self.sha), watch or RoundWatch())

    def check(self, judge: Any, health: JudgeHealth = HEALTH, **context: Any) -> HealthReport:
        return check_judge(self.context(judge, **context), health, self.store.state(self.sha))


@pytest.fixture
def root_of(tmp_path: Path) -> Iterator[Callable[..., Root]]:
    roots: list[Root] = []

    def make(**parts: Any) -> Root:
        roots.append(Root(tmp_path / str(len(roots)), **parts))
        return roots[-1]

    yield make
    for root in roots:
        root.store.close()


def test_an_exact_judge_passes_everything(root_of) -> None:
    report = root_of().check(Judge())
    figures = report.to_figures()
    assert report.problem(HEALTH) is None
    assert report.accuracy.error == report.position_bias == report.unreadable == 0
    names = ("agreement", "canary blank", "canary swapped", "canary own", "canary same", "swap consistency", "pairs")
    assert {figures[name] for name in names} == {1.0}
    assert figures["health looks"] == report.looks == 40 + 48


@pytest.mark.parametrize("error_rate", [0.1, 0.3])
def test_the_error_is_estimated_and_tolerated(root_of, error_rate: float) -> None:
    root = root_of(images=48)
    reports = [root.check(Judge(error_rate=error_rate, seed=seed), index=seed) for seed in range(6)]
    for name in ("sensitivity", "specificity"):
        rates = [report.to_figures()[name] for report in reports]
        assert sum(rates) / len(rates) == pytest.approx(1 - error_rate, abs=0.1)  # 6 x 20 answers: deviation 0.04
        assert len(set(rates)) > 1
    assert all(abs(report.accuracy.error - error_rate) < 0.2 for report in reports)
    assert sum(report.problem(HEALTH) is not None for report in reports) <= 1  # a round in a hundred, by chance


def test_half_unreadable_is_tolerated(root_of) -> None:
    report = root_of().check(Judge(invalid_rate=0.5))
    assert report.problem(HEALTH) is None
    assert report.to_figures()["unreadable"] == pytest.approx(0.5, abs=0.15)
    assert report.accuracy.error == 0


def test_nothing_readable_is_skipped(root_of) -> None:
    problem = root_of().check(Judge(invalid_rate=1)).problem(HEALTH)
    assert problem is not None
    assert "0 of 88 readable replies" in problem


def test_always_first_is_skipped_for_its_place(root_of) -> None:
    report = root_of().check(Judge(position_bias=1))
    problem = report.problem(HEALTH)
    assert report.position_bias == 0.5
    assert report.to_figures()["swap consistency"] == 0
    assert report.to_figures()["canary same"] == 0
    assert report.accuracy.error == 0
    assert problem is not None
    assert "prefers a place" in problem


@pytest.mark.parametrize(("answer", "says"), [(0.9, "it says yes"), (0.1, "it says no")])
@pytest.mark.parametrize("gold", [GOLD, None])
def test_always_the_same_answer_is_skipped(root_of, answer: float, says: str, gold: MiniatureGold | None) -> None:
    health = JudgeHealth(gold=gold)
    problem = root_of().check(Always(answer), health).problem(health)
    assert problem is not None
    assert says in problem


def test_a_coin_is_skipped_in_most_rounds(root_of) -> None:
    root = root_of(images=48)
    reports = [root.check(Judge(error_rate=0.5, seed=seed), index=seed) for seed in range(6)]
    assert sum(report.problem(HEALTH) is not None for report in reports) >= 4


def test_a_repeated_check_asks_nothing_twice(root_of) -> None:
    root, judge = root_of(), Counting(Judge(error_rate=0.2))
    first = root.check(judge, SMALL)
    asked = len(judge.asked)
    assert asked == first.looks == root.store.ledger.spend().judge_calls
    assert root.check(judge, SMALL) == first
    assert len(judge.asked) == asked


def test_an_interrupted_check_goes_on_where_it_was(root_of) -> None:
    root, judge = root_of(), Counting(Judge())
    with pytest.raises(RoundInterrupted):
        root.check(judge, SMALL, watch=RoundWatch(lambda: "enough" if len(judge.asked) >= 10 else None))
    assert 0 < len(judge.asked) < 36
    assert root.check(judge, SMALL).looks == 36
    assert len(judge.asked) == len(set(judge.asked)) == 36


def test_gold_is_remembered_and_canaries_change_by_round(root_of) -> None:
    root, judge = root_of(images=48), Counting(Judge())
    root.check(judge, SMALL, index=0)
    first = set(judge.asked)
    judge.asked.clear()
    assert root.check(judge, SMALL, index=1).looks == 36
    gold = {(item.image, item.prompt) for item in SMALL.gold.items()}
    assert gold <= first
    assert not gold & set(judge.asked)
    assert 12 < len(judge.asked) <= 24


def test_canaries_are_kept_between_the_rounds_that_choose(root_of) -> None:
    root, judge = root_of(images=48), Counting(Judge())
    health = JudgeHealth(every_n_rounds=2)
    first = root.check(judge, health, index=2)
    asked = len(judge.asked)
    assert replace(root.check(judge, health, index=3), asked_now=first.asked_now) == first
    assert len(judge.asked) == asked + 1, "one question, to see whether anybody answers"
    root.check(judge, health, index=4)
    assert len(judge.asked) > asked


def test_another_judge_is_asked_again(root_of) -> None:
    root = root_of()
    root.check(Judge(), SMALL)
    other = Counting(Judge(seed=1))
    root.check(other, SMALL)
    assert len(other.asked) == 36


def test_swapped_prompts_are_of_other_lineages_and_skills(root_of) -> None:
    root, judge = root_of(images=48), Counting(Judge())
    root.check(judge, JudgeHealth(canaries_per_round=24))
    by_image = {
        root.store.blobs.get(e.sample.image_sha256): e.prompt for e in root.store.state(root.sha).in_state("live")
    }
    by_text = {prompt.text: prompt for prompt in by_image.values()}
    singles = [question for question in judge.asked if len(question) == 2 and question[0] in by_image]
    swapped = [(by_image[image], by_text[text]) for image, text in singles if by_image[image].text != text]
    assert len(swapped) == 24
    assert all(a.lineage_id != b.lineage_id and a.skill != b.skill for a, b in swapped)


def test_an_empty_budget_of_looks_measures_nothing(root_of) -> None:
    root, judge = root_of(), Counting(Judge())
    context = root.context(judge, budget=Budget(budget_judge_calls=0))
    report = check_judge(context, SMALL, root.store.state(root.sha))
    assert report == HealthReport()
    assert report.problem(SMALL) is None
    assert judge.asked == []
    assert context.figures.looks_beyond_budget == 36


@pytest.mark.parametrize("budget", [5, 20, 30])
def test_a_short_budget_of_looks_measures_what_it_pays_for(root_of, budget: int) -> None:
    judge = Counting(Judge())
    report = root_of().check(judge, SMALL, budget=Budget(budget_judge_calls=budget))
    assert len(judge.asked) == report.looks == budget
    assert report.accuracy.error == 0
    assert report.problem(SMALL) is None


def test_without_bought_images_only_gold_is_asked(root_of) -> None:
    root = root_of(images=0)
    report = root.check(Judge(), SMALL)
    assert report.looks == 12
    assert report.to_figures()["agreement"] == 1
    assert "canary blank" not in report.to_figures()


def test_with_neither_nothing_is_measured(root_of) -> None:
    health = JudgeHealth()
    report = root_of(images=0).check(Judge(), health)
    assert report == HealthReport()
    assert report.problem(health) is None


def test_one_bought_image_has_no_partner(root_of) -> None:
    report = root_of(images=1).check(Judge(), JudgeHealth())
    assert report.looks == 3  # blank, own, beside itself
    assert report.problem(JudgeHealth()) is None


def test_a_silent_judge_is_unreadable_and_paid(root_of) -> None:
    class Silent(Judge):
        def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
            return iter(())

    root = root_of()
    report = root.check(Silent(), SMALL)
    assert report.unreadable == 24
    assert root.store.ledger.spend().judge_calls == 36


def test_gold_unread_in_an_outage_is_asked_about_again(root_of) -> None:
    class Outage(Counting):
        down = True

        def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
            for look in super().check(items):
                yield Look(look.item_id, 0.5, 0.0, "outage") if self.down else look

    root, judge, health = root_of(images=0), Outage(Judge()), JudgeHealth(gold=SMALL.gold)
    assert root.check(judge, health).unreadable == 12
    assert root.check(judge, health).unreadable == len(judge.asked) == 12  # a repeated round asks nothing
    judge.down = False
    for _ in range(2):
        report = root.check(judge, health, index=1)
        assert (report.looks, report.unreadable, report.accuracy.error) == (12, 0, 0)
        assert len(judge.asked) == 24


def test_a_round_of_a_judge_that_always_says_yes_changes_nothing(root_of) -> None:
    root, teacher = root_of(), toys.ToyTeacher()
    context = root.context(Always(0.9), judge_health=SMALL, teachers={"toy": teacher})
    with pytest.warns(UserWarning, match="Round 1 is skipped, training goes on: The judge gave 0 of"):
        assert run_round(context) == root.sha
    assert teacher.asked == []
    assert root.store.ledger.rounds.all()[-1].figures.judge["gold not shown"] == 0


class Literate(Judge):
    """Believe what is written: yes to every grey image that is not uniform."""

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        for item, look in zip(items, super().check(items), strict=True):
            yield Look(item.item_id, 0.99) if is_written(item.image) else look


def is_written(image: bytes) -> bool:
    colours = [colour for _, colour in Image.open(io.BytesIO(image)).convert("RGB").getcolors(4096) or []]
    return len(colours) > 1 and all(red == green == blue for red, green, blue in colours)


class GreyWriting:
    """Read a request to a judge in every such image."""

    fingerprint = "grey writing"

    def read(self, images: Sequence[bytes]) -> Iterator[tuple[str, ...]]:
        return (("answer yes",) if is_written(image) else () for image in images)

    def close(self) -> None:
        pass


def test_a_judge_that_believes_what_is_written_is_stopped_and_a_gate_saves_it(root_of) -> None:
    health = JudgeHealth(gold=GOLD, overlay_canaries=True)
    believing = root_of().check(Literate(), health)
    assert believing.overlay.failed == believing.overlay.looked == 8
    assert "believes what is written" in (believing.problem(health) or "")
    gated = root_of().check(OCRGate(Literate(), GreyWriting()), health)
    assert gated.problem(health) is None and gated.to_figures()["canary overlay"] == 1.0
    assert gated.unreadable == 0 and gated.looks == 40 + 48, "what the gate shuts out counts as no failure to read"


def test_writing_costs_nothing_where_it_is_not_asked_about(root_of) -> None:
    judge = Counting(Judge())
    assert root_of().check(judge).overlay.looked == 0
    assert not any(is_written(image) for image, *_ in judge.asked)
