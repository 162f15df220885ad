"""Parts on a real cluster of this machine: answers, losses, errors, back-pressure, and a whole run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.errors import RunError, UserError
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.execution.ray_cluster import RayCluster
from evolvedirector.execution.ray_placement import RayPlacement
from evolvedirector.store import DatasetStore
from tests.callbacks.test_evolution_resume import Run
from tests.execution.ray_parts import Asked, Noting, Paid, Unloadable, asked_in
from tests.execution.ray_run import BUDGET, served

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")]
ROOT = Path(__file__).parents[2]
REQUESTS = [Asked(f"r{number}") for number in range(12)]


def test_an_address_where_nothing_answers() -> None:
    with pytest.raises(UserError, match=r"No Ray cluster answers at '127\.0\.0\.1:1'.*ray start --head"):
        RayCluster({"judge": RayPlacement()}, address="127.0.0.1:1").verify()


def test_a_run_whose_judge_and_teacher_work_on_a_cluster_is_the_same_run(ray: Any, tmp_path: Path) -> None:
    here = run(tmp_path / "here").fit()
    placements = {"judge": RayPlacement(replicas=2, cpus=0.25), "teachers.toy": RayPlacement(cpus=0.25)}
    there = run(tmp_path / "there", RayCluster(placements, address=None, start_timeout_s=60)).fit()
    assert here.judge.asked and here.teacher.asked
    assert not there.judge.asked and not there.teacher.asked, "the replicas were asked"
    assert there.evolution.plan_summary()["on the cluster"] == "judge, teachers.toy"
    with DatasetStore(here.root) as one, DatasetStore(there.root) as other:
        assert one.current() == other.current() and one.ledger.spend() == other.ledger.spend()


def test_a_round_in_the_background_asks_the_cluster_from_its_own_thread(ray: Any, tmp_path: Path) -> None:
    here = run(tmp_path / "here", mode="background").fit()
    placements = {"judge": RayPlacement(cpus=0.25), "teachers.toy": RayPlacement(cpus=0.25)}
    cluster = RayCluster(placements, address=None, start_timeout_s=60)
    there = run(tmp_path / "there", cluster, mode="background").fit()
    assert there.student.seen == here.student.seen
    assert here.judge.asked and not there.judge.asked and not there.teacher.asked
    with DatasetStore(here.root) as one, DatasetStore(there.root) as other:
        assert one.current() == other.current() and one.ledger.spend() == other.ledger.spend()


def test_a_place_of_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"a place for 'teachers.toi', which takes no part.*Did you mean 'teachers.toy'"
    ):
        run(tmp_path, RayCluster({"teachers.toi": RayPlacement()}))


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


def run(folder: Path, cluster: RayCluster | None = None, mode: Any = "between_epochs") -> Run:
    made = Run(folder)
    made.evolution.__init__(  # type: ignore[misc]
        made.evolution.teachers, made.judge, made.evolution.writer, made.evolution.policy, made.evolution.budget,
        cluster=cluster, mode=mode,
    )  # fmt: skip
    return made


def over(part: Noting, **placement: Any) -> tuple[Any, RayCluster]:
    cluster = RayCluster({"judge": RayPlacement(cpus=0.5, **placement)}, address=None, start_timeout_s=60)
    local = LocalExecutor({"judge": {"judge": part}, "write": {"writer": Noting(part.folder)}}, unit=4)
    return cluster.over(local, local.place_of), cluster


def test_replicas_share_the_work_and_keep_what_they_loaded(ray: Any, tmp_path: Path) -> None:
    part = Noting(tmp_path)
    list(part.answer(REQUESTS[:1]))  # it has loaded its model here: that stays here
    (tmp_path / f"{os.getpid()}.asked").unlink()
    executor, cluster = over(part, replicas=2, batch_size=2)
    try:
        assert executor.unit_of(part) == 8
        told = [*executor.ask(part, "answer", REQUESTS), *executor.ask(part, "answer", REQUESTS)]
        assert sorted(reply.request_id for reply in told) == sorted(2 * [r.request_id for r in REQUESTS])
        processes = {reply.process for reply in told}
        assert len(processes) == 2 and os.getpid() not in processes
    finally:
        cluster.close()


def test_what_is_not_placed_works_here(ray: Any, tmp_path: Path) -> None:
    part = Noting(tmp_path)
    executor, cluster = over(part)
    writer = Noting(tmp_path)
    local = LocalExecutor({"judge": {"judge": part}, "write": {"writer": writer}}, unit=4)
    executor = cluster.over(local, local.place_of)
    assert executor.unit_of(writer) == 4
    assert {reply.process for reply in executor.ask(writer, "answer", REQUESTS)} == {os.getpid()}
    cluster.close()


def test_a_lost_replica_costs_its_open_requests_alone(ray: Any, tmp_path: Path) -> None:
    executor, cluster = over(part := Noting(tmp_path, dies_at="r5"), batch_size=2, max_in_flight=2)
    told = {reply.request_id for reply in executor.ask(part, "answer", REQUESTS)}
    cluster.close()
    assert told == {request.request_id for request in REQUESTS}
    assert len(asked_in(tmp_path)) <= len(REQUESTS) + 4, "no more than its two batches are asked again"


def test_what_a_lost_replica_may_have_paid_for_is_not_sent_again(ray: Any, tmp_path: Path) -> None:
    executor, cluster = over(part := Paid(tmp_path, dies_at="r5"), batch_size=2, max_in_flight=2)
    told = [reply.request_id for reply in executor.ask(part, "answer", REQUESTS)]
    cluster.close()
    asked = asked_in(tmp_path)
    assert len(asked) == len(set(asked)), "each was sent once"
    lost = {request.request_id for request in REQUESTS} - set(told)
    assert "r5" in lost and len(lost) <= 4 and len(told) == len(REQUESTS) - len(lost)


def test_a_part_that_ends_every_replica_ends_the_round(ray: Any, tmp_path: Path) -> None:
    executor, cluster = over(part := Noting(tmp_path, dies_at="r0", always=True), batch_size=12)
    with pytest.raises(RunError, match="3 replicas of judge were lost one after the other"):
        list(executor.ask(part, "answer", REQUESTS))
    cluster.close()


def test_a_part_that_no_replica_can_load_is_one_sentence(ray: Any, tmp_path: Path) -> None:
    executor, cluster = over(part := Unloadable(tmp_path))
    with pytest.raises(RunError, match=r"A replica of judge could not start.*No module named 'vllm'.*same packages"):
        list(executor.ask(part, "answer", REQUESTS))
    cluster.close()


def test_an_error_of_the_part_comes_after_what_was_finished(ray: Any, tmp_path: Path) -> None:
    executor, cluster = over(part := Noting(tmp_path, fails_at="r3"), batch_size=2, max_in_flight=1)
    told = []
    with pytest.raises(ValueError, match="r3 cannot be answered"):
        for reply in executor.ask(part, "answer", REQUESTS):
            told.append(reply.request_id)
    cluster.close()
    assert told == ["r0", "r1", "r2"]


def test_no_more_is_open_than_was_said(ray: Any, tmp_path: Path) -> None:
    executor, cluster = over(part := Noting(tmp_path), batch_size=2, max_in_flight=2)
    replies = executor.ask(part, "answer", REQUESTS)
    for received, _ in enumerate(replies, 1):
        assert len(asked_in(tmp_path)) <= received + 4
    replies = executor.ask(part, "answer", REQUESTS)
    next(replies)
    replies.close()  # what was not begun is never begun
    cluster.close()
    assert len(asked_in(tmp_path)) <= len(REQUESTS) + 5


def test_what_the_cluster_has_no_room_for_is_said(ray: Any, tmp_path: Path) -> None:
    cluster = RayCluster({"judge": RayPlacement(gpus=1)}, address=None, start_timeout_s=2)
    part = Noting(tmp_path)
    local = LocalExecutor({"judge": {"judge": part}})
    with pytest.raises(RunError, match=r"No replica of judge started within 2 s.*2 CPU and 0 GPU; each replica needs"):
        list(cluster.over(local, local.place_of).ask(part, "answer", REQUESTS))
    cluster.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RayCluster({}), "placements is empty"),
        (lambda: RayCluster({"student": RayPlacement()}), "placements names the student"),
        (lambda: RayPlacement(replicas=0), "replicas of a placement is 0"),
        (lambda: RayPlacement(gpus=-1), "gpus of a placement is -1"),
        (lambda: RayCluster({"judge": {"replica": 2}}), "no setting 'replica'"),
    ],
)
def test_bad_settings_are_one_sentence(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


@pytest.mark.parametrize("victim", ["driver", "raylet"])
def test_a_killed_run_goes_on_and_its_books_cover_what_was_served(tmp_path: Path, victim: str) -> None:
    command = [sys.executable, "-m", "tests.execution.ray_run", str(tmp_path)]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while served(tmp_path) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid if victim == "driver" else raylet_of(process.pid), signal.SIGKILL)
    process.wait(60)
    before = served(tmp_path)
    # losing the raylet may cost nothing: an actor that runs is spoken to directly
    assert before >= 3 and (victim == "raylet" or before < 12), "it was killed in the middle"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with DatasetStore(tmp_path / "data") as store:
        spend = store.ledger.spend()
    assert served(tmp_path) <= spend.teacher_calls <= BUDGET
    assert spend.lost_calls <= 2, "no more than was open"
    assert served(tmp_path) > before or victim == "raylet"


def raylet_of(pid: int) -> int:
    """Find the raylet that a process started."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
            if name.endswith("(raylet") and int(rest.split()[1]) == pid:
                return int(path.parent.name)
        except OSError:
            continue
    raise AssertionError(f"process {pid} has no raylet")
