"""When experts are trained: one stage after another inside of one training, each begun anew."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import lightning.pytorch as pl

from evolvedirector.callbacks._run.epoch_resume import leave_finished_epoch
from evolvedirector.callbacks._run.held_out import held_out_prompts
from evolvedirector.callbacks._run.host_checks import check_reloads, is_smoke_test
from evolvedirector.callbacks._run.scale_choice import merge_at_best_scale
from evolvedirector.callbacks._run.stage_checks import check_order_of_rounds, check_stage_host, ranks_skills, steps_of
from evolvedirector.callbacks.checkpoint import ReadsRevision
from evolvedirector.errors import RunError
from evolvedirector.evaluation.validation_split import ValidationSplit
from evolvedirector.experts.expert_files import write_expert
from evolvedirector.experts.gated_files import write_gated
from evolvedirector.experts.host import HoldsExperts, TrainsOnSubsets
from evolvedirector.experts.merge_settings import Merge, check_merges, check_scales_are_chosen
from evolvedirector.experts.network_experts import NetworkExperts
from evolvedirector.experts.stages import (
    Stage,
    check_names,
    check_plan,
    check_same_plan,
    chosen_stages,
    ended_stages,
    first_of_ranking,
    skill_at,
    stage_at,
)
from evolvedirector.models.evaluated_weights import evaluate_weights
from evolvedirector.planning.roles import ListsTexts, PlannedRun
from evolvedirector.planning.spending import Reader
from evolvedirector.records.part import Part, verify_parts
from evolvedirector.records.plain_settings import settings_of
from evolvedirector.records.subset import Subset
from evolvedirector.store.durable import make_folder

EXPERT_FOLDER = "experts"
"""Of the run folder: where each expert is written when its stage ends."""


@runtime_checkable
class AveragesByStage(Protocol):
    """A callback that averages weights, and can begin anew with those that a stage trains."""

    def start_anew(self, pl_module: pl.LightningModule, names: Collection[str]) -> Any:
        """Begin a new average of these parameters."""
        ...

    def settle(self, pl_module: pl.LightningModule) -> Any:
        """Let their averages be their weights."""
        ...


class ExpertStages(pl.Callback):
    """Train experts one after another: each on its own samples, with optimizer, schedule and average of its own.

    All experts are in the network from the beginning and begin alike; the one of the stage works and learns, the others
    wait. At the first epoch of a stage the optimizer's state, the learning rate's schedule and the averages (`EMA`)
    start anew, and its samples are read from the first batch of their order on, so that an expert does not depend on
    those before it. At its last one the averaged weights become the expert's, and it is written to
    `<run>/experts/NAME.safetensors`. A checkpoint of any step goes on in its stage.

    Example:
        ```yaml
        trainer:
          max_steps: 3000
          callbacks:
            - class_path: evolvedirector.callbacks.ExpertStages
              init_args:
                stages:
                  - {name: counting, steps: 1000, trains_on: {skills: [counting]}}
                  - {name: colour, steps: 1000, trains_on: {skills: [colour]}}
                  - {name: joint, steps: 1000}
        ```

    Skills that the rounds of an `EvolutionCallback` behind it see fail get experts without being named: `failing: 1` is
    the one that fails most when the stage begins, and `on_top_of` merges experts that are finished by then. Rounds
    before such a stage draw with that merge.

    Example:
        ```yaml
        stages:
          - {name: expert-1, steps: 200, failing: 1}
          - {name: expert-2, steps: 200, failing: 2}
          - {name: expert-3, steps: 200, failing: 1, on_top_of: {expert-1: 0.5, expert-2: 0.5}}
        ```
    """

    def __init__(
        self,
        stages: list[Stage],
        only: str | None = None,
        merges: dict[str, Merge] | None = None,
        validation: ValidationSplit | None = None,
    ) -> None:
        """Set which stages there are.

        Args:
            stages: In their order.
            only: Name of one stage, which is the whole training then. None: all stages.
            merges: Made of the experts after the last stage, by name, and written beside them. With `only` there are
                none: `evolvedirector merge` makes them of the files.
            validation: Chooses among the `scales` of merges. None: no merge has any.

        Raises:
            UserError: There is no stage, or none of that name, or merges have scales and nobody chooses.
        """
        super().__init__()
        self.stages = [settings_of(Stage, stage, "stages") for stage in stages]
        self.only = only
        self.merges = {name: settings_of(Merge, merge, f"merges.{name}") for name, merge in (merges or {}).items()}
        self.validation = None if validation is None else settings_of(ValidationSplit, validation, "validation")
        check_scales_are_chosen(self.merges, self.validation is not None)
        self._chosen = chosen_stages(self.stages, only)
        self._current: str | None = None
        self._waits: str | None = None  # the stage whose student draws, between the end of one and its beginning
        self._rankings: dict[str, list[str]] = {}  # failed skills in order, by the first stage of those that share them
        self._written: dict[str, dict[str, Any]] = {}  # provenance of what is written
        self._saved_plan: list[dict[str, Any]] | None = None
        self._host: HoldsExperts | None = None
        self._data: TrainsOnSubsets | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return where the stages stand."""
        return {
            "current": self._current,
            "waits": self._waits,
            "rankings": {name: list(skills) for name, skills in self._rankings.items()},
            "written": dict(self._written),
            "stages": [stage.plain() for stage in self._chosen],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over where the checkpoint was saved; a round that it left open draws with the same expert, too."""
        self._current, self._written = state_dict["current"], dict(state_dict["written"])
        self._waits, self._rankings = state_dict.get("waits"), dict(state_dict.get("rankings", {}))
        self._saved_plan = state_dict["stages"]
        for stage in self._chosen if self._host is not None else ():  # none where nothing is trained
            if stage.name == self._current:  # one that can be trained, also between stages: the next is rehearsed first
                self._activate(stage)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse stages that cannot be trained, before anything is bought.

        Raises:
            UserError: Names or steps do not fit.
            RunError: The project lacks what stages need.
        """
        if stage != "fit":
            return
        self._host, self._data = check_stage_host(trainer, pl_module)
        check_reloads(trainer)
        trained = self._host.trained
        check_names(self._chosen, trained.experts, trained.mixed if trained.gate is not None else ())
        check_merges(self.merges, {stage.name: stage.kind for stage in self.stages})
        check_order_of_rounds(trainer, self, self._chosen)
        if self.validation is not None:
            verify_parts(self.validation.reward)
            self.validation.refuse_measured(held_out_prompts(trainer), {})
        if not is_smoke_test(trainer):
            check_plan(self._chosen, *steps_of(trainer, self._data))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on in the stage of the checkpoint.

        Raises:
            UserError: It was trained in other stages.
        """
        leave_finished_epoch(trainer)
        if self._saved_plan is not None:
            check_same_plan(self._chosen, self._saved_plan, trainer.global_step)
        for stage in self._chosen:
            if stage.name == self._waits:
                self._experts().activate(stage.on_top_of or {})
        self._end_stages(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a stage where one ends before this epoch, or none has begun."""
        self._end_stages(trainer, pl_module)
        stage = stage_at(self._chosen, trainer.global_step)
        if stage is not None and stage.name != self._current:
            self._begin(trainer, pl_module, stage)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the experts frozen that the stage stands on: they work, so that they have gradients."""
        stage = stage_at(self._chosen, trainer.global_step)
        for name in (stage.on_top_of or {}) if stage is not None else {}:
            for parameter in self._experts().parameters_of(name).values():
                parameter.grad = None  # an optimizer leaves out what has none; shards cannot be frozen later

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the expert of a stage that ends here, before the checkpoint of this epoch's end is saved."""
        self._end_stages(trainer, pl_module)

    def parts(self) -> dict[str, Part]:
        """Name the reward that chooses scales, for those who verify and size."""
        return {} if self.validation is None else {"validation.reward": self.validation.reward}

    def planned_arms(self) -> list[str]:
        """Name what the run will have to draw with beside its base: experts, gate, and merges after all stages."""
        return [*(stage.name for stage in self._chosen), *(self.merges if self.only is None else ())]

    def planned_drawings(self, run: PlannedRun) -> int | None:
        """Count the images that choose scales.

        Args:
            run: Of the whole training.
        """
        if self.validation is None or self.only is not None:
            return 0
        scales = sum(len(set(merge.scales)) for merge in self.merges.values() if merge.scales is not None)
        return scales * len(self.validation.listed()) * self.validation.images_per_prompt

    def planned_looks(self, run: PlannedRun) -> list[Reader]:
        """Count what the reward of the validation split scores: every image once.

        Args:
            run: Of the whole training.
        """
        if self.validation is None:
            return []
        return [Reader("ExpertStages.validation.reward", self.validation.reward, self.planned_drawings(run))]

    def plan_summary(self) -> dict[str, str]:
        """Say which stages there are, for `evolvedirector check`."""
        told = [f"{stage.name} {stage.steps:,} steps on {stage.told()}" for stage in self._chosen]
        return {"stages": "; ".join(told)}

    def _begin(self, trainer: pl.Trainer, module: pl.LightningModule, stage: Stage) -> None:
        self._activate(stage)
        trainer.strategy.setup_optimizers(trainer)  # optimizer and schedule of a training that has taken no step
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, AveragesByStage):
                callback.start_anew(module, self._names(module, stage))
        self._current, self._waits = stage.name, None
        if is_smoke_test(trainer):
            return  # there may be no image yet, and none is bought
        data = cast(TrainsOnSubsets, self._data)
        self._rank_skills(trainer, stage)
        subset = self._subset_of(stage)
        data.check_subset(subset)
        data.train_on(subset)
        if trainer.is_global_zero:
            print(f"Stage {stage.name}: {stage.steps:,} steps on {subset.named()}.", flush=True)

    def _rank_skills(self, trainer: pl.Trainer, stage: Stage) -> None:
        """Ask the rounds so far which skills fail; stages that share a ranking ask once.

        Raises:
            RunError: No round has looked at a skill that there are images of.
        """
        first = first_of_ranking(self._chosen, stage).name
        if stage.failing is None or first in self._rankings:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        ranking = ranks_skills(trainer, stage).failing_skills(data.revision_sha)
        if not ranking:
            raise RunError(
                f"Stage {stage.name!r} trains on a skill that fails, but no round has screened candidates of a skill "
                "that there are images of. Allowed is a policy that screens, with a round before this stage. Write "
                "`first_rounds: 1` and `policy: {class_path: evolvedirector.policies.ScreeningPolicy}` in "
                "EvolutionCallback, or name the skill: trains_on: {skills: [counting]}."
            )
        self._rankings[first] = [skill for skill, _ in ranking]
        if trainer.is_global_zero:
            print(f"Failed so far: {', '.join(f'{skill} {share:.0%}' for skill, share in ranking)}.", flush=True)

    def _subset_of(self, stage: Stage) -> Subset:
        if stage.failing is None:
            return stage.subset
        ranking = self._rankings[first_of_ranking(self._chosen, stage).name]
        return Subset([skill_at(ranking, stage.failing)])

    def _activate(self, stage: Stage) -> None:
        if stage.kind == "gate":
            self._experts().activate_gate()
        else:
            self._experts().activate({stage.name: 1.0, **(stage.on_top_of or {})})

    def _names(self, module: pl.LightningModule, stage: Stage) -> list[str]:
        """Name the parameters that a stage trains, as the whole module does."""
        experts = self._experts()
        trained = experts.parameters_of_gate() if stage.kind == "gate" else experts.parameters_of(stage.name)
        own = set(trained.values())
        return [name for name, parameter in module.named_parameters() if parameter in own]

    def _end_stages(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write what ended stages have trained, once, and the merges after the last one.

        A round may end a process between an epoch and its checkpoint, so this is asked at every turn.
        """
        if is_smoke_test(trainer):
            return
        due = [stage for stage in ended_stages(self._chosen, trainer.global_step) if stage.name not in self._written]
        for stage in due:
            evaluate_weights(trainer.optimizers)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, AveragesByStage):
                    callback.settle(module)
            self._written[stage.name] = self._provenance(trainer, stage)
            self._write(trainer, stage)
        if due and len(self._written) == len(self._chosen) and self.only is None:
            self._write_merges(trainer, module)
        following = stage_at(self._chosen, trainer.global_step)
        if due and following is not None and following.draws_first:
            self._waits = following.name
            self._experts().activate(following.on_top_of or {})

    def _provenance(self, trainer: pl.Trainer, stage: Stage) -> dict[str, Any]:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        revision = data.revision_sha if isinstance(data, ReadsRevision) else None
        told = stage.plain() | {"trains_on": self._subset_of(stage).plain()}
        return {"stage": told, "global_step": trainer.global_step, "revision_sha": revision}

    def _write(self, trainer: pl.Trainer, stage: Stage) -> None:
        path = self._path(trainer, stage.name)
        if stage.kind == "gate":
            gated = self._experts().gated(self._written)  # on every rank: shards are gathered
            if trainer.is_global_zero:
                write_gated(gated, path)
        else:
            expert = self._experts().expert(stage.name, self._written[stage.name])
            if trainer.is_global_zero:
                write_expert(expert, path)

    def _write_merges(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        names = [stage.name for stage in self._chosen if stage.kind == "expert"]
        experts = {name: self._experts().expert(name, self._written[name]) for name in names}
        data = trainer.datamodule  # type: ignore[attr-defined]
        trained_on = data.training_texts() if isinstance(data, ListsTexts) else []
        for name, merge in self.merges.items():
            taken = merge.taken(experts, name)
            if merge.scales is not None:  # every rank draws
                assert self.validation is not None, "made sure of when it was built"
                network = self._experts().network
                split = self.validation
                merged = merge_at_best_scale(trainer, module, network, merge, taken, name, split, trained_on)
            elif trainer.is_global_zero:
                merged = merge.of_all(taken, name)
            if trainer.is_global_zero:
                write_expert(merged, self._path(trainer, name))

    def _path(self, trainer: pl.Trainer, name: str) -> Path:
        folder = Path(trainer.default_root_dir) / EXPERT_FOLDER
        make_folder(folder)
        return folder / f"{name}.safetensors"

    def _experts(self) -> NetworkExperts:
        assert self._host is not None, "setup() has not run"
        return self._host.experts()
