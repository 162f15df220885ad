"""What names a round, and how many of them a training leaves room for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

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
        gold: Digest of the gold set.
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


def _deciders(settings: EvolutionCallback, gold: str) -> list[str]:
    names = [f"{name} {teacher.fingerprint}" for name, teacher in settings.teachers.items()]
    who = [*names, settings.judge.fingerprint, type(settings.writer).__name__, type(settings.policy).__name__]
    floors = [] if settings.judge_health is None else [repr(replace(settings.judge_health, gold=None)), gold]
    # Of a writer texts alone, such as its model: it may count or collect in other attributes while it works.
    parts = [_plain(settings.policy, bool | int | float | str | list | tuple | dict), _plain(settings.writer, str)]
    return [*who, *parts, repr(settings.budget), *floors]


def _plain(part: object, kinds: Any) -> str:
    """Spell the settings of a part that are plain values of these kinds."""
    own = getattr(part, "__dict__", {}).items()
    return repr(sorted((name, repr(value)) for name, value in own if isinstance(value, kinds)))


def planned_rounds(
    max_epochs: int | None, max_steps: int, steps_per_epoch: int | None, every_n_epochs: int, max_rounds: int | None
) -> int | None:
    """Return how many rounds training leaves room for; a policy spreads its purchases over them. None: no end is set.

    Args:
        max_epochs: Of the trainer; None and -1 are no end.
        max_steps: Of the trainer; -1 is no end.
        steps_per_epoch: Optimizer steps between two epoch ends. None: unknown.
        every_n_epochs: Epochs between rounds.
        max_rounds: Rounds in all. None: as many as there is room for.
    """
    epochs = max_epochs if max_epochs not in (None, -1) else None
    if max_steps != -1 and steps_per_epoch is not None:
        by_steps = -(-max_steps // max(1, steps_per_epoch))
        epochs = by_steps if epochs is None else min(epochs, by_steps)
    if epochs is None:
        return max_rounds
    rounds = max(0, (epochs - 1) // every_n_epochs)
    return rounds if max_rounds is None else min(rounds, max_rounds)
