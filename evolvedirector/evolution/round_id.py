"""What names a round."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from evolvedirector.judges.health.gold import check_gold
from evolvedirector.judges.health.report import JudgeHealth
from evolvedirector.policies.screening.settings import Mastery, Pace, Screening, Weighting
from evolvedirector.records import digest

if TYPE_CHECKING:
    from evolvedirector.callbacks.evolution import EvolutionCallback


def round_id_of(
    settings: EvolutionCallback, gold: str, trainer: pl.Trainer, module: pl.LightningModule, revision_sha: str
) -> str:
    """Name a round by its step and revision, and by who takes part in it.

    The same run repeats its round under the same name; with another judge, teacher, policy, budget, model or learning
    rate an older checkpoint, or a new run on the same revision, forks instead of taking over what others decided about
    another student.

    Args:
        settings: The callback, read for who takes part.
        gold: Name of the gold set.
        trainer: The running trainer.
        module: The student.
        revision_sha: What the round starts from.
    """
    weights = sum(parameter.numel() for parameter in module.parameters())
    student: list[str | int] = [type(module).__name__, weights]
    for optimizer in trainer.optimizers:
        rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        student += [type(optimizer).__name__, repr(rates)]
    student += [repr(getattr(trainer.datamodule, name, None)) for name in ("seed", "global_batch_size")]  # type: ignore[attr-defined]
    return digest("round", settings.seed, trainer.global_step, revision_sha, *student, *_deciders(settings, gold))


def gold_name(health: JudgeHealth | None) -> str:
    """Name the gold set of a judge's check by its content; empty where there is none.

    Args:
        health: How the judge is checked; None: it is trusted.

    Raises:
        ValueError: It is no gold set, or one that a judge of one answer would pass.
    """
    if health is None or health.gold is None:
        return ""
    items = health.gold.items()
    check_gold(items)
    return digest(*[part for item in items for part in (item.image, item.prompt, str(item.shows))])


def _deciders(settings: EvolutionCallback, gold: str) -> list[str]:
    names = [f"{name} {teacher.fingerprint}" for name, teacher in settings.teachers.items()]
    who = [*names, settings.judge.fingerprint, type(settings.writer).__name__, type(settings.policy).__name__]
    floors = [] if settings.judge_health is None else [repr(replace(settings.judge_health, gold=None)), gold]
    margin = [f"tie margin {settings.tie_margin}"] if settings.tie_margin else []
    # Of a writer texts alone, such as its model: it may count or collect in other attributes while it works.
    of_policy = bool | int | float | str | list | tuple | dict | Pace | Screening | Weighting | Mastery
    parts = [_plain(settings.policy, of_policy), _plain(settings.writer, str)]
    return [*who, *parts, repr(settings.budget), *floors, *margin]


def _plain(part: object, kinds: Any) -> str:
    """Spell the settings of a part that are plain values of these kinds."""
    own = getattr(part, "__dict__", {}).items()
    return repr(sorted((name, repr(value)) for name, value in own if isinstance(value, kinds)))
