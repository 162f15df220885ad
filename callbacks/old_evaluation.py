"""Three callbacks of before, by their old names for one release: each is an `EvaluationCallback` with one suite."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolvedirector.callbacks.evaluation import EvaluationCallback
from evolvedirector.evaluation.suite import Outcome
from evolvedirector.evaluation.suites.forgetting import MasteredPrompts
from evolvedirector.evaluation.suites.held_out import HeldOutAccuracy
from evolvedirector.evaluation.suites.win_rate import TeacherComparison
from evolvedirector.judges.judge import Judge
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.teachers.teacher import Teacher


class _OneSuite(EvaluationCallback):
    """What the three share: places as they were written, and no table beside the old keys."""

    def _place(self, suite: str, part: str) -> str:
        return part

    def _entries(self, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
        """Return the old keys only: several of these stand in one run."""
        return {key: value for key, value in super()._entries(outcomes).items() if key != "suites"}

    @property
    def state_key(self) -> str:
        """Keep the key of before."""
        return type(self).__name__

    def _take_over(self, name: str, summary: dict[str, Any], step: int) -> None:
        self._read_at = {name: step}
        if summary:
            super().load_state_dict(
                {
                    "outcomes": {name: {"rows": {}, "summary": summary}},
                    "read_at": {name: step},
                    "validated_at": {name: step},
                }
            )


class SkillAccuracy(_OneSuite):
    """Old name of `EvaluationCallback` with the suite `HeldOutAccuracy`; the next release drops it.

    Args:
        reader: As there.
        seeds_per_prompt: As there.
        seed: As there.
        trained_kinds: As there.
    """

    def __init__(
        self,
        reader: Judge,
        seeds_per_prompt: int = 1,
        seed: int = 0,
        trained_kinds: PromptSource | str | Path | None = None,
    ) -> None:
        _warn("SkillAccuracy", "held_out", "HeldOutAccuracy")
        super().__init__({"held_out": HeldOutAccuracy(reader, seeds_per_prompt, seed, trained_kinds)}, False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read checkpoints of before, too."""
        if "outcomes" in state_dict:
            return super().load_state_dict(state_dict)
        step, images = state_dict.get("read_at", (-1, 0))
        self._take_over("held_out", state_dict.get("figures", {}), step if images else -1)


class WinRate(_OneSuite):
    """Old name of `EvaluationCallback` with the suite `TeacherComparison`; the next release drops it.

    Args:
        judge: As there.
        teachers: As there.
        max_prompts: As there.
        every_n_epochs: As there.
        budget_teacher_calls: As there.
        seed: As there.
        compare_with_training_judge: As there.
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
        _warn("WinRate", "win_rate", "TeacherComparison")
        suite = TeacherComparison(
            judge, teachers, max_prompts, every_n_epochs, budget_teacher_calls, seed, compare_with_training_judge
        )
        super().__init__({"win_rate": suite}, False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read checkpoints of before, too."""
        if "outcomes" in state_dict:
            return super().load_state_dict(state_dict)
        history = {"win_rate_history": state_dict.get("history", [])} if state_dict["figures"] else {}
        self._take_over("win_rate", state_dict["figures"] | history, state_dict["read_step"])


class Forgetting(_OneSuite):
    """Old name of `EvaluationCallback` with the suite `MasteredPrompts`; the next release drops it.

    Args:
        reader: As there.
        max_prompts: As there.
        every_n_epochs: As there.
        seed: As there.
        data: As there.
    """

    def __init__(
        self,
        reader: Judge,
        max_prompts: int = 64,
        every_n_epochs: int | None = None,
        seed: int = 0,
        data: str | None = None,
    ) -> None:
        _warn("Forgetting", "forgetting", "MasteredPrompts")
        super().__init__({"forgetting": MasteredPrompts(reader, max_prompts, every_n_epochs, seed, data)}, False)
        self.data = data

    @property
    def state_key(self) -> str:
        """Tell several instances apart by the data they read."""
        return f"Forgetting[{self.data or ''}]"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read checkpoints of before, too."""
        if "outcomes" in state_dict:
            return super().load_state_dict(state_dict)
        self._take_over("forgetting", {"forgetting": state_dict["forgetting"]}, state_dict["read_step"])


def _warn(old: str, name: str, suite: str) -> None:
    warnings.warn(
        f"evolvedirector.callbacks.{old} is an old name, which the next release drops. Write "
        f"`class_path: evolvedirector.callbacks.EvaluationCallback` with `init_args: {{suites: {{{name}: {{class_path: "
        f"evolvedirector.evaluation.suites.{suite}, init_args: ...}}}}}}`; the arguments are the same.",
        FutureWarning,
        stacklevel=3,
    )
