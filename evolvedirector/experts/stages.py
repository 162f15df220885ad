"""Stages of a training: which expert, or which gate, is trained in which steps, and on which samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from evolvedirector.errors import UserError
from evolvedirector.records.plain_settings import settings_of
from evolvedirector.records.subset import EVERYTHING, Subset

StageKind = Literal["expert", "gate"]


@dataclass(frozen=True)
class Stage:
    """Train one expert, or the gate over several, for some steps on some samples.

    Args:
        name: Of the expert, as `trained.experts` lists it. A gate may be called anything.
        steps: Optimizer steps; whole epochs.
        trains_on: The samples. None: all of them, as a joint expert is trained that the others are compared with.
        kind: `expert`, or `gate`: the gate of `trained.gate` is trained while experts are frozen.
        failing: Train on the skill that the student fails most (1), second most (2) and so on, as the rounds so far
            saw it when this stage begins; of stages that follow each other on top of the same student, when the first
            of them begins. None: `trains_on` says the samples.
        on_top_of: Experts of earlier stages that work while this one learns, frozen, with their weights in the sum;
            rounds before it draw with that sum. None: the base alone.

    Raises:
        UserError: A setting is out of range.
    """

    name: str
    steps: int
    trains_on: Subset | None = None
    kind: StageKind = "expert"
    failing: int | None = None
    on_top_of: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if self.trains_on is not None:  # a mapping, as Hydra gives it
            object.__setattr__(self, "trains_on", settings_of(Subset, self.trains_on, "trains_on"))  # frozen
        if self.steps < 1 or self.kind not in get_args(StageKind):
            raise UserError(
                f"Stage {self.name!r} is of kind {self.kind!r} and has {self.steps} steps. Allowed: expert or gate, "
                "and 1 step or more. Write {name: counting, steps: 1000}, say."
            )
        if self.failing is not None and (self.failing < 1 or self.trains_on is not None or self.kind != "expert"):
            raise UserError(
                f"Stage {self.name!r} has failing: {self.failing}, trains_on: {self.subset.named()} and is of kind "
                f"{self.kind!r}. Allowed for an expert is a place from 1 up in place of trains_on. Write {{name: "
                "expert-1, steps: 1000, failing: 1}, say."
            )
        below = self.on_top_of or {}
        if self.name in below or (below and self.kind != "expert") or not all(map(math.isfinite, below.values())):
            raise UserError(
                f"Stage {self.name!r} has on_top_of: {dict(below)}. Allowed for an expert are others with finite "
                "weights. Write {name: second, steps: 1000, on_top_of: {first: 1.0}}, say."
            )

    @property
    def draws_first(self) -> bool:
        """Whether the student that this stage stands on draws in rounds before it, not the expert before it."""
        return self.failing is not None or self.on_top_of is not None

    def told(self) -> str:
        """Say what it is trained on, and on top of what."""
        samples = self.subset.named() if self.failing is None else f"the skill at place {self.failing} of those failed"
        return samples + (f",{stands_on(self.on_top_of)}" if self.on_top_of else "")

    @property
    def subset(self) -> Subset:
        """The samples, also where they are all."""
        return self.trains_on or EVERYTHING

    def plain(self) -> dict[str, Any]:
        """Return it as plain values, for checkpoints and provenance."""
        plain = {"name": self.name, "steps": self.steps, "trains_on": self.subset.plain(), "kind": self.kind}
        more = {"failing": self.failing, "on_top_of": None if self.on_top_of is None else dict(self.on_top_of)}
        return plain | {name: value for name, value in more.items() if value is not None}


def stands_on(below: Mapping[str, float]) -> str:
    """Say in words what an expert was trained on top of; empty where it is the base alone.

    Args:
        below: Weights in the sum by the names of the experts.
    """
    return f" on top of {' + '.join(f'{weight:g} {name}' for name, weight in below.items())}" if below else ""


def chosen_stages(stages: Sequence[Stage], only: str | None) -> list[Stage]:
    """Return the stages of a run: all, or one of them alone.

    Args:
        stages: In their order.
        only: Name of the one. None: all.

    Raises:
        UserError: There are none, two have one name, none has the name of `only`, or that one needs others.
    """
    names = [stage.name for stage in stages]
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"stages is [{', '.join(names)}]. Allowed is one or more, each with a name of its own. Write stages: "
            "[{name: counting, steps: 1000}], say."
        )
    if only is not None and only not in names:
        raise UserError(
            f"only is {only!r}, and no stage is called so. Allowed: {', '.join(names)}. Write only: {names[0]}, say, "
            "or null for all stages."
        )
    if only is not None:
        _check_alone(stages, names.index(only))
    return [stage for stage in stages if only in (None, stage.name)]


def _check_alone(stages: Sequence[Stage], place: int) -> None:
    """Refuse to train a stage alone that needs experts of others: they would be as they begin, and change nothing."""
    stage = stages[place]
    before = [one.name for one in stages[:place] if one.kind == "expert"]
    if needed := before if stage.kind == "gate" else list(stage.on_top_of or {}):
        begins = sum(one.steps for one in stages[:place])
        raise UserError(
            f"only is {stage.name!r}, a stage that needs what the stages before it train: {', '.join(needed)}. Allowed "
            "alone is an expert without on_top_of: such a training begins with the base. Write only: null; a run that "
            f"has trained those goes on here with --ckpt_path and its checkpoint of step {begins}."
        )


def ends_of(stages: Sequence[Stage]) -> list[int]:
    """Return the optimizer step at which each stage is over.

    Args:
        stages: In their order.
    """
    ends, done = [], 0
    for stage in stages:
        done += stage.steps
        ends.append(done)
    return ends


def stage_at(stages: Sequence[Stage], step: int) -> Stage | None:
    """Return the stage that the next optimizer step belongs to; None: all are over.

    Args:
        stages: In their order.
        step: Optimizer steps that are done.
    """
    return next((stage for stage, end in zip(stages, ends_of(stages), strict=True) if step < end), None)


def ended_stages(stages: Sequence[Stage], step: int) -> list[Stage]:
    """Return the stages that are over.

    Args:
        stages: In their order.
        step: Optimizer steps that are done.
    """
    return [stage for stage, end in zip(stages, ends_of(stages), strict=True) if end <= step]


def first_of_ranking(stages: Sequence[Stage], stage: Stage) -> Stage:
    """Return the stage at whose beginning the failing skills are ranked for a stage, which may be itself.

    Stages share a ranking while they follow each other on top of the same student: places 1, 2, 3 are three skills.

    Args:
        stages: In their order.
        stage: One of them, with `failing`.
    """
    place = [one.name for one in stages].index(stage.name)
    while place and stages[place - 1].failing is not None and stages[place - 1].on_top_of == stage.on_top_of:
        place -= 1
    return stages[place]


def skill_at(ranking: Sequence[str], place: int) -> str:
    """Return the skill at a place of a ranking; behind its end it begins anew, so that no stage is without one.

    Args:
        ranking: The most failed first; at least one.
        place: From 1.
    """
    return ranking[(place - 1) % len(ranking)]


def check_plan(stages: Sequence[Stage], steps: int | None, steps_per_epoch: int) -> None:
    """Refuse stages that do not fill a training in whole epochs.

    Args:
        stages: In their order.
        steps: Optimizer steps of the training. None: no end is set.
        steps_per_epoch: Of one epoch.

    Raises:
        UserError: They do not.
    """
    for stage in stages:
        if stage.steps % steps_per_epoch:
            whole = max(1, round(stage.steps / steps_per_epoch)) * steps_per_epoch
            raise UserError(
                f"Stage {stage.name!r} has {stage.steps} steps, and an epoch has {steps_per_epoch}. Stages end where "
                f"epochs do. Write steps: {whole}, or another data.init_args.batches_per_epoch."
            )
    total = sum(stage.steps for stage in stages)
    if steps != total:
        raise UserError(
            f"The stages have {total} steps together, and the training "
            f"{'has no end' if steps is None else f'{steps}'}. Both must be the same. Write trainer.max_steps: {total}."
        )


def check_names(stages: Sequence[Stage], experts: Sequence[str], gated: Sequence[str]) -> None:
    """Refuse stages of experts, or of a gate, that the model does not have.

    Args:
        stages: In their order.
        experts: That the model has.
        gated: Experts that its gate mixes; none without a gate.

    Raises:
        UserError: It lacks one.
    """
    for place, stage in enumerate(stages):
        earlier = [before.name for before in stages[:place] if before.kind == "expert"]
        if later := [name for name in stage.on_top_of or {} if name not in earlier]:
            raise UserError(
                f"Stage {stage.name!r} is on top of {later[0]!r}, which no stage before it trains. Allowed: "
                f"{', '.join(earlier) or 'none yet'}. Put that stage before it, or leave it out of on_top_of."
            )
        if stage.kind == "expert" and stage.name not in experts:
            raise UserError(
                f"Stage {stage.name!r} trains an expert that the model does not have. Allowed: "
                f"{', '.join(experts) or 'none yet'}. Write model.init_args.trained.experts: "
                f"[{', '.join(dict.fromkeys([*experts, stage.name]))}], or correct the name."
            )
        if stage.kind == "gate" and not gated:
            raise UserError(
                f"Stage {stage.name!r} trains a gate, and the model has none. It must be there from the beginning. "
                "Write model.init_args.trained.gate: {kind: pooled}, or leave the stage out."
            )


def check_same_plan(stages: Sequence[Stage], saved: Sequence[dict[str, Any]], step: int) -> None:
    """Refuse to go on with other stages than a checkpoint was trained in; those that are still to come may change.

    Args:
        stages: Of this run.
        saved: Of the checkpoint, as plain values.
        step: Optimizer steps that it has done.

    Raises:
        UserError: A stage that has begun is another one.
    """
    begun = [stage.plain() for stage, end in zip(stages, ends_of(stages), strict=True) if end - stage.steps < step]
    for place, stage in enumerate(begun):
        before = saved[place] if place < len(saved) else None
        if before != stage:
            raise UserError(
                f"Stage {place + 1} is {stage}, but the checkpoint was trained in {before}. Stages that have begun "
                "must stay as they are. Write that one, or start a new run (without --ckpt_path)."
            )
