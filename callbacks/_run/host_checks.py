"""What a host project must offer; each refusal says which line to write."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl

from evolvedirector.errors import RunError, UserError
from evolvedirector.evolution import EvolvingData, ImageGenerator, MeasuresLoss
from evolvedirector.evolution.holds_rounds import HoldsRounds
from evolvedirector.execution.executor import Cluster
from evolvedirector.execution.ranks import on_rank_zero
from evolvedirector.judges.health.report import JudgeHealth
from evolvedirector.judges.judge import Judge
from evolvedirector.judges.no_judge import NoJudge
from evolvedirector.planning.preflight import RunOptions, problems_of, problems_of_options, told
from evolvedirector.planning.roles import CountsBatches, EvolutionPlan, Evolves, Seeded
from evolvedirector.policies.policy import DrawsByLoss, Policy, RunSize
from evolvedirector.records.part import Part
from evolvedirector.records.plain_settings import refuse_unbuilt, settings_of
from evolvedirector.rewards.reward import Reward
from evolvedirector.teachers.teacher import Teacher
from evolvedirector.writers.prompt_writer import PromptWriter


def evolving_data_of(trainer: pl.Trainer, attribute: str | None) -> EvolvingData:
    """Find the evolving data of a trainer: its datamodule, or an attribute of it.

    Raises:
        RunError: There is no datamodule, or it lacks the parts of `EvolvingData`.
    """
    host: Any = getattr(trainer, "datamodule", None)
    where = "the datamodule"
    if host is not None and attribute:
        where = f"the datamodule's attribute `{attribute}`"
        host = getattr(host, attribute, None)
    if host is None:
        raise RunError(
            f"EvolutionCallback finds no evolving data: {where} is missing. It needs a LightningDataModule with "
            "`data_root`, `revision_sha` and `open_revision(revision_sha)`. Write "
            "`data: {class_path: evolvedirector.datamodules.EvolvingDataModule, init_args: {root: runs/mine/data}}`."
        )
    missing = [name for name in ("data_root", "revision_sha", "open_revision") if not _has(host, name)]
    if missing:
        raise RunError(
            f"{where} ({type(host).__name__}) lacks {', '.join(f'`{name}`' for name in missing)}. "
            "It needs `data_root: Path`, `revision_sha: str` and `open_revision(self, revision_sha: str) -> None`. "
            "Add them, or use evolvedirector.datamodules.EvolvingDataModule."
        )
    return host


def _has(host: Any, name: str) -> bool:
    # A property that raises (nothing opened yet) exists all the same.
    return name in dir(type(host)) or name in getattr(host, "__dict__", {})


def check_placed(cluster: Cluster | None, parts: Mapping[str, Part]) -> None:
    """Refuse a cluster for parts that take no part.

    Args:
        cluster: Of a callback. None: there is none.
        parts: Of the callback, by place.

    Raises:
        UserError: A place on the cluster is that of no part, or of one that is asked for nothing.
    """
    allowed = [place for place in parts if place != "policy"]
    for place in () if cluster is None else cluster.placed:
        if place not in allowed:
            near = difflib.get_close_matches(place, allowed, n=1)
            raise UserError(
                f"The cluster has a place for {place!r}, which takes no part. Allowed are {', '.join(allowed)}. "
                + (f"Did you mean {near[0]!r}?" if near else "Leave it out.")
            )


def check_pairs(pairs: HoldsRounds | None, others: Mapping[str, object]) -> None:
    """Refuse rounds that are over prompts and over pairs at once, or over neither.

    Args:
        pairs: Holds rounds over pairs. None: rounds are over prompts.
        others: Settings of rounds over prompts by name; None, or empty, where they say nothing.

    Raises:
        UserError: A part is missing, or a setting would not be followed.
    """
    if pairs is not None:
        refuse_unbuilt("pairs", pairs, "evolvedirector.pairs.EvolvingPairs")
        if given := [name for name, part in others.items() if part]:
            raise UserError(
                f"pairs is given, and {', '.join(given)} beside it, which rounds over pairs do not use. Allowed are "
                f"rounds over pairs or over prompts; limits of pairs stand in their builder's budget. Leave out "
                f"{', '.join(given)}, or pairs."
            )
        return
    for name, example in (("judge", "MiniatureJudge"), ("writer", "MiniatureWriter")):
        if others[name] is None:
            raise UserError(
                f"{name} is missing. Allowed without one are rounds over subject pairs alone. Write `{name}: "
                f"{{class_path: evolvedirector.worlds.shapes.{example}}}`, say, or `pairs: {{class_path: "
                "evolvedirector.pairs.EvolvingPairs}}`."
            )


def check_settings(
    teachers: Mapping[str, Teacher],
    judge: Judge,
    writer: PromptWriter,
    policy: Policy | None,
    rewards: Mapping[str, Reward],
    tie_margin: float,
) -> None:
    """Refuse parts of an evolution that are none, or are missing.

    Args:
        teachers: By name.
        judge: Built from its class path; so are the others.
        writer: Likewise.
        policy: None: the default one.
        rewards: By name.
        tie_margin: Distance from 1/2 up to which a preference is a tie.

    Raises:
        UserError: There is no teacher, a part was not built, nobody judges beside a policy that asks for looks, or the
            margin is out of range.
    """
    if not teachers:
        raise UserError(
            "teachers is empty. Allowed: at least one. Write "
            "`teachers: {exact: {class_path: evolvedirector.worlds.shapes.MiniatureTeacher}}`, say."
        )
    refuse_unbuilt("judge", judge, "evolvedirector.worlds.shapes.MiniatureJudge")
    refuse_unbuilt("writer", writer, "evolvedirector.worlds.shapes.MiniatureWriter")
    refuse_unbuilt("policy", policy, "evolvedirector.policies.ScreeningPolicy")
    for name, teacher in teachers.items():
        refuse_unbuilt(f"teachers.{name}", teacher, "evolvedirector.worlds.shapes.MiniatureTeacher")
    for name, reward in rewards.items():
        refuse_unbuilt(f"rewards.{name}", reward, "evolvedirector.rewards.CLIPScore")
    if isinstance(judge, NoJudge) and (policy is None or policy.most_looks(RunSize(1, 1, seeds=1)) != 0):
        raise UserError(
            f"The judge is NoJudge, but {'ScreeningPolicy' if policy is None else type(policy).__name__} may ask for "
            "looks. Allowed beside it is a policy that asks for none. Write `judge: {class_path: "
            "evolvedirector.judges.TransformersJudge, ...}`, say, or a policy such as BestOfN."
        )
    if not 0.0 <= tie_margin < 0.5:
        raise UserError(
            f"tie_margin is {tie_margin}. Allowed: 0 to under 0.5, where everything is a tie. "
            "Write `tie_margin: 0.05`, say."
        )


def health_of(written: JudgeHealth | Mapping[str, Any] | bool | None, policy: Policy) -> JudgeHealth | None:
    """Say how the judge is checked: by default with canaries, unless the policy never asks it anything; None: not.

    Args:
        written: In a callback; a mapping as Hydra gives it.
        policy: Decides.
    """
    if isinstance(written, Mapping):
        return settings_of(JudgeHealth, written, "judge_health")
    if isinstance(written, JudgeHealth):
        return written
    never_asked = policy.most_looks(RunSize(rounds=1, budget_teacher_calls=1, seeds=1)) == 0
    return None if written is False or never_asked else JudgeHealth()


def check_before_rounds(
    trainer: pl.Trainer, module: pl.LightningModule, callback: OwnsRoot, plan: EvolutionPlan
) -> None:
    """Refuse a host, parts or a cluster that a round could not work with, before anything is bought.

    Args:
        trainer: In `setup`.
        module: The student.
        callback: Evolves the data.
        plan: Its own.

    Raises:
        RunError: With the line to write.
        UserError: A part cannot work, or no cluster answers.
    """
    check_host(trainer, module)
    check_losses(plan.settings.policy, module)
    if next(c for c in trainer.callbacks if isinstance(c, Evolves)) is callback:  # type: ignore[attr-defined]
        check_parts(trainer, module)  # all parts of the run, once
    if plan.cluster is not None and trainer.is_global_zero:
        plan.cluster.verify()
    check_only_owner(trainer, callback)


def check_host(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Refuse a trainer or module that a round could not work with, before anything is bought.

    Raises:
        RunError: With the line to write.
    """
    check_reloads(trainer)
    if not isinstance(module, ImageGenerator):
        raise RunError(
            f"{type(module).__name__} has no `generate`: the judge could not see what the student draws. It needs "
            "`def generate(self, requests: Sequence[ImageRequest]) -> list[Tensor]` (one uint8 image "
            "(3, height, width) per request). Add it, or use evolvedirector.lightning_modules.TextToImage."
        )


def check_reloads(trainer: pl.Trainer) -> None:
    """Refuse a trainer that keeps the loader of its first epoch.

    Raises:
        RunError: With the line to write.
    """
    every = getattr(trainer, "reload_dataloaders_every_n_epochs", 0)  # set by a connector: unknown to type checkers
    if every != 1:
        raise RunError(
            f"reload_dataloaders_every_n_epochs is {every}: a new revision or subset of the data would not be read. "
            "It must be 1. Write `trainer: {reload_dataloaders_every_n_epochs: 1}` or "
            "Trainer(reload_dataloaders_every_n_epochs=1)."
        )


def check_losses(policy: Policy, module: pl.LightningModule) -> None:
    """Refuse a policy that draws by loss where the module cannot measure it, before anything is bought.

    Raises:
        RunError: With what to add.
    """
    if isinstance(policy, DrawsByLoss) and policy.most_losses and not isinstance(module, MeasuresLoss):
        raise RunError(
            f"{type(policy).__name__} draws by loss, but {type(module).__name__} has no `sample_losses`. It needs "
            "`def sample_losses(self, requests: Sequence[LossRequest]) -> list[float]`. Add it, or write "
            "`weighting: {loss_power: 0}` in the policy."
        )


def check_parts(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Refuse a run whose parts cannot work, on all ranks with the same words; rank 0 alone asks them.

    Args:
        trainer: Its callbacks hold teachers, judges and writers, its datamodule what reads the data.
        module: Holds text encoders, codec and weights.

    Raises:
        UserError: With every problem.
    """
    hosts = (module, trainer.datamodule)  # type: ignore[attr-defined]
    problems = on_rank_zero(lambda: problems_of(trainer.callbacks, hosts))  # type: ignore[attr-defined]
    problems += problems_of_options(options_of(trainer), module, data_of_options(trainer, hosts[1]))
    if problems:
        raise UserError(told(problems))


def options_of(trainer: pl.Trainer) -> RunOptions:
    """Read what decides whether a trainer takes a step at all.

    Args:
        trainer: Built, not yet running.
    """
    options: Any = trainer  # some attributes are set by its connectors: unknown to type checkers
    return RunOptions(
        str(options.precision),
        options.limit_train_batches,
        options.overfit_batches,
        int(options.fast_dev_run),
        options.max_steps,
        options.max_epochs,
        options.val_check_interval,
        options.check_val_every_n_epoch is None,
        options.limit_val_batches,
        options.world_size,
        options.gradient_clip_val,
    )


def data_of_options(trainer: pl.Trainer, datamodule: object) -> object:
    """Return what holds the training images: the datamodule, or the attribute of it that a callback evolves.

    Args:
        trainer: Knows the callbacks.
        datamodule: The run's.
    """
    plans = [c.evolution() for c in trainer.callbacks if isinstance(c, Evolves)]  # type: ignore[attr-defined]
    names = [plan.data for plan in plans if plan.data]
    return getattr(datamodule, names[0], datamodule) if names else datamodule


def is_smoke_test(trainer: pl.Trainer) -> bool:
    """Whether the trainer only tries a few batches (`fast_dev_run`): nothing is bought, judged or written then."""
    return bool(getattr(trainer, "fast_dev_run", False))


def student_name(trainer: pl.Trainer, module: pl.LightningModule) -> list[str]:
    """Tell a student in training from others: by its class, its size, its optimizers and the order of its data.

    Args:
        trainer: Knows optimizers and datamodule.
        module: The student.
    """
    name = [type(module).__name__, str(sum(parameter.numel() for parameter in module.parameters()))]
    for optimizer in trainer.optimizers:
        rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        name += [type(optimizer).__name__, repr(rates)]
    data = trainer.datamodule  # type: ignore[attr-defined]
    seed = data.seed if isinstance(data, Seeded) else None
    return [*name, repr(seed), repr(data.global_batch_size if isinstance(data, CountsBatches) else None)]


def trains_on(trainer: pl.Trainer, epochs_done: int, further: int = 0) -> bool:
    """Say whether training goes on after an epoch.

    Args:
        trainer: The running trainer.
        epochs_done: That epoch included.
        further: Epochs after it that do not count.
    """
    last_step = trainer.global_step + further * (steps_per_epoch(trainer) or 0)
    steps_end = trainer.max_steps != -1 and last_step >= trainer.max_steps
    epochs_end = trainer.max_epochs not in (None, -1) and epochs_done + further >= trainer.max_epochs
    return not (steps_end or epochs_end or trainer.should_stop)


def steps_per_epoch(trainer: pl.Trainer) -> int | None:
    """Return the optimizer steps of an epoch where training is limited by steps, else None.

    Args:
        trainer: Knows its batches by now.
    """
    if trainer.max_steps == -1:
        return None
    return max(1, int(trainer.num_training_batches) // trainer.accumulate_grad_batches)


def check_sized(trainer: pl.Trainer) -> None:
    """Refuse a train loader without a length: Lightning would lose one of its batches at every resume.

    Raises:
        RunError: With the line to write.
    """
    if trainer.num_training_batches == float("inf"):
        raise RunError(
            "The train loader has no length: Lightning would skip one of its batches at every resume, and an epoch "
            "would never end. It needs `__len__`. Give the loader a fixed number of batches per epoch."
        )


@runtime_checkable
class OwnsRoot(Protocol):
    """A callback that writes a dataset root."""

    def owned_root(self) -> Path | None:
        """Return the folder; None before it is known."""
        ...


def check_only_owner(trainer: pl.Trainer, callback: OwnsRoot) -> None:
    """Refuse a second callback that evolves the same root: two drivers would publish against each other.

    Raises:
        RunError: With the line to write.
    """
    root = callback.owned_root()
    for other in trainer.callbacks:  # type: ignore[attr-defined]
        if other is not callback and isinstance(other, OwnsRoot) and other.owned_root() == root:
            raise RunError(
                f"Two {type(callback).__name__}s evolve the same root {root}. Each root has one driver. Remove one, or "
                "give it data of its own: `data: NAME` names an attribute of the datamodule."
            )
