"""Before anything is spent: keys, hosts, models, prices and secrets of all parts, every problem in one message."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.evolution.budget import check_teacher_names
from evolvedirector.evolution.round_id import RoundSettings
from evolvedirector.planning.roles import (
    BuysImages,
    CountsBatches,
    DrawsInChunks,
    Evolves,
    HasBuckets,
    HoldsOut,
    LimitsBuckets,
    LimitsImageSize,
    LimitsPrecision,
    SizesImages,
)
from evolvedirector.planning.spending import check_prices
from evolvedirector.policies.policy import NeedsBudget, NeedsParts, Policy
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


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of a trainer that decide whether there will be a training step, and in which form.

    Args:
        precision: Lightning's name of it.
        limit_train_batches: Batches of an epoch (int) or share of them (float).
        overfit_batches: Likewise; 0 is off.
        fast_dev_run: Batches of a smoke test; 0 is off.
        max_steps: Optimizer steps of the run; -1: no limit.
        max_epochs: Epochs of the run; None or -1: no limit.
        val_check_interval: Batches between validations (int), or share of an epoch.
        across_epochs: Whether that interval counts on from one epoch to the next.
        limit_val_batches: Batches of a validation (int) or share of them (float); 0 is none.
        world_size: Processes that share a validation.
        gradient_clip_val: Largest norm or value of gradients. None: any.
    """

    precision: str = "32-true"
    limit_train_batches: int | float = 1.0
    overfit_batches: int | float = 0.0
    fast_dev_run: int = 0
    max_steps: int = -1
    max_epochs: int | None = None
    val_check_interval: int | float | None = 1.0
    across_epochs: bool = False
    limit_val_batches: int | float = 1.0
    world_size: int = 1
    gradient_clip_val: float | None = None


SMOKE_TEST = "fast_dev_run: nothing is bought, judged or saved; placeholders stand for images that are not there yet."


def problems_of_options(options: RunOptions, module: object, data: object) -> list[str]:
    """List the options under which an evolving run would buy images and then train on none, or fail at its first step.

    Args:
        options: Of the trainer.
        module: Asked for the precisions and sizes that it trains in, where it limits them.
        data: What holds the training images; asked for their size and for the batches of an epoch.
    """
    found = []
    if isinstance(module, LimitsPrecision):
        found.append(_refused(lambda: module.check_precision(options.precision)))
    if isinstance(module, LimitsImageSize) and isinstance(data, SizesImages) and data.image_size_px:
        found.append(_refused(lambda: module.check_image_size(data.image_size_px)))
    if isinstance(module, LimitsBuckets) and isinstance(data, HasBuckets):
        found.append(_refused(lambda: module.check_buckets(data.buckets)))
    if options.overfit_batches:
        found.append(
            f"trainer.overfit_batches is {options.overfit_batches}. An evolving dataset is a stream whose batches "
            "change, so the same ones never come again: allowed is 0. To try the first batches, write "
            "trainer.fast_dev_run: 1; for a small fixed set, a budget of few teacher calls with max_rounds: 0."
        )
    elif not options.fast_dev_run:
        found.append(_too_few_batches(options, data.batches_per_epoch if isinstance(data, CountsBatches) else None))
        found.append(_no_validation(options, data))
    if (options.gradient_clip_val or 0) < 0:
        found.append(
            f"trainer.gradient_clip_val is {options.gradient_clip_val:g}, which turns every gradient round. Allowed: 0 "
            "(off) or more. Write trainer.gradient_clip_val: 1.0."
        )
    for name, end in (("max_steps", options.max_steps), ("max_epochs", options.max_epochs)):
        if end == 0:
            found.append(
                f"trainer.{name} is 0, so images would be bought and nothing trained. Allowed: 1 or more, or -1 for no "
                f"limit. Write trainer.{name}: 100, say, or `budget_teacher_calls: 0` to buy nothing."
            )
    return [text for text in found if text]


def _no_validation(options: RunOptions, data: object) -> str | None:
    """Say which options of validation are refused once the loaders are built, which is after the seeds are bought."""
    interval, share = options.val_check_interval, options.limit_val_batches
    limit = options.limit_train_batches
    if isinstance(interval, int) and isinstance(data, CountsBatches) and not options.across_epochs:
        per_epoch = (
            min(limit, data.batches_per_epoch) if isinstance(limit, int) else int(limit * data.batches_per_epoch)
        )
        if interval > per_epoch > 0:
            return (
                f"trainer.val_check_interval is {interval}, but an epoch has {per_epoch} batches. Allowed: up to that "
                f"number, or any with trainer.check_val_every_n_epoch: null. Write trainer.val_check_interval: 1.0, or "
                "trainer.limit_val_batches: 0 for no validation."
            )
    if isinstance(share, float) and 0 < share < 1 and isinstance(data, HoldsOut) and isinstance(data, DrawsInChunks):
        chunks = math.ceil(len(data.held_out_prompts()) / data.generation_chunk_size)
        batches = math.ceil(chunks / options.world_size)
        if batches and int(share * batches) == 0:
            return (
                f"trainer.limit_val_batches is {share:g}, which leaves 0 of {batches} validation batches. Allowed: 0 "
                "(none), a number of batches, or a share that leaves one. Write trainer.limit_val_batches: 1 (one "
                "batch) or 1.0 (all)."
            )
    return None


def _too_few_batches(options: RunOptions, batches_per_epoch: int | None) -> str | None:
    limit = options.limit_train_batches
    whole = "" if batches_per_epoch is None else f" of {batches_per_epoch}"
    batches = limit if isinstance(limit, int) else 1 if batches_per_epoch is None else int(batches_per_epoch * limit)
    if limit > 0 and batches > 0:
        return None
    return (
        f"trainer.limit_train_batches is {limit}, which leaves 0{whole} batches of an epoch: images would be bought "
        "and nothing trained. Allowed: a number of batches from 1 up, or a share that leaves one. Write "
        "trainer.limit_train_batches: 1 (one batch) or 1.0 (all)."
    )


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
    if isinstance(policy, NeedsParts):
        yield lambda: policy.check_parts(settings.teachers, settings.rewards)


def _check_seam(role: str, part: object, seam: type) -> None:
    """Refuse a part of another project that lacks a member of its seam, before a round asks for it."""
    members = (name for name in vars(seam) if not name.startswith("_"))
    if missing := [name for name in members if name not in dir(part)]:
        raise UserError(
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
            raise UserError(
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
