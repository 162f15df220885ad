"""Stages of a pair builder on a real cluster of this machine: the same pairs, made in other processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.errors import UserError
from evolvedirector.execution.executor import Cluster, Executor
from evolvedirector.execution.queue_cluster import QueueCluster, QueuePlacement
from evolvedirector.execution.ray_cluster import RayCluster
from evolvedirector.execution.ray_placement import RayPlacement
from evolvedirector.pairs import DrawnDraft, MatchedPixels, RawPatches
from evolvedirector.pairs.pair_book import PairBook
from evolvedirector.store import DatasetStore
from tests.pairs.pair_toys import WORLD, builder, built, samples_of

PLACES = {"pairs.builder.draft": RayPlacement(replicas=2, cpus=0.25), "pairs.builder.refine": RayPlacement(cpus=0.25)}


def test_a_place_of_no_stage_is_refused() -> None:
    cluster = RayCluster({"pairs.builder.paint": RayPlacement()})
    with pytest.raises(UserError, match=r"place for 'pairs.builder.paint', which is no stage.*pairs.builder.draft"):
        builder(cluster=cluster)


def test_a_queue_folder_says_that_no_stage_works_through_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'pairs.builder.draft'.*judge, writer, teachers.NAME and rewards.NAME"):
        QueueCluster(str(tmp_path), {"pairs.builder.draft": QueuePlacement()})


class NotedCluster:
    """Has a place for no stage, and notes what it is asked."""

    placed = frozenset[str]()

    def __init__(self, is_there: bool = True) -> None:
        self._is_there = is_there
        self.asked: list[str] = []

    def verify(self) -> None:
        self.asked.append("verify")
        if not self._is_there:
            raise UserError("No cluster answers.")

    def over(self, inner: Executor, place_of: Any) -> Executor:
        self.asked.append("over")
        return inner

    def close(self) -> None:
        self.asked.append("close")


def test_a_cluster_is_let_go_of_however_a_build_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away, busy = NotedCluster(is_there=False), NotedCluster()
    with pytest.raises(UserError, match="No cluster answers"):
        built(tmp_path / "away", cluster=away)
    with DatasetStore(tmp_path / "busy", create=True) as store, PairBook.for_writing(store.root):
        monkeypatch.setattr(PairBook, "for_writing", _taken)
        with pytest.raises(UserError, match="by another"):
            builder(cluster=busy).build(store)
    assert away.asked == ["verify", "close"] and busy.asked == ["verify", "over", "close"]


def _taken(root: Path) -> PairBook:
    raise UserError(f"'{root}' is held by another.")


class NotedDraft(DrawnDraft):
    """Notes in a folder which process drew; ends it at the n-th picture, once."""

    def __init__(self, folder: Path, dies_at: int = 0) -> None:
        super().__init__(WORLD)
        self._folder, self._dies_at, self._drawn = folder, dies_at, 0

    def draw(self, requests: Any) -> Iterator[Any]:
        for reply in super().draw(requests):
            with open(self._folder / str(os.getpid()), "a") as file:
                print(reply.request_id, file=file)
            self._drawn += 1
            if self._drawn == self._dies_at and not (self._folder / "died").exists():
                (self._folder / "died").touch()
                os._exit(1)
            yield reply


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    variables = dict(os.environ)
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()
    os.environ.clear()
    os.environ.update(variables)


def told(root: Path) -> Any:
    with PairBook.for_reading(root) as book:
        return samples_of(root), book.counts()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*litmodels.*")
@pytest.mark.parametrize("dies_at", [0, 2])
def test_stages_on_a_cluster_make_the_pairs_that_are_made_here(ray: Any, tmp_path: Path, dies_at: int) -> None:
    (tmp_path / "notes").mkdir()
    here = built(tmp_path / "here", most_subjects=3)
    stages = {"draft": NotedDraft(tmp_path / "notes", dies_at), "refine": MatchedPixels(RawPatches(8))}
    cluster: Cluster = RayCluster(PLACES, address=None, start_timeout_s=60)
    there = built(tmp_path / "there", most_subjects=3, stages=stages, cluster=cluster)
    assert there.kept == here.kept and sum(here.kept.values()) > 0
    assert told(tmp_path / "there") == told(tmp_path / "here")
    drawn = {path.name: path.read_text().split() for path in (tmp_path / "notes").iterdir() if path.name != "died"}
    assert str(os.getpid()) not in drawn and len(drawn) >= (2 if dies_at else 1)
    every = sorted(key for keys in drawn.values() for key in keys)
    lost = len(every) - len(set(every))
    assert lost <= (8 if dies_at else 0), "a lost replica costs what it had open"
    with DatasetStore(tmp_path / "there") as one, DatasetStore(tmp_path / "here") as other:
        assert one.current() == other.current()
