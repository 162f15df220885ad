"""One round on all ranks: who drives, who serves, and how it ends for everybody when it ends for one."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import lightning.pytorch as pl
import torch.distributed as dist

from evolvedirector.callbacks._run.drawing import offloader, student_part
from evolvedirector.callbacks._run.held_out import size_px_of
from evolvedirector.callbacks._run.round_bar import RoundBar
from evolvedirector.errors import RunError
from evolvedirector.evolution.failing import failing_skills
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.opening import run_seeding
from evolvedirector.evolution.round import run_round
from evolvedirector.evolution.round_parts import Round, RoundInterrupted, RoundParts, RoundWatch, tenants_of
from evolvedirector.execution.executor import Executor, Tenants
from evolvedirector.execution.heartbeat import Heartbeat
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.execution.metered import Meter, MeteredExecutor
from evolvedirector.execution.ranks import PeerFailed, RankExecutor, on_rank_zero
from evolvedirector.execution.signals import TermRequest
from evolvedirector.models.embedding_part import EmbeddingPart
from evolvedirector.planning.roles import EvolutionPlan, HasBuckets, PushesRoot
from evolvedirector.planning.spending import told_prices_usd
from evolvedirector.records import RoundInfo
from evolvedirector.records.buckets import BucketSize
from evolvedirector.records.part import close_parts
from evolvedirector.report.summary import evolution_figures

if TYPE_CHECKING:
    from evolvedirector.store.dataset import DatasetStore

Result = TypeVar("Result")

GROUP_TIMEOUT = timedelta(days=30)
"""No round is ended by a collective's timeout: the heartbeat tells dead from slow."""


class RoundDriver:
    """Run rounds for an `EvolutionCallback`: rank 0 holds the ledger and drives, the others serve.

    Args:
        plan: Who takes part, and what leaves the device for them.
        root: The dataset.
        trainer: The running trainer.
        module: The student.
    """

    def __init__(self, plan: EvolutionPlan, root: Path, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._plan = plan
        self._settings = plan.settings
        self._root = root
        self._trainer = trainer
        self._module = module
        self._store: DatasetStore | None = None
        self._group: dist.ProcessGroup | None = None
        self._heartbeat: Heartbeat | None = None
        self._term = TermRequest()
        self._embedder = None if plan.settings.embedder is None else EmbeddingPart(plan.settings.embedder)
        self._meter = Meter(keeps_calls=False)
        self._began = time.monotonic()
        self._held: list[tuple[float, float]] = []
        """Seconds of each round that training waited for, and those of them in which the student drew."""

    def hold(self) -> None:
        """Keep every other writer away from the root until `close`; rank 0 alone does.

        Raises:
            StoreError: Another process has it.
        """
        if self._trainer.is_global_zero:
            self.opened_store()

    def run(self, info: RoundInfo) -> str:
        """Run one round on all ranks; every rank returns the sha of the published revision."""
        pairs = self._settings.pairs
        began, drew_s = time.monotonic(), self._drew_s()
        child = self._together(run_round if pairs is None else pairs.hold, info)
        self._held.append((time.monotonic() - began, self._drew_s() - drew_s))
        return child

    def seed(self, info: RoundInfo) -> str:
        """Buy images for seed prompts on all ranks; every rank returns the revision to train on."""
        return self._together(run_seeding, info)

    def carry(self, work: Callable[[Round], str], info: RoundInfo, name: str) -> str:
        """Do other work with the parts of a round on all ranks, a probe say; every rank returns what it returns.

        Args:
            work: Done on rank 0, while the others serve.
            info: Names it; the revision it starts from need not exist.
            name: What progress is reported under.
        """
        return self._together(work, info, name)

    def failing_skills(self, revision_sha: str) -> list[tuple[str, float]]:
        """Rank the skills that the student fails; every rank gets what rank 0 reads."""
        return on_rank_zero(lambda: failing_skills(self.opened_store(), revision_sha))

    def summary(self, revision_sha: str) -> dict[str, Any]:
        """Return the figures of evolution so far, times in this process; empty on ranks without the ledger."""
        if not self._trainer.is_global_zero:
            return {}
        return {
            **evolution_figures(self.opened_store(), revision_sha, self._settings.budget),
            "loop": {
                "parts": self._meter.totals(),
                "rounds": len(self._held),
                "rounds_s": sum(took for took, _ in self._held),
                "drawing_s": sum(drew for _, drew in self._held),
                "wall_s": time.monotonic() - self._began,
            },
        }

    def _drew_s(self) -> float:
        return self._meter.totals().get("student", {}).get("seconds", 0.0)

    def close(self) -> None:
        """Let go of the ledger, the teachers, the writer and the judge."""
        if self._store is not None:
            self._store.close()
            self._store = None
        settings = self._settings
        if self._plan.cluster is not None and self._trainer.is_global_zero:
            self._plan.cluster.close()
        parts = (*settings.teachers.values(), settings.writer, *settings.rewards.values(), settings.judge)
        of_pairs = () if settings.pairs is None else settings.pairs.parts().values()
        close_parts(*parts, self._embedder, *of_pairs)

    def _together(self, work: Callable[[Round], str], info: RoundInfo, name: str | None = None) -> str:
        student = student_part(self._trainer, self._module)
        local = LocalExecutor(self.tenants(student), offloader(self._trainer, self._module, self._plan.offload_student))

        def drive(executor: Executor) -> str:
            return self._drive(work, info, student, self.over_cluster(executor, local), name)

        return self.meet(local, drive)

    def meet(self, local: LocalExecutor, drive: Callable[[Executor], Result]) -> Result:
        """Let rank 0 drive what all ranks do together; every rank returns what it returns.

        Args:
            local: Does this rank's share.
            drive: Done on rank 0, with an executor over all ranks.
        """
        if not (dist.is_available() and dist.is_initialized() and self._trainer.world_size > 1):
            with self._term.handled():
                result = drive(local)
            self._term.end_if_received()
            return result
        heartbeat, group = self._meet()
        executor = RankExecutor(local, group, lambda: heartbeat.reason)
        self._term.listen()
        heartbeat.start()
        try:
            with self._term.handled(lambda: heartbeat.announce(f"rank {self._trainer.global_rank} received SIGTERM")):
                if not self._trainer.is_global_zero:
                    result = executor.serve()
                else:
                    try:
                        result = drive(executor)
                    except BaseException as error:
                        self._tell(executor, heartbeat, error)
                        raise
                    executor.dismiss(result)
        except BaseException as error:
            heartbeat.announce(f"rank {self._trainer.global_rank}: {type(error).__name__}: {error}")
            self._term.end_if_received(error)
            raise
        dist.barrier(group)  # everyone is through its last collective before the beats end
        heartbeat.stop()
        self._term.stop_listening()
        self._term.end_if_received()  # it came during the last unit, after which nothing asked for it
        return result

    def _tell(self, executor: RankExecutor, heartbeat: Heartbeat, error: BaseException) -> None:
        """End the service of the peers: in step when the failure is ours alone, else through the heartbeat."""
        out_of_step = isinstance(error, KeyboardInterrupt) or (isinstance(error, PeerFailed) and not error.in_step)
        if out_of_step or heartbeat.reason:
            heartbeat.announce(str(error) or type(error).__name__)
        else:
            executor.fail(f"rank 0: {type(error).__name__}: {error}")

    def _drive(
        self,
        work: Callable[[Round], str],
        info: RoundInfo,
        student: StudentPart,
        executor: Executor,
        name: str | None,
    ) -> str:
        with RoundBar(self._trainer, info, seeding=work is run_seeding, name=name) as bar:
            parts = self.parts(student, executor)
            watch = RoundWatch(self.stop_reason, bar.report)
            if name is not None:
                watch = replace(watch, go_on="the same command goes on")
            try:
                child = work(Round(parts, info, watch))
            except RoundInterrupted as error:
                executor.enter("train")
                self.end_if_told(error)
                raise
            if name is None:
                self.push()
                self.report(bar, child)
            return child

    def push(self) -> None:
        """Bring what a round published to where other machines read it, before they are told of it; on rank 0."""
        data = self._data()
        if isinstance(data, PushesRoot):
            data.push()

    def end_if_told(self, error: RoundInterrupted) -> None:
        """End the process where SIGTERM is why a round was interrupted.

        Args:
            error: Says how far it came.
        """
        if self._term.received:
            print(error)
        self._term.end_if_received(error)

    def report(self, bar: RoundBar, child: str) -> None:
        """Print and log what a round came to; on rank 0.

        Args:
            bar: Of the round.
            child: The revision that it published.
        """
        bar.finish(self.opened_store(), child, self._settings.budget.budget_teacher_calls)

    def parts(self, student: StudentPart, executor: Executor) -> RoundParts:
        """Say who takes part in a round, on the rank that has the ledger.

        Args:
            student: Draws.
            executor: Carries requests.
        """
        settings = self._settings
        return RoundParts(
            store=self.opened_store(),
            executor=executor,
            student=student,
            teachers=settings.teachers,
            judge=settings.judge,
            writer=settings.writer,
            policy=settings.policy,
            budget=settings.budget,
            image_size_px=self._image_size_px(),
            rewards=settings.rewards,
            judge_health=settings.judge_health,
            tie_margin=settings.tie_margin,
            teacher_prices_usd=told_prices_usd(settings.teachers),
            buckets=self._buckets(),
            embedder=self._embedder,
        )

    def _image_size_px(self) -> int:
        size = self._plan.image_size_px or size_px_of(self._module)
        if not isinstance(size, int):
            raise RunError(
                f"The size of the images to ask for is unknown: {type(self._module).__name__} has no `image_size_px`. "
                "Allowed is a size of either. Write `image_size_px: 512`, say, in EvolutionCallback."
            )
        return size

    def _buckets(self) -> tuple[BucketSize, ...]:
        data = self._data()
        return data.buckets if isinstance(data, HasBuckets) else ()

    def _data(self) -> object:
        datamodule = self._trainer.datamodule  # type: ignore[attr-defined]
        return getattr(datamodule, self._plan.data) if self._plan.data else datamodule  # the user named this attribute

    def tenants(self, student: StudentPart) -> Tenants:
        """Say who works in which phase.

        Args:
            student: Draws.
        """
        settings = self._settings
        parts = (settings.teachers, settings.judge, settings.writer, settings.rewards, self._embedder)
        tenants = tenants_of(student, *parts)
        return tenants if settings.pairs is None else {**settings.pairs.tenants(), "render": tenants["render"]}

    def over_cluster(self, executor: Executor, local: LocalExecutor) -> Executor:
        """Return an executor that notes what it asks, and asks the cluster, where there is one, for parts placed there.

        Args:
            executor: Carries all other requests.
            local: Knows the place of each part.
        """
        cluster = self._plan.cluster
        own = executor if cluster is None else cluster.over(executor, local.place_of)
        return MeteredExecutor(own, local.place_of, self._meter, () if cluster is None else cluster.placed)

    def opened_store(self) -> DatasetStore:
        """Return the dataset, which this process alone writes from now on; rank 0 alone asks."""
        from evolvedirector.store.dataset import DatasetStore

        if self._store is None:
            self._store = DatasetStore(self._root)
        return self._store

    def stop_reason(self) -> str | None:
        """Say why to stop: a signal, or a rank that is gone; None while there is no reason."""
        return self._term.stop_reason or (self._heartbeat.reason if self._heartbeat is not None else None)

    def _meet(self) -> tuple[Heartbeat, dist.ProcessGroup]:
        """Make the group and the heartbeat at the first round; both last as long as the driver."""
        if self._group is None or self._heartbeat is None:
            self._group = dist.new_group(backend="gloo", timeout=GROUP_TIMEOUT)
            place: list[Any] = [None]
            if dist.get_rank() == 0:
                with socket.socket() as probe:
                    probe.bind(("", 0))
                    environment = self._trainer.strategy.cluster_environment  # type: ignore[attr-defined]
                    place = [(environment.main_address if environment else "localhost", probe.getsockname()[1])]
            dist.broadcast_object_list(place, src=0, group=self._group)
            host, port = place[0]
            if dist.get_rank() == 0:
                self._heartbeat = Heartbeat(host, port, 0, dist.get_world_size(), self._term.arrived)
                dist.barrier(self._group)
            else:
                dist.barrier(self._group)  # rank 0 listens now
                self._heartbeat = Heartbeat(host, port, dist.get_rank(), dist.get_world_size(), self._term.arrived)
        return self._heartbeat, self._group
