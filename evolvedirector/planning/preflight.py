"""Before anything is spent: keys, hosts, models, prices and secrets of all parts, every problem in one message."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import lightning.pytorch as pl

from evolvedirector.evolution.budget import check_teacher_names
from evolvedirector.execution.ranks import on_rank_zero
from evolvedirector.planning.spending import check_prices
from evolvedirector.policies.screening.policy import ScreeningPolicy
from evolvedirector.secrecy.guard import find_secrets, named_variables, redacted, refusal, secret_values, settings_of

Part = tuple[str, Any]
"""Where a part is written, as `EvolutionCallback.teachers.flux`, and the part."""


def verifiable_parts(callbacks: Iterable[pl.Callback]) -> Iterator[Part]:
    """Yield the teachers, judges, writers and other parts of callbacks that can say whether they would work.

    A part may have `verify() -> None`, which raises with one clear message (a wrong key, an unreachable host, an
    unknown model, a missing folder) and costs no image.

    Args:
        callbacks: Those of the trainer.
    """
    for callback in callbacks:
        for name, value in vars(callback).items():
            held = value.items() if isinstance(value, Mapping) else [("", value)]
            for key, part in held:
                if callable(getattr(part, "verify", None)) and not isinstance(part, type):
                    place = name.removeprefix("evaluation_")
                    yield f"{type(callback).__name__}.{place}{f'.{key}' if key else ''}", part


def problems_of(callbacks: Iterable[pl.Callback]) -> list[str]:
    """List what is wrong with the parts of a run, each problem once with every place where it stands.

    Args:
        callbacks: Those of the trainer.
    """
    listed = list(callbacks)
    found = [text for callback in listed for text in _own_problems(callback)]
    places: dict[str, list[str]] = {}
    for place, part in verifiable_parts(listed):
        if (text := _refused(part.verify)) is not None:
            places.setdefault(text, []).append(place)
    return [*found, *(f"{' and '.join(where)}: {text}" for text, where in places.items())]


def check_parts(trainer: pl.Trainer) -> None:
    """Refuse a run whose parts cannot work, on all ranks with the same words; rank 0 alone asks them.

    Args:
        trainer: Its callbacks hold the parts.

    Raises:
        ValueError: With every problem.
    """
    problems = on_rank_zero(lambda: problems_of(trainer.callbacks))  # type: ignore[attr-defined]
    if problems:
        raise ValueError(told(problems))


def told(problems: list[str]) -> str:
    """Put problems into one message.

    Args:
        problems: At least one.
    """
    if len(problems) == 1:
        return problems[0]
    numbered = " ".join(f"({number}) {text}" for number, text in enumerate(problems, start=1))
    return f"{len(problems)} things keep this run from starting. {numbered}"


def _own_problems(callback: pl.Callback) -> Iterator[str]:
    """Yield what a callback with teachers and a budget says by itself, without asking anyone."""
    teachers, budget = getattr(callback, "teachers", None), getattr(callback, "budget", None)
    if isinstance(teachers, Mapping) and budget is not None:
        policy = getattr(callback, "policy", None)
        checks: list[Callable[[], Any]] = [
            lambda: check_teacher_names(budget, teachers),
            lambda: check_prices(budget, teachers, getattr(callback, "judge", None)),
        ]
        if isinstance(policy, ScreeningPolicy):
            checks.append(lambda: policy.check_budget(budget.budget_teacher_calls))
        yield from filter(None, map(_refused, checks))
    if isinstance(teachers, Mapping) and (text := _refused(lambda: _check_told_apart(teachers))):
        yield text
    public = {name: settings_of(value) for name, value in vars(callback).items() if not name.startswith("_")}
    settings = {type(callback).__name__: public}
    secrets = secret_values(named_variables(settings))
    if secret := list(dict.fromkeys(find_secrets(settings, secrets))):
        yield refusal(secret, "A part")


def _check_told_apart(teachers: Mapping[str, Any]) -> None:
    """Refuse two teachers with one fingerprint: the ledger would keep their images under the same names."""
    names: dict[str, str] = {}
    for name, teacher in teachers.items():
        other = names.setdefault(teacher.fingerprint, name)
        if other != name:
            raise ValueError(
                f"teachers.{other} and teachers.{name} cannot be told apart (same fingerprint {teacher.fingerprint}). "
                "Allowed: one fingerprint per teacher, since images are kept and counted under it. Serve them under "
                "different names, or give them different parameters."
            )


def _refused(check: Callable[[], Any]) -> str | None:
    """Return why a check refuses; None where it passes. Whatever a part raises here is a refusal."""
    try:
        check()
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        return redacted(str(error) or type(error).__name__)
    except Exception as error:
        return redacted(f"it cannot be checked: {type(error).__name__}: {error}")
    return None
