"""Before anything is spent: keys, hosts, models, prices and secrets of all parts, every problem in one message."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from evolvedirector.evolution.budget import check_teacher_names
from evolvedirector.evolution.round_id import RoundSettings
from evolvedirector.planning.roles import BuysImages, Evolves
from evolvedirector.planning.spending import check_prices
from evolvedirector.policies.policy import NeedsBudget, Policy
from evolvedirector.records.part import HoldsParts, Verifiable
from evolvedirector.secrecy.guard import find_secrets, named_variables, redacted, refusal, secret_values, settings_of
from evolvedirector.teachers.teacher import Teacher
from evolvedirector.writers.prompt_writer import PromptWriter


def verifiable_parts(holders: Iterable[object]) -> Iterator[tuple[str, Verifiable]]:
    """Yield the parts that can say whether they would work, each with the place where it is written.

    Args:
        holders: Module, datamodule and callbacks; those that name no parts are passed over.
    """
    for holder in holders:
        if isinstance(holder, HoldsParts):
            for place, part in holder.parts().items():
                if isinstance(part, Verifiable):
                    yield f"{type(holder).__name__}.{place}", part


def problems_of(callbacks: Iterable[object], hosts: Iterable[object] = ()) -> list[str]:
    """List what is wrong with the parts of a run, each problem once with every place where it stands.

    Args:
        callbacks: Those of the trainer.
        hosts: Module and datamodule: text encoders, codec and weights are verified as teachers and judges are.
    """
    listed = list(callbacks)
    found = [text for callback in listed for text in _own_problems(callback)]
    places: dict[str, list[str]] = {}
    for place, part in verifiable_parts([*listed, *hosts]):
        if (text := _refused(part.verify)) is not None:
            places.setdefault(text, []).append(place)
    return [*found, *(f"{' and '.join(where)}: {text}" for text, where in places.items())]


def told(problems: list[str]) -> str:
    """Put problems into one message.

    Args:
        problems: At least one.
    """
    if len(problems) == 1:
        return problems[0]
    numbered = " ".join(f"({number}) {text}" for number, text in enumerate(problems, start=1))
    return f"{len(problems)} things keep this run from starting. {numbered}"


def _own_problems(callback: object) -> Iterator[str]:
    """Yield what a callback says by itself, without asking any part."""
    if isinstance(callback, Evolves):
        settings = callback.evolution().settings
        yield from filter(None, map(_refused, _checks_of(settings)))
        yield from filter(None, [_refused(lambda: _check_told_apart(settings.teachers))])
    if isinstance(callback, BuysImages):
        teachers = callback.planned_images().teachers
        yield from filter(None, [_refused(lambda: _check_told_apart(teachers))])
    # whatever a callback holds, one of another project too: a secret may stand anywhere
    public = {name: settings_of(value) for name, value in vars(callback).items() if not name.startswith("_")}
    held = {type(callback).__name__: public}
    secrets = secret_values(named_variables(held))
    if secret := list(dict.fromkeys(find_secrets(held, secrets))):
        yield refusal(secret, "A part")


def _checks_of(settings: RoundSettings) -> Iterator[Callable[[], Any]]:
    budget, policy = settings.budget, settings.policy
    yield lambda: _check_seam("policy", policy, Policy)
    yield lambda: _check_seam("writer", settings.writer, PromptWriter)
    yield lambda: check_teacher_names(budget, settings.teachers)
    yield lambda: check_prices(budget, settings.teachers, settings.judge)
    if isinstance(policy, NeedsBudget):
        yield lambda: policy.check_budget(budget.budget_teacher_calls)


def _check_seam(role: str, part: object, seam: type) -> None:
    """Refuse a part of another project that lacks a member of its seam, before a round asks for it."""
    members = (name for name in vars(seam) if not name.startswith("_"))
    if missing := [name for name in members if name not in dir(part)]:
        raise ValueError(
            f"{role} is a {type(part).__name__} without {', '.join(f'`{name}`' for name in missing)}. Allowed is every "
            f"class with the members of {seam.__module__}.{seam.__name__}. Add what is missing; a fingerprint may be a "
            "text that names the settings."
        )


def _check_told_apart(teachers: Mapping[str, Teacher]) -> None:
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
