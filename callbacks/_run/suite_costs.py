"""What the suites of an evaluation may ask for, for people who look before they pay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evolvedirector.evaluation.suite import AsksTeachers, AsksTrainingJudge, ReadsValidation, Suite
from evolvedirector.evolution import Budget
from evolvedirector.planning.roles import PlannedImages, PlannedRun
from evolvedirector.planning.spending import Reader


def images_of(suites: Mapping[str, Suite]) -> PlannedImages:
    """Say whom the suites ask for images: once for each prompt and teacher.

    Args:
        suites: By name.
    """
    teachers: dict[str, Any] = {}
    each: dict[str, int] = {}
    limits: list[int | None] = []
    for name, suite in suites.items():
        if isinstance(suite, AsksTeachers):
            asked, most, limit = suite.asked_teachers()
            named = {key if key not in teachers else f"{name}.{key}": teacher for key, teacher in asked.items()}
            teachers |= named
            each |= dict.fromkeys(named, most)
            limits.append(limit)
    known = [limit for limit in limits if limit is not None]
    return PlannedImages(
        teachers, Budget(sum(known) if known and len(known) == len(limits) else None, teacher_budgets=each)
    )


def looks_of(suites: Mapping[str, Suite], run: PlannedRun, place: Callable[[str, str], str]) -> list[Reader]:
    """Count the looks of a whole training: of each suite's own readings, and of the validations that it reads.

    Args:
        suites: By name.
        run: How long it is.
        place: Names a part of a suite by where it is written.
    """
    readers = []
    for name, suite in suites.items():
        readings = run.readings(suite.every_n_epochs)
        for part, each in suite.looks(run.held_out_prompts).items():
            looks = None if readings is None else each * readings
            if isinstance(suite, ReadsValidation):
                validated = None if run.validations is None else run.held_out_prompts * run.validations
                looks = None if looks is None or validated is None else looks + validated
            readers.append(Reader(place(name, part), suite.parts()[part], looks))
            if isinstance(suite, AsksTrainingJudge) and suite.compare_with_training_judge:
                where = f"the judge of the training data for {place(name, part)}"
                readers += [Reader(where, judge, looks) for judge in run.training_judges[:1]]
    return readers


def rows_of(suites: Mapping[str, Suite]) -> dict[str, str]:
    """Say in words what evaluation may cost beside evolution, for `evolvedirector check`.

    Args:
        suites: By name.
    """
    calls, compared = [], []
    for suite in suites.values():
        if not isinstance(suite, AsksTeachers):
            continue
        teachers, each, limit = suite.asked_teachers()
        calls.append(len(teachers) * each if limit is None else min(len(teachers) * each, limit))
        if isinstance(suite, AsksTrainingJudge) and suite.compare_with_training_judge:
            compared.append(2 * calls[-1])
    rows = {}
    if calls:
        rows["evaluation teacher calls (once, outside the budget)"] = f"at most {sum(calls):,}"
    if compared:
        rows["evaluation looks (outside the budget)"] = f"at most {sum(compared):,} a reading by each of two judges"
    return rows
