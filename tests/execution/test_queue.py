"""A queue folder: what crosses it, who takes what, losses, errors, and a whole run through worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from evolvedirector.commands.work import main as work
from evolvedirector.commands.work import parts_of
from evolvedirector.errors import RunError, UserError
from evolvedirector.execution import queue_folder
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.execution.queue_cluster import QueueCluster, QueuePlacement
from evolvedirector.execution.queue_folder import Watch, batch_file, read_batch_file, read_whole, write_beat
from evolvedirector.execution.queue_records import from_json, to_json
from evolvedirector.execution.queue_worker import QueueWorker
from evolvedirector.records import (
    FileRef,
    ImageAndPrompt,
    ImageReply,
    ImageRequest,
    Look,
    OrderedPair,
    Score,
    WriteReply,
    WriteRequest,
)
from evolvedirector.store import DatasetStore
from evolvedirector.worlds.shapes import MiniatureJudge
from tests.callbacks.test_evolution_resume import Run
from tests.execution.queue_parts import NotingJudge, PaidJudge
from tests.execution.ray_parts import asked_in
from tests.toys import ToyJudge, ToyTeacher, flat_png

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")
ROOT = Path(__file__).parents[2]
ITEMS = [ImageAndPrompt(f"i{number}", flat_png(number), f"tone {number}") for number in range(10)]
MASK = FileRef.of(b"\x89mask", "image/png", 8, 8)


@pytest.mark.parametrize(
    "record",
    [
        ImageRequest("r", "tone 1 \ud800", 3, 8, 8, 1, {"mask": MASK}),
        ImageReply("r", "image", b"\x00\xff", cost_usd=0.04, files={"mask": MASK}, closed=True),
        ImageReply("r", "refusal", reason="no"),
        WriteRequest("w", "mutation", None, "count", 3, 1, ("short",), ("a", "b"), ("c",)),
        WriteReply("w", ("a", "b"), ("count", "")),
        OrderedPair("p", b"1", b"2", "tone 2"),
        ImageAndPrompt("i", b"1", "tone 2", {"reference": MASK}),
        Look("i", 0.5, 0.9, "why", "choice", False, True),
        Score("i", 1e-300),
    ],
)
def test_what_crosses_comes_out_as_it_went_in(record: Any) -> None:
    told = from_json(to_json([record]))
    assert told == (record,)
    assert [file.content for file in getattr(told[0], "files", {}).values()] == [
        file.content for file in getattr(record, "files", {}).values()
    ]


def test_an_unscored_image_stays_unscored() -> None:
    (told,) = from_json(to_json([Score("i", float("nan"), "blank")]))
    assert told.value != told.value and told.reason == "blank"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xff", b"{", b'{"record": "Popen", "fields": {"args": ["true"]}}',
        b'{"record": "Look", "fields": {"item_id": "i"}}', b'{"bytes": "?"}', b'{"other": 1}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_file_of_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(RunError, match="no batch of this version"):
        from_json(content)


def test_what_is_no_record_does_not_cross() -> None:
    with pytest.raises(TypeError, match="Path cannot cross"):
        to_json({"where": Path()})


def test_names_of_batches() -> None:
    assert read_batch_file(batch_file("teachers.flux-2", "0a1b2c3d", 12)) == (
        "teachers.flux-2",
        "0a1b2c3d",
        "0a1b2c3d-12",
    )
    for name in ("judge.json", "../judge.0a1b2c3d-1.json", "judge.0a1b2c3d-1.json.tmp", ".judge.0a1b2c3d-1.json"):
        assert read_batch_file(name) is None or not name.startswith("..")


def test_a_beat_is_measured_by_ones_own_clock() -> None:
    now = [0.0]
    watch = Watch(lambda: now[0])
    assert watch.silent_s("one", 1) == 0 and watch.silent_s("two", 1, at_first=99.0) == 99
    now[0] = 5.0
    assert watch.silent_s("one", 1) == 5 and watch.silent_s("two", 1, at_first=99.0) == 99
    assert watch.silent_s("one", 2) == 0 and watch.silent_s("two", 2, at_first=99.0) == 0
    now[0] = 7.0
    assert watch.silent_s("two", 2, at_first=99.0) == 2


def test_links_and_giants_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link.json").symlink_to(tmp_path / "secret")
    assert read_whole(tmp_path / "missing.json") is None
    with pytest.raises(RunError, match=r"link\.json.*cannot be read"):
        read_whole(tmp_path / "link.json")
    monkeypatch.setattr(queue_folder, "MAX_FILE_BYTES", 5)
    with pytest.raises(RunError, match="has 6 bytes"):
        read_whole(tmp_path / "secret")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats of a tenth of a second."""
    for module in ("queue_cluster", "queue_folder", "queue_pool", "queue_worker"):
        monkeypatch.setattr(f"evolvedirector.execution.{module}.BEAT_S", 0.1)


@contextmanager
def worker(folder: Path, **parts: Any) -> Iterator[QueueWorker]:
    made, ending = QueueWorker(folder, parts, poll_s=0.02), threading.Event()
    thread = threading.Thread(target=made.serve, args=(ending.is_set,))
    thread.start()
    try:
        yield made
    finally:
        ending.set()
        thread.join()


def over(folder: Path, part: Any, **settings: Any) -> tuple[Any, QueueCluster]:
    placement = QueuePlacement(batch_size=2, open_batches=settings.pop("open_batches", 3))
    cluster = QueueCluster(str(folder), {"judge": placement}, **{"poll_s": 0.02, "lost_after_s": 10.0, **settings})
    local = LocalExecutor({"judge": {"judge": part}, "write": {"writer": MiniatureJudge()}}, unit=4)
    return cluster.over(local, local.place_of), cluster


def test_workers_share_the_batches(quick: None, tmp_path: Path) -> None:
    queue = tmp_path / "queue"
    executor, cluster = over(queue, part := NotingJudge(str(tmp_path)))
    with worker(queue, judge=NotingJudge(str(tmp_path))) as one, worker(queue, judge=NotingJudge(str(tmp_path))) as two:
        assert executor.unit_of(part) == 6
        told = {reply.item_id: reply for reply in executor.ask(part, "check", ITEMS)}
        again = {reply.item_id for reply in executor.ask(part, "check", ITEMS)}
        assert one.batches + two.batches == 10 and min(one.batches, two.batches) > 0
    cluster.close()
    assert told == {item.item_id: Look(item.item_id, 1.0, reason=item.prompt) for item in ITEMS}
    assert again == told.keys()
    left = [path for path in queue.rglob("*") if path.is_file()]
    assert left == [], "nothing is left behind"


def test_what_is_not_waited_for_is_not_begun(quick: None, tmp_path: Path) -> None:
    queue = tmp_path / "queue"
    executor, cluster = over(queue, part := NotingJudge(str(tmp_path), seconds=0.05))
    with worker(queue, judge=NotingJudge(str(tmp_path), seconds=0.05)):
        replies = executor.ask(part, "check", ITEMS)
        next(replies)
        assert len(list((queue / "open").iterdir())) + len(list((queue / "taken").glob("*/*"))) <= 3
        replies.close()
        time.sleep(0.3)
    cluster.close()
    assert len(asked_in(tmp_path)) <= 4


def test_a_refusal_comes_after_what_was_finished(quick: None, tmp_path: Path) -> None:
    queue = tmp_path / "queue"
    executor, cluster = over(queue, part := NotingJudge(str(tmp_path)), open_batches=1)
    told = []
    with worker(queue, judge=NotingJudge(str(tmp_path), refuses_at="i3")):
        with pytest.raises(UserError, match="i3 cannot be asked"):
            told.extend(reply.item_id for reply in executor.ask(part, "check", ITEMS))
        assert {reply.item_id for reply in executor.ask(part, "check", ITEMS[:2])} == {"i0", "i1"}, "it works on"
    cluster.close()
    assert told == [] or told == ["i0", "i1", "i2"]


class RaisingJudge(NotingJudge):
    """Raises something at an item, once."""

    def __init__(self, folder: Path, error: BaseException) -> None:
        super().__init__(str(folder))
        self.errors = [error]

    def check(self, items: Any) -> Iterator[Look]:
        for look in super().check(items):
            if look.item_id == "i5" and self.errors:
                raise self.errors.pop()
            yield look


def told_in_time(executor: Any, part: Any) -> list[Any]:
    """Ask in a thread of its own, so that a wait without end fails; an error comes back as the last reply."""
    told: list[Any] = []

    def ask() -> None:
        try:
            told.extend(executor.ask(part, "check", ITEMS))
        except Exception as error:
            told.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(10)
    assert not asking.is_alive(), "the run waits for replies that nobody will give"
    return told


def test_a_file_that_a_part_misses_is_told(quick: None, tmp_path: Path) -> None:
    executor, cluster = over(tmp_path / "queue", part := NotingJudge(str(tmp_path)))
    with worker(tmp_path / "queue", judge=RaisingJudge(tmp_path, FileNotFoundError("no judge.safetensors"))):
        told = told_in_time(executor, part)
    cluster.close()
    assert "no judge.safetensors" in str(told[-1]) and isinstance(told[-1], RunError)


def test_what_a_worker_leaves_as_it_is_ended_at_once_is_laid_again(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    executor, cluster = over(tmp_path / "queue", part := NotingJudge(str(tmp_path)))
    with (  # a second signal raises SystemExit wherever the worker is
        worker(tmp_path / "queue", judge=RaisingJudge(tmp_path, SystemExit(143))),
        worker(tmp_path / "queue", judge=RaisingJudge(tmp_path, SystemExit(143))),
        worker(tmp_path / "queue", judge=NotingJudge(str(tmp_path))),
    ):
        told = told_in_time(executor, part)
    cluster.close()
    assert {look.item_id for look in told} == {item.item_id for item in ITEMS}


def test_what_a_worker_cannot_write_is_laid_again(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, writes = [True], queue_folder.write_whole

    def write(path: Path, content: bytes) -> None:
        if path.name == "end.json" and full:
            full.clear()
            raise OSError(122, "Disk quota exceeded")
        writes(path, content)

    monkeypatch.setattr("evolvedirector.execution.queue_worker.write_whole", write)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    executor, cluster = over(tmp_path / "queue", part := NotingJudge(str(tmp_path)), lost_after_s=0.5)
    with (
        worker(tmp_path / "queue", judge=NotingJudge(str(tmp_path))),
        worker(tmp_path / "queue", judge=NotingJudge(str(tmp_path))),
    ):
        told = told_in_time(executor, part)
    cluster.close()
    assert not full and {look.item_id for look in told} == {item.item_id for item in ITEMS}


def test_a_batch_that_was_taken_though_the_disk_said_no_is_served(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def renamed_twice(path: Path, to: Path) -> Path:
        """Answer as NFS does where the answer to the first request was lost and the second found nothing to rename."""
        rename(path, to)
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "rename", renamed_twice)
    executor, cluster = over(tmp_path / "queue", part := NotingJudge(str(tmp_path)))
    with worker(tmp_path / "queue", judge=NotingJudge(str(tmp_path))):
        told = told_in_time(executor, part)
    cluster.close()
    assert len(told) == len(ITEMS)


def test_a_machine_of_many_workers_is_lost_once(quick: None, tmp_path: Path) -> None:
    queue = tmp_path / "queue"
    executor, cluster = over(queue, part := NotingJudge(str(tmp_path)), lost_after_s=0.5)
    executor.unit_of(part)
    told: list[Any] = []
    asking = threading.Thread(target=lambda: told.extend(told_in_time(executor, part)))
    asking.start()
    for number in range(3):  # each takes a batch; then their machine is gone
        while not (lying := sorted((queue / "open").glob("judge.*"))):
            time.sleep(0.01)
        (queue / "taken" / f"gone-{number}").mkdir()
        lying[0].rename(queue / "taken" / f"gone-{number}" / lying[0].name)
    time.sleep(0.8)
    with worker(queue, judge=NotingJudge(str(tmp_path))):
        asking.join()
    cluster.close()
    assert {look.item_id for look in told} == {item.item_id for item in ITEMS}


def test_another_judge_than_the_runs_is_refused(quick: None, tmp_path: Path) -> None:
    queue = tmp_path / "queue"
    executor, cluster = over(queue, part := NotingJudge(str(tmp_path)))
    with worker(queue, judge=MiniatureJudge()), pytest.raises(RunError, match="but the run's is 'noting judge'"):
        list(executor.ask(part, "check", ITEMS))
    cluster.close()


def test_nobody_works_for_a_run_that_is_dead(quick: None, tmp_path: Path) -> None:
    queue = tmp_path / "queue"
    executor, cluster = over(queue, part := NotingJudge(str(tmp_path)))
    executor.unit_of(part)
    cluster.close()
    write_beat(queue / "driver.json", {"session": "0a1b2c3d"}, 7)  # a killed run: its beat stands still
    (queue / "open").mkdir(exist_ok=True)
    said = {"method": "check", "fingerprint": "noting judge", "requests": ITEMS[:1]}
    (queue / "open" / batch_file("judge", "0a1b2c3d", 1)).write_bytes(to_json(said))
    with worker(queue, judge=NotingJudge(str(tmp_path))) as idle:
        time.sleep(0.3)
    assert idle.batches == 0 and asked_in(tmp_path) == []
    executor, cluster = over(queue, part)
    executor.unit_of(part)
    assert list((queue / "open").iterdir()) == [], "the next run clears what that one has left"
    cluster.close()


def test_two_runs_do_not_share_a_folder(quick: None, tmp_path: Path) -> None:
    executor, cluster = over(tmp_path / "queue", part := NotingJudge(str(tmp_path)))
    executor.unit_of(part)
    other, _ = over(tmp_path / "queue", part)
    with pytest.raises(UserError, match="Another run lays its batches into"):
        other.unit_of(part)
    cluster.close()


def test_no_worker_is_one_sentence(quick: None, tmp_path: Path) -> None:
    executor, cluster = over(tmp_path / "queue", part := NotingJudge(str(tmp_path)), start_timeout_s=0.3)
    with pytest.raises(RunError, match=r"No worker has served judge.*evolvedirector work"):
        list(executor.ask(part, "check", ITEMS))
    cluster.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: QueueCluster("q", {}), "placements is empty"),
        (lambda: QueueCluster("q", {"student": QueuePlacement()}), "placements names 'student'"),
        (lambda: QueueCluster("q", {"embedder": QueuePlacement()}), "placements names 'embedder'"),
        (lambda: QueueCluster("q", {"teachers.sd 3.5": QueuePlacement()}), "names 'teachers.sd 3.5', which"),
        (lambda: QueueCluster("q", {"teachers.org/sd3": QueuePlacement()}), "names 'teachers.org/sd3', which"),
        (lambda: QueueCluster("q", {"judge": QueuePlacement()}, lost_after_s=1), "lost_after_s is 1"),
        (lambda: QueuePlacement(batch_size=0), "batch_size of a placement is 0"),
        (lambda: QueueCluster("q", {"judge": {"batch": 2}}), "no setting 'batch'"),
        (lambda: QueueCluster(f"{__file__}/queue", {"judge": {}}).verify(), "cannot be written"),
    ],
)
def test_bad_settings_are_one_sentence(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


def config(folder: Path, own_judge: dict[str, Any] | None = None, **placements: Any) -> Path:
    init_args = {
        "judge": own_judge or {"class_path": "evolvedirector.worlds.shapes.MiniatureJudge"},
        "teachers": {"exact": {"class_path": "evolvedirector.worlds.shapes.MiniatureTeacher"}},
        "cluster": {
            "class_path": "evolvedirector.execution.queue_cluster.QueueCluster",
            "init_args": {"folder": "queue", "placements": placements},
        },
    }
    callbacks = [{"class_path": "evolvedirector.callbacks.EvolutionCallback", "init_args": init_args}]
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    return path


def test_a_worker_builds_what_the_config_places(tmp_path: Path) -> None:
    path = config(tmp_path, **{"teachers.exact": {"batch_size": 2}})
    assert list(parts_of(path, None)) == ["teachers.exact"]
    path = config(tmp_path, **{"teachers.exact": {}, "judge": {}})
    assert list(parts_of(path, None)) == ["judge", "teachers.exact"] and list(parts_of(path, ["judge"])) == ["judge"]


@pytest.mark.parametrize(
    ("placements", "wanted", "said"),
    [
        ({}, None, "places nothing in a queue"),
        ({"judge": {}}, ["writer"], "--serve names 'writer'.*Allowed: judge"),
        ({"writer": {}}, None, "has no writer with a class_path"),
    ],
)
def test_bad_configs_are_one_sentence(tmp_path: Path, placements: Any, wanted: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parts_of(config(tmp_path, **placements), wanted)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("cluster", "QueueCluster", "places nothing in a queue"), ("teachers", ["exact"], "has no teachers.exact")],
)
def test_parts_of_another_form_are_one_sentence(tmp_path: Path, name: str, value: Any, said: str) -> None:
    path = config(tmp_path, **{"teachers.exact": {}})
    content = yaml.safe_load(path.read_text())
    content["trainer"]["callbacks"][0]["init_args"][name] = value
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=said):
        parts_of(path, None)


def test_a_folder_without_a_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no -c is given.*Put the queue into the run folder"):
        work([str(tmp_path / "queue")])
    (tmp_path / "other.yaml").write_text("trainer: {callbacks: [{class_path: lightning.Nothing}]}")
    with pytest.raises(UserError, match="has no EvolutionCallback"):
        work([str(tmp_path / "queue"), "-c", str(tmp_path / "other.yaml")])


@contextmanager
def processes(folder: Path, number: int, **judge: Any) -> Iterator[list[subprocess.Popen[str]]]:
    """Run workers as a user does."""
    name = judge.pop("name", "NotingJudge")
    part = {"class_path": f"tests.execution.queue_parts.{name}", "init_args": {"folder": str(folder), **judge}}
    config(folder, part, judge={"batch_size": 2})
    command = [sys.executable, "-m", "evolvedirector", "work", str(folder / "queue")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(number)
    ]
    try:
        for process in started:
            assert process.stdout is not None and "serves judge from" in process.stdout.readline()
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_a_killed_worker_costs_what_it_had_taken_alone(tmp_path: Path) -> None:
    executor, cluster = over(tmp_path / "queue", part := NotingJudge(str(tmp_path)), lost_after_s=4)
    with processes(tmp_path, 2, dies_at="i5") as started:
        told = {reply.item_id for reply in executor.ask(part, "check", ITEMS)}
        assert told == {item.item_id for item in ITEMS}
        assert len(asked_in(tmp_path)) <= len(ITEMS) + 2, "no more than its batch is asked again"
        ended = [process for process in started if process.poll() is not None]
        assert len(ended) == 1
        (other,) = set(started) - set(ended)
        other.send_signal(signal.SIGTERM)
        said, _ = other.communicate(timeout=30)
        assert other.returncode == 0 and "ends after" in said
    cluster.close()


@pytest.mark.slow
def test_what_a_killed_worker_may_have_paid_for_is_not_sent_again(tmp_path: Path) -> None:
    executor, cluster = over(tmp_path / "queue", part := PaidJudge(str(tmp_path)), lost_after_s=4)
    with processes(tmp_path, 2, name="PaidJudge", dies_at="i5"):
        told = [reply.item_id for reply in executor.ask(part, "check", ITEMS)]
    cluster.close()
    asked = asked_in(tmp_path)
    assert len(asked) == len(set(asked)), "each was sent once"
    assert {item.item_id for item in ITEMS} - set(told) == {"i5"}


@pytest.mark.slow
def test_a_part_that_ends_every_worker_ends_the_round(tmp_path: Path) -> None:
    executor, cluster = over(tmp_path / "queue", part := NotingJudge(str(tmp_path)), lost_after_s=4, open_batches=5)
    with (
        processes(tmp_path, 3, dies_at="i0", always=True),
        pytest.raises(RunError, match="3 batches of judge were lost"),
    ):
        list(executor.ask(part, "check", ITEMS[:2]))
    cluster.close()


def run(folder: Path, cluster: QueueCluster | None = None) -> Run:
    made = Run(folder)
    made.evolution.__init__(  # type: ignore[misc]
        made.evolution.teachers, made.judge, made.evolution.writer, made.evolution.policy, made.evolution.budget,
        cluster=cluster,
    )  # fmt: skip
    return made


@pytest.mark.slow
def test_a_run_through_a_queue_is_the_same_run(quick: None, tmp_path: Path) -> None:
    here = run(tmp_path / "here").fit()
    cluster = QueueCluster(
        str(tmp_path / "queue"), {"judge": QueuePlacement(), "teachers.toy": QueuePlacement(batch_size=2)}, poll_s=0.02
    )
    judge, teacher = ToyJudge(), ToyTeacher()
    with worker(tmp_path / "queue", judge=judge), worker(tmp_path / "queue", **{"teachers.toy": teacher}):
        there = run(tmp_path / "there", cluster).fit()
    assert judge.asked and teacher.asked and not there.judge.asked and not there.teacher.asked
    with DatasetStore(here.root) as one, DatasetStore(there.root) as other:
        assert one.current() == other.current() and one.ledger.spend() == other.ledger.spend()
    assert not (tmp_path / "queue" / "driver.json").exists()
