"""The headline comparison: student against each teacher on held-out prompts, by a judge that chose no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from evolvedirector.callbacks._run.drawing import draw_share
from evolvedirector.callbacks._run.held_out import (
    held_out_prompts,
    reading_is_due,
    size_to_draw_px,
    training_judges,
    warn_of_training_judge,
)
from evolvedirector.callbacks._run.to_loggers import log_figures
from evolvedirector.evaluation.comparisons import compare_in_both_orders, win_rate_figures
from evolvedirector.evaluation.judge_gap import gap_figures
from evolvedirector.evaluation.prompt_choice import all_sized, requests_to_draw, spread_over_skills, unknown_size
from evolvedirector.evaluation.teacher_images import TeacherImages
from evolvedirector.evolution import Budget, ImageGenerator
from evolvedirector.execution.ranks import from_all_ranks, on_rank_zero
from evolvedirector.judges.judge import Judge, models_of
from evolvedirector.planning.roles import PlannedImages, PlannedRun
from evolvedirector.planning.spending import Reader
from evolvedirector.records import ImageRequest, Prompt, Verdict
from evolvedirector.records.part import Part
from evolvedirector.teachers.teacher import Teacher

Asked = Mapping[str, tuple[ImageRequest, Prompt]]
Pairs = Sequence[tuple[Prompt, bytes, bytes]]
"""Prompt, student's image, teacher's image."""
MAX_READINGS = 500
"""Kept for the curve over training; of more, the first and the last ones."""


class WinRate(pl.Callback):
    """Compare the student with each teacher on the datamodule's held-out prompts, in both orders, when training ends.

    A win counts 1, a tie 1/2; orders that disagree are a tie. Teacher images lie in `<default_root_dir>/evaluation`:
    each is asked for once, so later readings and a resumed run cost nothing. They are counted apart from the budget of
    evolution, as `evaluation_teacher_calls` and `evaluation_cost_usd`. Prompts that a teacher refuses or fails at are
    left out of its rate and counted. A judge or teacher that breaks costs the figures (a warning), not the run.

    Example:
        ```yaml
        - class_path: evolvedirector.callbacks.WinRate
          init_args:
            judge: {class_path: evolvedirector.worlds.shapes.MiniatureJudge}
            teachers:
              exact: {class_path: evolvedirector.worlds.shapes.MiniatureTeacher}
            max_prompts: 48
        ```
    """

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
        """Set who compares what.

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
            ValueError: No teacher, or a number out of range.
        """
        super().__init__()
        if not teachers:
            raise ValueError(
                "teachers is empty. Allowed: at least one. Write "
                "`teachers: {exact: {class_path: evolvedirector.worlds.shapes.MiniatureTeacher}}`, say."
            )
        for name, value, least in (
            ("max_prompts", max_prompts, 1),
            ("every_n_epochs", every_n_epochs, 1),
            ("budget_teacher_calls", budget_teacher_calls, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}. Allowed: {least} or more. Write `{name}: 16`, say.")
        self.judge = judge
        self.teachers = teachers
        self.max_prompts = max_prompts
        self.every_n_epochs = every_n_epochs
        self.budget_teacher_calls = budget_teacher_calls
        self.seed = seed
        self.compare_with_training_judge = compare_with_training_judge
        self._history: list[dict[str, Any]] = []
        self._figures: dict[str, Any] = {}
        self._read_step = -1

    def state_dict(self) -> dict[str, Any]:
        """Keep the last figures, so that a run that is over reports them again."""
        return {"figures": self._figures, "read_step": self._read_step, "history": self._history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the last figures."""
        self._figures, self._read_step = state_dict["figures"], state_dict["read_step"]
        self._history = state_dict.get("history", [])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse prompts of unknown size before training; warn when the judge chooses the training data too.

        Raises:
            RuntimeError: The size of the images is unknown.
        """
        if stage != "fit":
            return
        sized = all_sized(held_out_prompts(trainer), size_to_draw_px(trainer, pl_module))
        if not sized and isinstance(pl_module, ImageGenerator):
            raise RuntimeError(unknown_size(type(pl_module).__name__, "WinRate"))
        warn_of_training_judge(trainer, self.judge, "WinRate.judge")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read when a reading is due, and when this was the last epoch, before the last checkpoint is saved."""
        if reading_is_due(trainer, self.every_n_epochs):
            self._read(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read if training ended elsewhere than at the end of an epoch."""
        self._read(trainer, pl_module)

    def summary_entries(self) -> dict[str, Any]:
        """Return this callback's part of `summary.json`."""
        return dict(self._figures)

    def parts(self) -> dict[str, Part]:
        """Name judge and teachers, for those who verify and size them."""
        return {**{f"teachers.{name}": teacher for name, teacher in self.teachers.items()}, "judge": self.judge}

    def planned_images(self) -> PlannedImages:
        """Say whom it asks for images: once for each prompt and teacher."""
        each = dict.fromkeys(self.teachers, self.max_prompts)
        return PlannedImages(self.teachers, Budget(self.budget_teacher_calls, teacher_budgets=each))

    def planned_looks(self, run: PlannedRun) -> list[Reader]:
        """Count two looks for each pair of a reading, by its own judge and where asked for by the training judge."""
        readings, pairs = run.readings(self.every_n_epochs), min(self.max_prompts, run.held_out_prompts)
        looks = None if readings is None else 2 * len(self.teachers) * pairs * readings
        others = run.training_judges[:1] if self.compare_with_training_judge else ()
        return [
            Reader("WinRate.judge", self.judge, looks),
            *(Reader("the judge for WinRate", j, looks) for j in others),
        ]

    def plan_summary(self) -> dict[str, str]:
        """Say what evaluation may cost, for `evolvedirector check`."""
        most = len(self.teachers) * self.max_prompts
        if self.budget_teacher_calls is not None:
            most = min(most, self.budget_teacher_calls)
        row = {"evaluation teacher calls (once, outside the budget)": f"at most {most:,}"}
        if self.compare_with_training_judge:
            looks = f"at most {2 * most:,} a reading by each of two judges"
            row["evaluation looks (outside the budget)"] = looks
        return row

    def _read(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._read_step == trainer.global_step or not isinstance(module, ImageGenerator):
            return
        self._read_step = trainer.global_step
        prompts = spread_over_skills(held_out_prompts(trainer), self.max_prompts, self.seed)
        if not prompts:
            return
        asked = requests_to_draw(prompts, 1, self.seed, size_to_draw_px(trainer, module), "win rate")
        students = from_all_ranks(draw_share(trainer, module, [request for request, _ in asked.values()]))
        folder = Path(trainer.default_root_dir) / "evaluation"
        judge = self._training_judge(trainer)
        self._figures = on_rank_zero(lambda: self._compare(folder, asked, students, judge))
        self._history = [*self._history, self._point(trainer.global_step)]
        self._history = [*self._history[:1], *self._history[1:][-MAX_READINGS + 1 :]]
        self._figures |= {"win_rate_history": self._history}
        rates = self._figures["win_rate_held_out"]
        log_figures(trainer, {f"win_rate/{name}": rate["win_rate"] for name, rate in rates.items()})

    def _training_judge(self, trainer: pl.Trainer) -> Judge | None:
        """Return the judge that chose the training data, where it is asked for and is another model."""
        judges = training_judges(trainer) if self.compare_with_training_judge else []
        others = [judge for judge in judges if not models_of(judge) & models_of(self.judge)]
        return others[0] if others else None

    def _point(self, step: int) -> dict[str, Any]:
        """Return this reading as a point of the curves."""
        names = {"evaluation": "win_rate_held_out", "training": "win_rate_by_training_judge"}
        rates = {
            judge: {name: rate["win_rate"] for name, rate in (self._figures.get(key) or {}).items()}
            for judge, key in names.items()
        }
        return {"global_step": step, **rates}

    def _compare(
        self, folder: Path, asked: Asked, students: Mapping[str, bytes], training_judge: Judge | None
    ) -> dict[str, Any]:
        """Ask teachers and judges; on rank 0 alone."""
        kept = TeacherImages(folder, self.budget_teacher_calls)
        requests = [request for request, _ in asked.values()]
        rates, seen = {}, {}
        for name, teacher in self.teachers.items():
            images = self._images(kept, name, teacher, requests)
            pairs = [(asked[key][1], students[key], image) for key, image in images.items()]
            skills = {prompt.id: prompt.skill for prompt, _, _ in pairs}
            verdicts = _verdicts(self.judge, name, pairs)
            rates[name] = win_rate_figures(verdicts, skills) | _left_out(kept.outcomes(teacher, requests))
            if training_judge is not None:
                seen[name] = gap_figures(_verdicts(training_judge, name, pairs), verdicts, skills)
        calls, cost_usd = kept.spent()
        return {
            "win_rate_held_out": rates,
            "win_rate_by_training_judge": seen or None,
            "evaluation_teacher_calls": calls,
            "evaluation_cost_usd": round(cost_usd, 6),
        }

    def _images(
        self, kept: TeacherImages, name: str, teacher: Teacher, requests: Sequence[ImageRequest]
    ) -> dict[str, bytes]:
        try:
            try:
                kept.buy(teacher, requests)
            finally:
                teacher.close()
        except Exception as error:
            rank_zero_warn(f"The teacher {name!r} broke off in an evaluation; what it drew is kept: {error!r}")
        return kept.kept(teacher, requests)


def _verdicts(judge: Judge, teacher: str, pairs: Pairs) -> dict[str, Verdict]:
    """Ask a judge; one that breaks off gives none."""
    try:
        try:
            return compare_in_both_orders(judge, pairs)
        finally:
            judge.close()
    except Exception as error:
        rank_zero_warn(f"The win rate against the teacher {teacher!r} is left out: the judge broke off: {error!r}")
        return {}


def _left_out(outcomes: Mapping[str, int]) -> dict[str, int]:
    return {"refused": outcomes["refusal"], "failed": outcomes["failure"], "not_asked": outcomes["not asked"]}
