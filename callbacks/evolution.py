"""When the dataset evolves: at epoch boundaries, between a checkpoint and the next revision."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl

from evolvedirector.callbacks._run.background import RoundInBackground, background_of, epochs_of
from evolvedirector.callbacks._run.device_fit import check_memory
from evolvedirector.callbacks._run.epoch_resume import leave_finished_epoch
from evolvedirector.callbacks._run.finite import refuse_nonfinite_weights
from evolvedirector.callbacks._run.held_out import size_px_of
from evolvedirector.callbacks._run.host_checks import (
    check_before_rounds,
    check_pairs,
    check_placed,
    check_settings,
    check_sized,
    evolving_data_of,
    health_of,
    is_smoke_test,
    steps_per_epoch,
    student_name,
    trains_on,
)
from evolvedirector.callbacks._run.open_round import opened_beside, still_beside
from evolvedirector.callbacks._run.rehearsal import rehearse
from evolvedirector.callbacks._run.round_driver import RoundDriver
from evolvedirector.callbacks.checkpoint import (
    CHECKPOINT_FOLDER,
    STATE_NAME,
    is_restored_later,
    prune_where_nobody_does,
    save_committed,
)
from evolvedirector.errors import RunError
from evolvedirector.evolution.background_rounds import BackgroundRounds
from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.holds_rounds import HoldsRounds, NoPrompts
from evolvedirector.evolution.host import EvolvingData
from evolvedirector.evolution.opening import seeding_info
from evolvedirector.evolution.round_id import RoundSettings, gold_name, round_id_of
from evolvedirector.evolution.schedule import RoundSchedule
from evolvedirector.execution.executor import Cluster
from evolvedirector.judges.health.report import JudgeHealth
from evolvedirector.judges.judge import Judge
from evolvedirector.judges.no_judge import NoJudge
from evolvedirector.models.embedder import Embedder
from evolvedirector.planning.preflight import SMOKE_TEST
from evolvedirector.planning.roles import EvolutionPlan
from evolvedirector.planning.spending import plan_of_spending, with_look_price
from evolvedirector.policies.policy import Policy
from evolvedirector.policies.screening.policy import ScreeningPolicy
from evolvedirector.records import RoundInfo
from evolvedirector.records.part import Part
from evolvedirector.records.plain_settings import settings_of
from evolvedirector.rewards.reward import Reward
from evolvedirector.teachers.teacher import Teacher
from evolvedirector.writers.prompt_writer import PromptWriter

STATE_FORMAT = 2
"""Of the callback's state in a checkpoint. Before 2 it carried no number, and rounds were named in another way."""


class EvolutionCallback(pl.Callback):
    """Evolve the training set between epochs: the judge compares student with teachers, the policy edits the prompts.

    At the end of every `every_n_epochs`-th epoch it saves a checkpoint, runs one round (render, judge, decide, write,
    buy, publish) on all ranks, and lets the next epoch read the revision the round published. A killed round is
    finished by the run that continues there; nothing is bought twice. It works in any project whose module has
    `generate` and whose datamodule has `data_root`, `revision_sha` and `open_revision`
    (`evolvedirector.evolution.ImageGenerator` and `EvolvingData`).

    Example:
        ```yaml
        trainer:
          reload_dataloaders_every_n_epochs: 1
          callbacks:
            - class_path: evolvedirector.callbacks.EvolutionCallback
              init_args:
                every_n_epochs: 2
                judge: {class_path: evolvedirector.worlds.shapes.MiniatureJudge}
                writer: {class_path: evolvedirector.worlds.shapes.MiniatureWriter}
                teachers:
                  exact: {class_path: evolvedirector.worlds.shapes.MiniatureTeacher}
                budget: {budget_teacher_calls: 2000}
        ```
    """

    def __init__(
        self,
        teachers: dict[str, Teacher] | None = None,
        judge: Judge | None = None,
        writer: PromptWriter | None = None,
        policy: Policy | None = None,
        budget: Budget | None = None,
        judge_health: JudgeHealth | bool | None = None,
        tie_margin: float = 0.0,
        every_n_epochs: int = 1,
        max_rounds: int | None = None,
        image_size_px: int | None = None,
        offload_student: Literal["none", "optimizer", "all"] = "none",
        seed: int = 0,
        data: str | None = None,
        rewards: dict[str, Reward] | None = None,
        rehearse: bool = True,
        first_rounds: int = 0,
        embedder: Embedder | None = None,
        cluster: Cluster | None = None,
        mode: Literal["between_epochs", "background"] = "between_epochs",
        background: BackgroundRounds | None = None,
        pairs: HoldsRounds | None = None,
    ) -> None:
        """Set who takes part, how often, and what it may cost.

        Args:
            teachers: Image sources by name, in order of preference. Rounds over prompts need them, judge and writer.
            judge: Compares student with teacher; not the judge of the headline figures.
            writer: Writes new prompts.
            policy: Decides what is written, bought, mastered, expanded, deleted. None: `ScreeningPolicy`, which needs
                a budget of teacher calls.
            budget: Limits of spending over the life of the dataset root. None: no limit.
            judge_health: How the judge is checked before the seeds are bought and at the start of every round; a round
                of a judge below a floor is skipped, and one that answers nothing buys nothing. None or true: by
                canaries alone, which need no gold set. False: the judge is trusted.
            tie_margin: Distance from 1/2 up to which a preference of the judge is a tie, 0 to under 0.5, for student
                against teacher as for teacher against teacher. 0: every preference counts.
            every_n_epochs: Epochs between rounds.
            max_rounds: Rounds in all. None: until training ends.
            image_size_px: Side of the images asked for. None: the module's `image_size_px`.
            offload_student: What leaves the device while judge and teachers work there: nothing, the optimizer's state,
                or the weights too, with text encoders and codec.
            seed: Root of every draw of evolution.
            data: Attribute of the datamodule that holds the evolving data. None: the datamodule itself.
            rewards: Score images by name, where the policy's plan asks for scores. None: no reward takes part.
            rehearse: Before the first purchase of each process, try a training step, a drawn image and a checkpoint,
                and undo them: what cannot work then costs nothing. It takes seconds, and main memory for one copy of
                the weights.
            first_rounds: Rounds held before the first training step, so that there is something to train on; the
                dataset may be without images until then. They count among `max_rounds`.
            embedder: Embeds the prompts and images that a round publishes, between buying and publishing, for a module
                that trains on embeddings (`EmbeddingDataModule`). None: nobody does.
            cluster: Where judge, writer, teachers or rewards work that do not work beside the student. None: all do.
            mode: Whether training waits for each round, or goes on while its judge, writer and teachers work.
            background: How far such rounds lag behind. None: what they buy is read one epoch after the drawings.
            pairs: Holds rounds over subject pairs (`EvolvingPairs`), in place of teachers, judge, writer and policy;
                what they may use up says their builder's budget. None: rounds are over prompts.

        Raises:
            UserError: No teacher, a number out of range, or a part on the cluster that there is none of.
        """
        super().__init__()
        of_prompts: dict[str, object] = {"teachers": teachers, "judge": judge, "writer": writer, "policy": policy}
        of_prompts |= {"rewards": rewards, "judge_health": judge_health, "embedder": embedder, "cluster": cluster}
        of_prompts |= {"mode: background": mode == "background"}
        limits = settings_of(Budget, budget or {}, "budget")
        check_pairs(pairs, {**of_prompts, "budget": limits != Budget() and not limits.buys_nothing})
        self.pairs = pairs
        self.teachers = dict(teachers or {})
        self.judge: Judge = judge or NoJudge()
        self.writer: PromptWriter = writer or NoPrompts()
        self.policy: Policy = NoPrompts() if pairs else policy or ScreeningPolicy()
        if pairs is None:
            check_settings(self.teachers, self.judge, self.writer, policy, rewards or {}, tie_margin)
        self.budget = with_look_price(limits, self.judge)
        self.judge_health = health_of(judge_health, self.policy)
        self.tie_margin = tie_margin
        self.every_n_epochs = every_n_epochs
        self.max_rounds = max_rounds
        self.mode = mode
        self.background = background_of(mode, background, offload_student, self.policy)
        self._schedule = RoundSchedule(every_n_epochs, max_rounds, first_rounds, epochs_of(self.background))
        self.image_size_px = image_size_px
        self.offload_student = offload_student
        self.seed = seed
        self.data = data
        self.rewards = dict(rewards or {})
        self.rehearse = rehearse
        self.first_rounds = first_rounds
        self.embedder = embedder
        self.cluster = cluster
        check_placed(cluster, self.parts())
        self.root: Path | None = None
        self._driver: RoundDriver | None = None
        self._beside: RoundInBackground | None = None  # holds rounds while training goes on
        self._host: EvolvingData | None = None
        self._rounds_done = 0
        self._pending: dict[str, Any] | None = None  # the round this run has opened and not finished
        self._settled_step = -1  # global step whose epoch end is dealt with; Lightning fires it again at a resume
        self._published_sha: str | None = None
        self._renames_pending = True  # a round opened under this version is named anew: another judge may decide now
        self._gold = ""  # name of the gold set: with another one another round decides

    @property
    def state_key(self) -> str:
        """Tell several instances apart by the data they evolve."""
        return f"EvolutionCallback[{self.data or ''}]"

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to finish or skip the round at this point."""
        return {
            "format": STATE_FORMAT,
            "rounds_done": self._rounds_done,
            "pending": self._pending,
            "settled_step": self._settled_step,
            "published_sha": self._published_sha,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over where the checkpoint was saved.

        A round that an earlier version left open keeps the name it was opened under: what was bought and judged in it
        is found under that name, and it is finished instead of begun anew.
        """
        self._renames_pending = state_dict.get("format", 1) >= 2
        self._rounds_done = state_dict["rounds_done"]
        self._pending = state_dict["pending"]
        self._settled_step = state_dict["settled_step"]
        self._published_sha = state_dict["published_sha"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a host that a round could not work with, before anything is bought."""
        if stage != "fit":
            return
        self._host = evolving_data_of(trainer, self.data)
        self.root = Path(self._host.data_root).resolve()
        check_before_rounds(trainer, pl_module, self, self.evolution())
        self._gold = gold_name(self.judge_health)
        self._driver = RoundDriver(self.evolution(), self.root, trainer, pl_module)
        if self.background is not None:
            self._beside = RoundInBackground(self._driver, self.background, trainer, pl_module)
        if self.budget.buys_nothing and trainer.is_global_zero:
            print("Evolution: budget_teacher_calls is 0, so this run only trains: nothing is judged or bought.")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse what cannot fit the device or train; buy images for seed prompts that have none, before any loader."""
        check_memory(self.evolution(), trainer, pl_module)
        if is_smoke_test(trainer):
            if trainer.is_global_zero:
                print(SMOKE_TEST, flush=True)
            return
        if not self.budget.buys_nothing:
            self._driving().hold()  # what is edited from here on would be left behind by the next round
        if next((c for c in trainer.callbacks if _rehearses(c)), None) is self:  # type: ignore[attr-defined]
            # a killed one is cleared away as every uncommitted checkpoint is
            path = Path(trainer.default_root_dir) / CHECKPOINT_FOLDER / "step-rehearsal" / STATE_NAME
            rehearse(trainer, pl_module, self.image_size_px or size_px_of(pl_module), path)
        restored_later = is_restored_later(trainer)
        buys_seeds = self.pairs is None and not self.budget.buys_nothing
        if self._pending is None and buys_seeds and not restored_later:
            refuse_nonfinite_weights(trainer, "Nothing is bought for them.")
            revision_sha = self._published_sha or self._opened().revision_sha
            info = seeding_info(self.seed, self.max_rounds, trainer.global_step, revision_sha)
            child = self._driving().seed(info)
            if child != revision_sha:
                self._opened().open_revision(child)
                self._published_sha = child

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish the round that the previous run left open, or hold those that come before the first step."""
        check_sized(trainer)
        leave_finished_epoch(trainer)
        if is_smoke_test(trainer):
            return
        if self._pending is not None:
            info = RoundInfo.restored(self._pending)
            if self._renames_pending:
                info = replace(info, round_id=self._round_id(trainer, pl_module, info.global_step, info.revision_sha))
            self._hold(trainer, info, still_beside(self._pending, info, trainer, self.background))
        if trainer.fit_loop.resumed_on_epoch_end:  # another instance's round was interrupted before this one's turn
            self._epoch_ended(trainer, pl_module, trainer.current_epoch)
        while self._schedule.comes_first(trainer.global_step, self._rounds_done) and not self.budget.buys_nothing:
            self._open_round(trainer, pl_module, {})

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Assert that this epoch reads the revision that the last round published."""
        if self._published_sha and self._opened().revision_sha != self._published_sha:
            raise RunError(
                f"This epoch reads revision {self._opened().revision_sha[:12]}, but the last round published "
                f"{self._published_sha[:12]}. Allowed is the revision that `open_revision` named. Let the "
                "datamodule's `train_dataloader` build a new loader each time it is called."
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Run a round when one is due."""
        self._epoch_ended(trainer, pl_module, trainer.current_epoch + 1)

    def _epoch_ended(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epochs_done: int) -> None:
        if trainer.global_step == self._settled_step:
            return
        self._settled_step = trainer.global_step
        if self._pending is not None and self._beside is not None:
            self._take(trainer, self._pending, self._beside.at_boundary(self._pending, epochs_done))
        read = trains_on(trainer, epochs_done, self._schedule.epochs_in_flight)
        is_due = self._pending is None and self._schedule.is_due(epochs_done, self._rounds_done, read)
        if is_due and not (self.budget.buys_nothing or is_smoke_test(trainer)):
            self._open_round(trainer, pl_module, opened_beside(self.background, epochs_done))

    def _open_round(self, trainer: pl.Trainer, pl_module: pl.LightningModule, beside: dict[str, Any]) -> None:
        """Save a checkpoint, then hold the next round, or begin it where training goes on beside it."""
        revision_sha = self._published_sha or self._opened().revision_sha
        info = RoundInfo(
            round_id=self._round_id(trainer, pl_module, trainer.global_step, revision_sha),
            index=self._rounds_done,
            rounds=self._schedule.planned_rounds(trainer.max_epochs, trainer.max_steps, steps_per_epoch(trainer)),
            seed=self.seed,
            global_step=trainer.global_step,
            revision_sha=revision_sha,
        )
        self._pending = {**asdict(info), **beside}
        name = f"step-{trainer.global_step:08d}-round" + (f"-{self.data}" if self.data else "")
        save_committed(trainer, Path(trainer.default_root_dir), name)
        self._hold(trainer, info, beside)

    def _hold(self, trainer: pl.Trainer, info: RoundInfo, beside: dict[str, Any]) -> None:
        self._pending = {**asdict(info), **beside}
        if self._beside is not None and beside:
            child = self._beside.begin(info, self._pending)
        else:
            refuse_nonfinite_weights(trainer, "No round is held for them, and nothing is bought.")
            child = self._driving().run(info)
        self._take(trainer, self._pending, child)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of the root, the teachers and the judge."""
        if self._driver is not None and (self._beside is None or self._beside.close()):
            self._driver.close()
        self._driver = self._beside = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the root, so that the next run can take it."""
        self.teardown(trainer, pl_module, "fit")

    def summary_entries(self) -> dict[str, Any]:
        """Return this callback's part of `summary.json`."""
        beside = {} if self._beside is None else {"background": self._beside.summary()}
        return {} if self._driver is None else {**self._driver.summary(self._opened().revision_sha), **beside}

    def failing_skills(self, revision_sha: str) -> list[tuple[str, float]]:
        """Rank the skills that the rounds before a revision saw fail, with their shares; every rank asks.

        Args:
            revision_sha: That is trained on.
        """
        return self._driving().failing_skills(revision_sha)

    def owned_root(self) -> Path | None:
        """Return the dataset root that this callback writes; None before the run is set up."""
        return self.root

    def parts(self) -> dict[str, Part]:
        """Name everybody who takes part, for those who verify and size them."""
        teachers = {f"teachers.{name}": teacher for name, teacher in self.teachers.items()}
        rewards = {f"rewards.{name}": reward for name, reward in self.rewards.items()}
        embedder: dict[str, Part] = {} if self.embedder is None else {"embedder": self.embedder}
        if self.pairs is not None:
            return {**self.pairs.parts(), **embedder}
        return {**teachers, "judge": self.judge, "writer": self.writer, "policy": self.policy, **rewards, **embedder}

    def evolution(self) -> EvolutionPlan:
        """Say who takes part, when, and at what cost."""
        settings = RoundSettings(
            self.teachers,
            self.judge,
            self.writer,
            self.policy,
            self.budget,
            self.judge_health,
            self.tie_margin,
            self.seed,
            self.rewards,
            self.embedder,
            background=self.background,
            pairs=self.pairs,
        )
        return EvolutionPlan(
            settings, self._schedule, self.offload_student, self.image_size_px, self.data, self.cluster
        )

    def plan_summary(self) -> dict[str, str]:
        """Say what evolution may do and cost at most, for `evolvedirector check`."""
        rounds = "none" if self.budget.buys_nothing else self._schedule.told()
        if self.pairs is not None:
            return {"rounds": rounds, **self.pairs.summary(), "offload student": self.offload_student}
        return {
            "rounds": rounds,
            "mode": "between epochs" if self.background is None else self.background.told(),
            "teachers": ", ".join(self.teachers),
            "judge": type(self.judge).__name__,
            "policy": type(self.policy).__name__,
            "offload student": self.offload_student,
            **({} if self.cluster is None else {"on the cluster": ", ".join(sorted(self.cluster.placed))}),
            **plan_of_spending(self.budget, self.teachers),
        }

    def _take(self, trainer: pl.Trainer, pending: dict[str, Any], child: str | None) -> None:
        """Let the next epoch read what a round has published; None: it goes on."""
        if child is None:
            return
        self._opened().open_revision(child)
        self._published_sha = child
        self._pending = None
        self._rounds_done = pending["index"] + 1
        self._settled_step = max(self._settled_step, pending["global_step"])
        prune_where_nobody_does(trainer, keep_last=2)

    def _round_id(self, trainer: pl.Trainer, module: pl.LightningModule, step: int, revision_sha: str) -> str:
        student = student_name(trainer, module)
        return round_id_of(self.evolution().settings, self._gold, student, step, revision_sha)

    def _opened(self) -> EvolvingData:
        assert self._host is not None, "setup() has not run"
        return self._host

    def _driving(self) -> RoundDriver:
        assert self._driver is not None, "setup() has not run"
        return self._driver


def _rehearses(callback: object) -> bool:
    return isinstance(callback, EvolutionCallback) and callback.rehearse and not callback.budget.buys_nothing
