"""The headline comparison: student against each teacher on held-out prompts, by a judge that chose no data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from evolvedirector.errors import UserError
from evolvedirector.evaluation.comparisons import compare_in_both_orders, gap_figures, win_rate_figures
from evolvedirector.evaluation.prompt_choice import refuse_below, requests_to_draw, spread_over_skills
from evolvedirector.evaluation.suite import Asked, Drawn, Figure, Offered, Outcome, Readings, Sitting
from evolvedirector.evaluation.teacher_images import TeacherImages
from evolvedirector.judges.judge import Judge
from evolvedirector.records import ImageRequest, Prompt, Verdict, digest
from evolvedirector.records.part import Part
from evolvedirector.teachers.teacher import Teacher

Pairs: TypeAlias = Sequence[tuple[Prompt, bytes, bytes]]
"""Prompt, student's image, teacher's image."""
MAX_READINGS = 500
"""Kept for the curve over training; of more, the first and the last ones."""
_COSTS = "costs"
_WORDS = {"refused": "refusal", "failed": "failure", "not_asked": "not asked"}
"""Keys of `summary.json`, and what `TeacherImages` calls these outcomes."""


class TeacherComparison:
    """Compare the student with each teacher on the datamodule's held-out prompts, in both orders.

    A win counts 1, a tie 1/2; orders that disagree are a tie. Teacher images lie in `<default_root_dir>/evaluation`:
    each is asked for once, so later readings and a resumed run cost nothing. They are counted apart from the budget of
    evolution, as `evaluation_teacher_calls` and `evaluation_cost_usd`. Prompts that a teacher refuses or fails at are
    left out of its rate and counted. A judge or teacher that breaks costs the figures (a warning), not the run.
    A second comparison of a run has a budget and counts of its own, in `evaluation/suites/<name>`, and takes what the
    first one bought.

    Args:
        judge: Compares; use another than the training judge, or its errors are measured as success.
        teachers: Whom the student is compared with, by name.
        max_prompts: Held-out prompts at most, spread over skills.
        every_n_epochs: Epochs between further readings. None: only when training ends.
        budget_teacher_calls: Teacher images for evaluation in all. None: one per prompt and teacher.
        seed: Root of the choice of prompts and of the seeds.
        compare_with_training_judge: Show the same pairs to the judge of the training data too, so that the report
            can tell where only that one sees progress. It doubles the looks; they are outside of the budget.

    Raises:
        UserError: No teacher, or a number out of range.
    """

    reads_alone = True  # it buys

    def __init__(
        self,
        judge: Judge,
        teachers: dict[str, Teacher],
        max_prompts: int = 64,
        every_n_epochs: int | None = None,
        budget_teacher_calls: int | None = None,
        seed: int = 0,
        compare_with_training_judge: bool = False,
    ) -> None:
        if not teachers:
            raise UserError(
                "teachers is empty. Allowed: at least one. Write "
                "`teachers: {exact: {class_path: evolvedirector.worlds.shapes.MiniatureTeacher}}`, say."
            )
        refuse_below(1, max_prompts=max_prompts, every_n_epochs=every_n_epochs)
        refuse_below(0, budget_teacher_calls=budget_teacher_calls)
        self.judge = judge
        self.teachers = teachers
        self.max_prompts = max_prompts
        self.every_n_epochs = every_n_epochs
        self.budget_teacher_calls = budget_teacher_calls
        self.seed = seed
        self.compare_with_training_judge = compare_with_training_judge

    @property
    def fingerprint(self) -> str:
        """Name judge, teachers, choice and seeds; the prompts are the datamodule's."""
        teachers = sorted(teacher.fingerprint for teacher in self.teachers.values())
        return f"win-rate-1/{digest(self.judge.fingerprint, self.max_prompts, self.seed, *teachers)}"

    def prompts(self, offered: Offered) -> Sequence[Prompt]:
        """Choose held-out prompts, from each skill about equally many."""
        return spread_over_skills(offered.held_out, self.max_prompts, self.seed)

    def requests(self, offered: Offered) -> Asked:
        """Ask for one image of each: the same for every step, so that teachers are asked once."""
        return requests_to_draw(self.prompts(offered), 1, self.seed, offered.size_px, "win rate")

    def read(self, drawn: Sequence[Drawn], sitting: Sitting) -> Readings:
        """Ask teachers and judges; by teacher: verdicts by prompt id, and what became of the questions to it."""
        first = None if sitting.first_folder is None else TeacherImages(sitting.first_folder)
        kept = TeacherImages(sitting.folder, self.budget_teacher_calls, first)
        requests = [sitting.asked[one.request_id][0] for one in drawn]
        students = {one.request_id: one for one in drawn}
        found: dict[str, Any] = {}
        for name, teacher in self.teachers.items():
            images = _images(kept, name, teacher, requests)
            pairs = [(students[key].prompt, students[key].image, image) for key, image in images.items()]
            of_teacher: dict[str, Any] = {"verdicts": _verdicts(self.judge, name, pairs)}
            if sitting.training_judge is not None:
                of_teacher["training"] = _verdicts(sitting.training_judge, name, pairs)
            counts = kept.outcomes(teacher, requests)
            found[name] = of_teacher | {"left_out": {key: counts[word] for key, word in _WORDS.items()}}
        calls, cost_usd = kept.spent()
        return {"teachers": found, _COSTS: [calls, cost_usd]}

    def figures(self, readings: Readings, sitting: Sitting) -> Outcome:
        """Return the win rate against each teacher, by the judge and where asked for by the training judge."""
        skills = {prompt.id: prompt.skill for _, prompt in sitting.asked.values()}
        rates, seen = {}, {}
        for name, found in readings["teachers"].items():
            rates[name] = win_rate_figures(found["verdicts"], skills) | found["left_out"]
            if "training" in found:
                seen[name] = gap_figures(found["training"], found["verdicts"], skills)
        point = {"global_step": sitting.offered.global_step, "evaluation": _rates(rates), "training": _rates(seen)}
        history = [*sitting.before.get("win_rate_history", []), point]
        calls, cost_usd = readings[_COSTS]
        summary = {
            "win_rate_held_out": rates,
            "win_rate_by_training_judge": seen or None,
            "evaluation_teacher_calls": calls,
            "evaluation_cost_usd": round(cost_usd, 6),
            "win_rate_history": [*history[:1], *history[1:][-MAX_READINGS + 1 :]],
        }
        return Outcome(_rows(rates), summary, {f"win_rate/{name}": rate["win_rate"] for name, rate in rates.items()})

    def parts(self) -> Mapping[str, Part]:
        """Name judge and teachers."""
        return {**{f"teachers.{name}": teacher for name, teacher in self.teachers.items()}, "judge": self.judge}

    def looks(self, held_out: int) -> Mapping[str, int]:
        """Count two looks for each pair."""
        return {"judge": 2 * len(self.teachers) * min(self.max_prompts, held_out)}

    def asked_teachers(self) -> tuple[Mapping[str, Teacher], int, int | None]:
        """Say whom it asks for images: once for each prompt and teacher."""
        return self.teachers, self.max_prompts, self.budget_teacher_calls


def _images(kept: TeacherImages, name: str, teacher: Teacher, requests: Sequence[ImageRequest]) -> dict[str, bytes]:
    try:
        try:
            kept.buy(teacher, requests)
        finally:
            teacher.close()
    except Exception as error:
        warnings.warn(f"The teacher {name!r} broke off in an evaluation; what it drew is kept: {error!r}", stacklevel=2)
    return kept.kept(teacher, requests)


def _verdicts(judge: Judge, teacher: str, pairs: Pairs) -> dict[str, Verdict]:
    """Ask a judge; one that breaks off gives none."""
    try:
        try:
            return compare_in_both_orders(judge, pairs)
        finally:
            judge.close()
    except Exception as error:
        said = f"The win rate against the teacher {teacher!r} is left out: the judge broke off: {error!r}"
        warnings.warn(said, stacklevel=2)
        return {}


def _rates(of: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    return {name: rate["win_rate"] for name, rate in of.items()}


def _rows(rates: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    rows = {}
    for name, rate in rates.items():
        ends = rate["interval"]
        rows[name] = Figure(rate["win_rate"], None if ends is None else (ends[0], ends[1]), rate["prompts"])
    return rows
