"""Rounds that go on in a thread while training does: when the student draws for them, and when they are read."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch

from evolvedirector.callbacks._run.drawing import student_part
from evolvedirector.callbacks._run.finite import refuse_nonfinite_weights
from evolvedirector.callbacks._run.round_bar import RoundBar
from evolvedirector.callbacks._run.round_driver import RoundDriver
from evolvedirector.callbacks._run.to_loggers import log_figures
from evolvedirector.errors import UserError
from evolvedirector.evolution.background_rounds import BackgroundRounds
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.round import run_round
from evolvedirector.evolution.round_parts import Round, RoundInterrupted, RoundWatch
from evolvedirector.execution.background import BackgroundExecutor, BackgroundTask
from evolvedirector.execution.executor import Executor
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.execution.signals import TERM_GRACE_S
from evolvedirector.planning.memory import Offload
from evolvedirector.policies.policy import DrawsByLoss, Policy
from evolvedirector.records import RoundInfo
from evolvedirector.records.plain_settings import settings_of


def background_of(
    mode: str, background: BackgroundRounds | None, offload_student: Offload, policy: Policy
) -> BackgroundRounds | None:
    """Return how far rounds lag behind training; None where training waits for them.

    Args:
        mode: Of a callback.
        background: As it is written there. None: the usual lag.
        offload_student: What leaves the device while judge and teachers work.
        policy: Decides.

    Raises:
        UserError: A setting has no meaning in this mode, or the policy cannot work in it.
    """
    if mode not in ("between_epochs", "background"):
        raise UserError(
            f"mode is {mode!r}. Allowed: between_epochs, background. Write `mode: between_epochs` to let training wait "
            "for each round."
        )
    if mode == "between_epochs":
        if background is not None:
            raise UserError(
                "`background` is set, but mode is between_epochs, where training waits for each round. Allowed is it "
                "beside the other mode alone. Write `mode: background`, or leave `background` out."
            )
        return None
    background = settings_of(BackgroundRounds, background or {}, "background")
    if offload_student != "none":
        raise UserError(
            f"offload_student is {offload_student!r}, but in the background the student trains while judge and "
            "teachers work: nothing of it can leave the device. Allowed is none. Write `offload_student: none`; let "
            "judge and teachers work elsewhere (`cluster`, or a service)."
        )
    if background.epochs and isinstance(policy, DrawsByLoss) and policy.most_losses:
        raise UserError(
            f"{type(policy).__name__} draws by loss, which the student measures once a round has bought its images; "
            "in the background it trains on by then. Allowed are draws by skill. Write `weighting: {loss_power: 0}` in "
            "the policy, or `mode: between_epochs`."
        )
    return background


def epochs_of(settings: BackgroundRounds | None) -> int:
    """Return the epochs that are trained while a round is under way; 0 where training waits for it."""
    return 0 if settings is None else settings.epochs


def work_on(device: torch.device) -> None:
    """Let this thread's models lie on the device that trains: a new thread begins at the first one of the machine.

    Args:
        device: Of this rank.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)


class RoundInBackground:
    """Hold one round after the other in a thread of rank 0; every rank keeps one of these, in step.

    Args:
        driver: Knows the parts, the ranks and the ledger.
        settings: How far rounds lag behind.
        trainer: The running trainer.
        module: The student.
    """

    def __init__(
        self, driver: RoundDriver, settings: BackgroundRounds, trainer: pl.Trainer, module: pl.LightningModule
    ) -> None:
        self._driver = driver
        self._settings = settings
        self._trainer = trainer
        self._module = module
        self._student: StudentPart | None = None
        self._task: BackgroundTask[str] | None = None
        self._bar: RoundBar | None = None
        self._began = self._waited_s = 0.0
        self._rounds: list[tuple[float, float]] = []
        """Seconds that each took, and those of them in which training waited."""

    def begin(self, info: RoundInfo, pending: dict[str, Any]) -> str | None:
        """Begin a round, or go on with one of an earlier process; returns as `at_boundary`.

        Args:
            info: The round.
            pending: What the checkpoint holds of it; kept up to date.
        """
        self._student = student_part(self._trainer, self._module)
        self._began, self._waited_s = time.monotonic(), 0.0
        if self._trainer.is_global_zero:
            self._bar = RoundBar(self._trainer, info, seeding=False)
            self._driver.opened_store()
            student, drawn = self._student, bool(pending["drawn"])
            name = f"round {info.index + 1} in the background"
            self._task = BackgroundTask(lambda task: self._work(task, info, student, drawn), name)
        if self._trainer.global_step != info.global_step:
            return None
        return self.at_boundary(pending, pending["opened_epoch"])

    def at_boundary(self, pending: dict[str, Any], epochs_done: int) -> str | None:
        """Do what is due between two epochs, on all ranks: the student draws, or training waits for the end.

        Args:
            pending: What the checkpoint holds of the round; kept up to date.
            epochs_done: Epochs done now.

        Returns:
            The revision to read from the next epoch on; None while the round goes on.

        Raises:
            Exception: What went wrong in the background; the same on rank 0 as between epochs.
        """
        assert self._student is not None, "begin() was not called"
        age = epochs_done - pending["opened_epoch"]
        draws = not pending["drawn"] and age >= self._settings.write_epochs
        if draws:
            refuse_nonfinite_weights(self._trainer, "No round is held for them, and nothing is bought.")
        pending["drawn"] = drawn = draws or pending["drawn"]
        ends = age >= self._settings.epochs
        local = LocalExecutor({"render": {"student": self._student}})
        began = time.monotonic()
        drew_s, child = self._driver.meet(local, lambda executor: self._serve(executor, draws, ends, drawn))
        self._waited_s += time.monotonic() - began - drew_s
        if child is not None:
            self._finish(child, age - self._settings.write_epochs)
        return child

    def close(self) -> bool:
        """End the round that is under way, between two units of its work; return whether its thread is over."""
        task, self._task = self._task, None
        if task is None:
            return True
        had_failed = task.failure
        if not task.stop("the run ends", TERM_GRACE_S):
            print("A call of the round in the background has not returned; it ends with this process.", flush=True)
            return False
        if had_failed is not None:
            warnings.warn(
                f"The round in the background had failed: {had_failed}. What it bought is kept, and the same command "
                "with `--ckpt_path last` goes on.",
                stacklevel=2,
            )
        return True

    def summary(self) -> dict[str, Any]:
        """Return what rounds in the background came to in this process."""
        took_s, waited_s = (sum(times) for times in zip(*self._rounds, strict=True)) if self._rounds else (0.0, 0.0)
        return {
            "stale_epochs": self._settings.stale_epochs,
            "write_epochs": self._settings.write_epochs,
            "as_soon_as_ready": self._settings.as_soon_as_ready,
            "rounds": len(self._rounds),
            "round_s": took_s / len(self._rounds) if self._rounds else None,
            "waited_s": waited_s,
            "idle_share": waited_s / took_s if took_s else None,
        }

    def _work(self, task: BackgroundTask[str], info: RoundInfo, student: StudentPart, drawn: bool) -> str:
        """Run the round; in its thread."""
        work_on(self._trainer.strategy.root_device)
        if drawn:
            task.release()
        local = LocalExecutor(self._driver.tenants(student))
        unit = local.unit_of(student) * self._trainer.world_size
        executor = BackgroundExecutor(self._driver.over_cluster(local, local), student, unit, task)
        parts = self._driver.parts(student, executor)
        if self._settings.stale_epochs:
            parts = replace(parts, spare_drawings=self._settings.spare_drawings)
        child = run_round(Round(parts, info, RoundWatch(lambda: task.stop_reason, drawn=task.release)))
        self._driver.push()
        return child

    def _serve(self, executor: Executor, draws: bool, ends: bool, drawn: bool) -> tuple[float, str | None]:
        """Draw, wait, and see what came of the round; on rank 0."""
        task, drew_s = self._task, 0.0
        assert task is not None, "begin() was not called on rank 0"
        if draws or ends:
            try:
                drew_s = task.serve(executor, RoundWatch(self._driver.stop_reason).check, to_the_end=ends)
            except RoundInterrupted as error:
                self._driver.end_if_told(error)
                raise
        if task.is_over:
            task.stop("it is over", TERM_GRACE_S)  # its thread is about to end: nothing is left of it now
        if task.failure is not None:
            self._task = None  # raised here and told nowhere else
        child = task.result()
        return drew_s, child if ends or (drawn and self._settings.as_soon_as_ready) else None

    def _finish(self, child: str, stale_epochs: int) -> None:
        self._student = self._task = None
        took_s = time.monotonic() - self._began
        self._rounds.append((took_s, self._waited_s))
        if self._bar is None:
            return
        self._driver.report(self._bar, child)
        share = self._waited_s / took_s if took_s else 0.0
        print(
            f"It is read {stale_epochs} epochs after its drawings; training waited {self._waited_s:.1f} s for it "
            f"({share:.0%} of the round).",
            flush=True,
        )
        log_figures(
            self._trainer,
            {
                "rounds/duration_s": took_s,
                "rounds/stale_epochs": stale_epochs,
                "rounds/waited_s": self._waited_s,
                "rounds/idle_share": share,
            },
        )
        self._bar = None
