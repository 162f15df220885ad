"""Rounds on two ranks: equal to one process, and over for all within 30 s when they are over for one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.evolution.embedding import EMBEDDING_ROLES
from evolvedirector.models.embedder import IMAGE_EMBEDDING
from evolvedirector.store import RevisionReader

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
TROUBLES: dict[str, dict[str, Any]] = {
    "rank 1 killed": {"slow": 0, "signal": [1, "SIGKILL"]},
    "rank 0 killed": {"slow": 1, "signal": [0, "SIGKILL"]},
    "rank 1 stopped": {"slow": 0, "signal": [1, "SIGSTOP"]},
    "rank 0 stopped": {"slow": 1, "signal": [0, "SIGSTOP"]},
    "rank 1 told to end": {"slow": 0, "signal": [1, "SIGTERM"]},
    "rank 0 told to end": {"slow": 1, "signal": [0, "SIGTERM"]},
}
FAILURES: dict[str, dict[str, Any]] = {
    f"{part} of rank {rank}": {"fails": [part, rank]}
    for part, rank in (("judge", 0), ("judge", 1), ("teacher", 0), ("teacher", 1), ("policy", 0))
}
REASONS = {
    "rank 1 killed": "rank 1 has been silent",
    "rank 0 killed": "rank 0 cannot be reached",
    "rank 1 stopped": "rank 1 has been silent",
    "rank 0 stopped": "rank 0 has been silent",
    "rank 1 told to end": "rank 1 received SIGTERM",
    "rank 0 told to end": "rank 0 received SIGTERM",
}


def run(experiments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in experiments]
    for experiment, probe in zip(experiments, probes, strict=True):
        experiment["port"] = probe.getsockname()[1]
        probe.close()
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "toy_ranks.py")]
    done = subprocess.run(
        command, input=json.dumps(experiments), env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def log(result: dict[str, Any], rank: int) -> str:
    return (Path(result["folder"]) / f"log{rank}.txt").read_text()


def notes(folder: str, word: str, rank: int) -> list[list[Any]]:
    path = Path(folder) / f"rank{rank}.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [fields[1:] for fields in map(json.loads, lines) if fields[0] == word]


def batches(folder: str, world_size: int) -> dict[int, tuple[str, list[str]]]:
    """Map each step to its revision and the keys of the global batch; the ranks must agree on the revision."""
    by_rank = [notes(folder, "batch", rank) for rank in range(world_size)]
    merged: dict[int, tuple[str, list[str]]] = {}
    for parts in zip(*by_rank, strict=True):
        assert len({(step, revision) for step, revision, _ in parts}) == 1
        assert len({len(keys) for *_, keys in parts}) == 1
        merged[parts[0][0]] = (parts[0][1], [key for *_, keys in parts for key in keys])
    return merged


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All runs, side by side; afterwards two failed ones go on, one of them alone."""
    root = tmp_path_factory.mktemp("ranks")
    by_loss = {"two by loss": {"by_loss": True}, "one by loss": {"by_loss": True, "world_size": 1}}
    wanted = {"two": {}, "one": {"world_size": 1}} | by_loss | TROUBLES | FAILURES
    named = [{"name": name, "folder": f"{root}/{name.replace(' ', '-')}", **what} for name, what in wanted.items()]
    found = {result["name"]: result for result in run(named)}
    again = [
        {"name": "going on alone", "folder": found["judge of rank 1"]["folder"], "world_size": 1},
        {"name": "going on together", "folder": found["judge of rank 0"]["folder"]},
    ]
    return found | {result["name"]: result for result in run(again)}


@pytest.mark.parametrize("policy", ["", " by loss"])
def test_two_ranks_train_and_evolve_as_one(results: dict[str, dict[str, Any]], policy: str) -> None:
    two, one = results[f"two{policy}"], results[f"one{policy}"]
    assert two["codes"] == [0, 0], log(two, 0)[-2000:]
    assert batches(two["folder"], 2) == batches(one["folder"], 1)
    assert len({revision for revision, _ in batches(one["folder"], 1).values()}) == 3
    final = [(Path(result["folder"]) / "revision.txt").read_text() for result in (two, one)]
    assert final[0] == final[1]


def test_both_ranks_measure_losses(results: dict[str, dict[str, Any]]) -> None:
    measured = [notes(results["two by loss"]["folder"], "measured", rank) for rank in (0, 1)]
    assert len(measured[0]) == len(measured[1]) > 0  # equally many chunks: a sharded student needs all in step
    found = {key for part in measured for (keys,) in part for key in keys}
    assert found == {key for (keys,) in notes(results["one by loss"]["folder"], "measured", 0) for key in keys}


def test_both_ranks_render(results: dict[str, dict[str, Any]]) -> None:
    drew = [{i for (ids,) in notes(results["two"]["folder"], "drew", rank) for i in ids} for rank in (0, 1)]
    alone = {i for (ids,) in notes(results["one"]["folder"], "drew", 0) for i in ids}
    assert drew[0] | drew[1] == alone
    assert min(len(part) for part in drew) >= len(alone) // 3


@pytest.mark.parametrize("name", list(TROUBLES))
def test_a_lost_peer_ends_the_other_within_30_s(results: dict[str, dict[str, Any]], name: str) -> None:
    result = results[name]
    target, signal_name = result["signal"]
    other = 1 - target
    assert result["codes"][other] not in (None, 0, -9), log(result, other)[-2000:]
    assert result["seconds"][other] < 30
    assert REASONS[name] in log(result, other)
    if signal_name == "SIGTERM":
        assert result["codes"][target] not in (None, 0, -9)
        assert result["seconds"][target] < 30


@pytest.mark.parametrize("name", list(FAILURES))
def test_a_failing_part_ends_both_ranks_with_the_reason(results: dict[str, dict[str, Any]], name: str) -> None:
    result = results[name]
    assert result["codes"] == [1, 1], "".join(log(result, rank)[-3000:] for rank in (0, 1))
    for rank in (0, 1):
        assert f"the {result['fails'][0]} broke" in log(result, rank)


@pytest.mark.parametrize(("name", "ranks"), [("going on alone", 1), ("going on together", 2)])
def test_a_failed_round_goes_on_with_any_number_of_ranks(
    results: dict[str, dict[str, Any]], name: str, ranks: int
) -> None:
    result, reference = results[name], batches(results["one"]["folder"], 1)
    assert result["codes"] == [0] * ranks, log(result, 0)[-2000:]
    assert (Path(result["folder"]) / "revision.txt").read_text() == (
        Path(results["one"]["folder"]) / "revision.txt"
    ).read_text()
    before = {step: keys for step, keys in reference.items() if step <= 3}
    if ranks == 2:
        assert batches(result["folder"], 2) == reference
    else:
        later = {step: (sha, keys) for step, sha, keys in notes(result["folder"], "batch", 0) if step > 3}
        assert before | later == reference


def test_two_ranks_embed_what_one_does(tmp_path: Path) -> None:
    experiments = [
        {"folder": str(tmp_path / "one"), "world_size": 1, "embeds": True},
        {"folder": str(tmp_path / "two"), "embeds": True},
        {"folder": str(tmp_path / "none"), "world_size": 1},
    ]
    results = run(experiments)
    assert [result["codes"] for result in results] == [[0], [0, 0], [0]], [log(result, 0)[-2000:] for result in results]
    one, two, none = ((tmp_path / name / "revision.txt").read_text() for name in ("one", "two", "none"))
    assert one == two != none
    reader = RevisionReader(tmp_path / "two" / "data", two, EMBEDDING_ROLES)
    assert list(reader.makers(IMAGE_EMBEDDING)) == ["toy embedder toy"]
