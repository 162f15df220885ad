"""An evaluation with one suite, as most tests want it."""

from __future__ import annotations

from typing import Any

from evolvedirector.callbacks import EvaluationCallback
from evolvedirector.evaluation.suites import HeldOutAccuracy, MasteredPrompts, TeacherComparison


def held_out(*arguments: Any, **named: Any) -> EvaluationCallback:
    return EvaluationCallback({"held_out": HeldOutAccuracy(*arguments, **named)})


def win_rate(*arguments: Any, **named: Any) -> EvaluationCallback:
    return EvaluationCallback({"win_rate": TeacherComparison(*arguments, **named)})


def mastered(*arguments: Any, **named: Any) -> EvaluationCallback:
    return EvaluationCallback({"forgetting": MasteredPrompts(*arguments, **named)})
