"""One round on all ranks: who drives, who serves, and how it ends for everybody when it ends for one."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.utilities.exceptions import SIGTERMException

from evolvedirector.callbacks._run.drawing import chunk_of, offloader, student_draw
from evolvedirector.callbacks._run.held_out import size_px_of
from evolvedirector.callbacks._run.round_bar import RoundBar
from evolvedirector.evolution.opening import run_seeding
from evolvedirector.evolution.round import run_round
from evolvedirector.evolution.round_context import RoundContext, RoundInterrupted
from evolvedirector.execution.executor import Crew, LocalCrew
from evolvedirector.execution.heartbeat import Heartbeat
from evolvedirector.execution.ranks import PeerFailed, RankCrew
from evolvedirector.planning.spending import told_prices_usd
from evolvedirector.records import RoundInfo
from evolvedirector.records.part import close_parts
from evolvedirector.report.summary import evolution_figures

if TYPE_CHECKING:
    from evolvedirector.callbacks.evolution import EvolutionCallback
    from evolvedirector.store.dataset import DatasetStore

GROUP_TIMEOUT = timedelta(days=30)
"""No round is ended by a collective's timeout: the heartbeat tells dead from slow."""


TERM_EXIT_CODE = 128 + signal.SIGTERM
TERM_GRACE_S = 8.0
"""Time a unit of work has to end by itself after SIGTERM; schedulers often kill after 30 s."""


class RoundDriver:
    """Run rounds for an `EvolutionCallback`: rank 0 holds the ledger and drives, the others serve.

    Args:
        settings: The callback, read for teachers, judge, writer, policy, budget, seed.
        trainer: The running trainer.
        module: The student.
    """

    def __init__(self, settings: EvolutionCallback, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._settings = settings
        self._trainer = trainer
        self._module = module
        self._store: DatasetStore | None = None
        self._group: dist.ProcessGroup | None = None
        self._heartbeat: Heartbeat | None = None
        self._sigterm = False

    def run(self, info: RoundInfo) -> str:
        """Run one round on all ranks; every rank returns the sha of the published revision."""
        return self._together(run_round, info)

    def seed(self, info: RoundInfo) -> str:
        """Buy images for seed prompts on all ranks; every rank returns the revision to train on."""
        return self._together(run_seeding, info)

    def summary(self, revision_sha: str) -> dict[str, Any]:
        """Return the figures of evolution so far; empty on ranks without the ledger."""
        if not self._trainer.is_global_zero:
            return {}
        return evolution_figures(self._opened_store(), revision_sha, self._settings.budget)

    def close(self) -> None:
        """Let go of the ledger, the teachers, the writer and the judge."""
        if self._store is not None:
            self._store.close()
            self._store = None
        for teacher in self._settings.teachers.values():
            teacher.close()
        close_parts(self._settings.writer)
        self._settings.judge.close()

    def _together(self, work: Callable[[RoundContext], str], info: RoundInfo) -> str:
        local = self._local_crew()
        if not (dist.is_available() and dist.is_initialized() and self._trainer.world_size > 1):
            with self._term_handled(None):
                result = self._drive(work, info, local)
            self._end_if_told()
            return result
        heartbeat, group = self._meet()
        crew = RankCrew(local, group, lambda: heartbeat.reason)
        heartbeat.start()
        try:
            with self._term_handled(heartbeat):
                if not self._trainer.is_global_zero:
                    result = crew.serve()
                else:
                    try:
                        result = self._drive(work, info, crew)
                    except BaseException as error:
                        self._tell(crew, heartbeat, error)
                        raise
                    crew.dismiss(result)
        except BaseException as error:
            heartbeat.announce(f"rank {self._trainer.global_rank}: {type(error).__name__}: {error}")
            if self._sigterm:
                raise SIGTERMException(TERM_EXIT_CODE) from error
            raise
        dist.barrier(group)  # everyone is through its last collective before the beats end
        heartbeat.stop()
        self._end_if_told()
        return result

    def _end_if_told(self) -> None:
        """End after all when SIGTERM came during the last unit: nothing asked for it any more."""
        if self._sigterm:
            raise SIGTERMException(TERM_EXIT_CODE)

    def _tell(self, crew: RankCrew, heartbeat: Heartbeat, error: BaseException) -> None:
        """End the service of the peers: in step when the failure is ours alone, else through the heartbeat."""
        out_of_step = isinstance(error, KeyboardInterrupt) or (isinstance(error, PeerFailed) and not error.in_step)
        if out_of_step or heartbeat.reason:
            heartbeat.announce(str(error) or type(error).__name__)
        else:
            crew.fail(f"rank 0: {type(error).__name__}: {error}")

    def _drive(self, work: Callable[[RoundContext], str], info: RoundInfo, crew: Crew) -> str:
        settings = self._settings
        with RoundBar(self._trainer, info, seeding=work is run_seeding) as bar:
            context = RoundContext(
                store=self._opened_store(),
                crew=crew,
                policy=settings.policy,
                writer=settings.writer,
                budget=settings.budget,
                info=info,
                teacher_fingerprints={name: teacher.fingerprint for name, teacher in settings.teachers.items()},
                judge_fingerprint=settings.judge.fingerprint,
                image_size_px=self._image_size_px(),
                judge_health=settings.judge_health,
                tie_margin=settings.tie_margin,
                stop=self._stop_reason,
                report=bar.report,
                teacher_prices_usd=told_prices_usd(settings.teachers),
            )
            try:
                child = work(context)
            except RoundInterrupted as error:
                crew.enter("train")
                if self._sigterm:
                    print(error)
                    raise SIGTERMException(TERM_EXIT_CODE) from error
                raise
            bar.finish(context.store, child, settings.budget.budget_teacher_calls)
            return child

    def _image_size_px(self) -> int:
        size = self._settings.image_size_px or size_px_of(self._module)
        if not isinstance(size, int):
            raise RuntimeError(
                f"The size of the images to ask for is unknown: {type(self._module).__name__} has no `image_size_px`. "
                "Allowed is a size of either. Write `image_size_px: 512`, say, in EvolutionCallback."
            )
        return size

    def _local_crew(self) -> LocalCrew:
        return LocalCrew(
            student_draw(self._trainer, self._module),
            self._settings.teachers,
            self._settings.judge,
            chunk=chunk_of(self._module),
            offload=offloader(self._trainer, self._module, self._settings.offload_student),
        )

    def _opened_store(self) -> DatasetStore:
        from evolvedirector.store.dataset import DatasetStore

        if self._store is None:
            self._store = DatasetStore(Path(self._settings.root or "."))
        return self._store

    def _stop_reason(self) -> str | None:
        if self._sigterm:
            return "SIGTERM received"
        return self._heartbeat.reason if self._heartbeat is not None else None

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
                self._heartbeat = Heartbeat(host, port, 0, dist.get_world_size())
                dist.barrier(self._group)
            else:
                dist.barrier(self._group)  # rank 0 listens now
                self._heartbeat = Heartbeat(host, port, dist.get_rank(), dist.get_world_size())
        return self._heartbeat, self._group

    @contextmanager
    def _term_handled(self, heartbeat: Heartbeat | None) -> Iterator[None]:
        """Take SIGTERM as a wish to stop after this unit; Lightning's handler would hang in a broadcast."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        main_thread = threading.get_ident()
        insist = threading.Timer(TERM_GRACE_S, signal.pthread_kill, (main_thread, signal.SIGTERM))
        insist.daemon = True

        def handle(signum: int, frame: Any) -> None:
            if self._sigterm and heartbeat is None:
                raise SIGTERMException(TERM_EXIT_CODE)  # a unit that takes too long; the ledger is whole at any moment
            if heartbeat is not None:
                heartbeat.announce(f"rank {self._trainer.global_rank} received SIGTERM")
            elif not self._sigterm:
                insist.start()
            self._sigterm = True

        before = signal.signal(signal.SIGTERM, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            insist.cancel()
