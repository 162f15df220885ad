"""Two machines that share no disk: one has the root, the other reads what is pushed; together they train as one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("machine_ranks.py")
TIMEOUT_S = 240
pytestmark = pytest.mark.slow


def started(machine: Path, *words: object, agent: list[str]) -> subprocess.Popen[str]:
    """Start a process in a current folder, a home and a cache of its own."""
    machine.mkdir()
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(machine)}
    return subprocess.Popen(
        [sys.executable, *agent, str(SCRIPT), *map(str, words)],
        cwd=machine, env=os.environ | env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_two_machines_train_and_evolve_as_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    agents = [
        ["-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1",
         "--master-addr", "127.0.0.1", "--master-port", str(port)]
        for rank in range(2)
    ]  # fmt: skip
    running = [started(tmp_path / f"machine{rank}", tmp_path, "two", 2, agent=agents[rank]) for rank in range(2)]
    running.append(started(tmp_path / "alone", tmp_path, "one", 1, agent=[]))
    for process in running:
        _, told = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, told[-4000:]
    one, *two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one-0", "two-0", "two-1"))
    assert two[0]["root"] == str(tmp_path / "machine0" / "data")
    assert not (tmp_path / "machine1" / "data").exists()
    assert two[1]["root"].startswith(str(tmp_path / "machine1"))
    assert [sha for sha, _ in two[0]["seen"]] == [sha for sha, _ in one["seen"]] == [sha for sha, _ in two[1]["seen"]]
    assert len({sha for sha, _ in one["seen"]}) == 3
    together = [first + second for (_, first), (_, second) in zip(two[0]["seen"], two[1]["seen"], strict=True)]
    assert [sorted(keys) for keys in together] == [sorted(keys) for _, keys in one["seen"]]
    assert two[0]["weights"] == two[1]["weights"]
    for here, there in zip(one["weights"], two[0]["weights"], strict=True):
        assert here == pytest.approx(there, rel=1e-5)
