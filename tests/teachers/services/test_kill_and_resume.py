"""A purchase killed anywhere and begun again: what the server billed is in the books, and no job is submitted twice."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.script import Script
from tests.chaos.server import ChaosServer
from tests.teachers.services.provider_run import PRICE_USD, SEED_TEXTS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
CALLS = 48
UNIT = 12
"""Requests that may be under way at once: all that the round buys."""


class Buyers:
    """Two processes that have imported everything and fork for each purchase."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name("provider_run.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self._all = [subprocess.Popen(command, env=environment, cwd=ROOT, **pipes) for _ in range(2)]
        self._free = list(self._all)

    def buy(self, experiments):
        with ThreadPoolExecutor(len(self._all)) as pool:
            return list(pool.map(self._one, experiments))

    def _one(self, experiment):
        """Buy at a server of its own, killed at each of `kills`, then to the end."""
        process = self._free.pop()
        with ChaosServer(Script(shares=experiment.get("shares", {}))) as server:
            ends, order = [], {k: v for k, v in experiment.items() if k not in ("kills", "shares")}
            for at in [*experiment.get("kills", []), None]:
                process.stdin.write(json.dumps({**order, "url": server.url, "at": at}) + "\n")
                ends.append(json.loads(process.stdout.readline()))
            bills = Counter(server.bills)
        self._free.append(process)
        return {**experiment, "ends": [end["code"] for end in ends], "final": ends[-1], "bills": bills}

    def close(self) -> None:
        for process in self._all:
            process.stdin.close()
            process.stdout.close()
            process.wait(timeout=30)


@pytest.fixture(scope="module")
def buyers():
    buyers = Buyers()
    yield buyers
    buyers.close()


def spread(kinds, per_kind):
    """Choose events of every kind, spread over the purchase."""
    places = defaultdict(list)
    for number, kind in enumerate(kinds):
        places[kind].append(number)
    chosen = set()
    for turn, numbers in enumerate(places.values()):
        steps = [(2 * part + 1 + turn % 2) * len(numbers) // (2 * per_kind + 1) for part in range(per_kind)]
        chosen |= {numbers[min(step, len(numbers) - 1)] for step in steps}
    return sorted(chosen)


def check(result):
    """List what is wrong with the books after kills."""
    final, billed = result["final"], sum(result["bills"].values())
    name = f"{result['provider']} killed at {result['kills']}"
    if final["code"] != 0:
        return [f"{name}: did not go on"]
    wrong = []
    if not billed <= final["calls"] <= CALLS:
        wrong.append(f"{name}: {billed} billed, {final['calls']} in the books")
    if not billed * PRICE_USD <= final["cost_usd"] + 1e-9:
        wrong.append(f"{name}: {billed} billed, {final['cost_usd']} USD in the books")
    if billed - len(result["bills"]) > UNIT * (len(result["ends"]) - 1):
        wrong.append(f"{name}: more was bought twice than was under way")
    return wrong


@pytest.mark.parametrize("provider", ["openai", "bfl"])
def test_what_was_billed_is_in_the_books_wherever_a_purchase_is_killed(buyers, tmp_path, provider):
    order = {"provider": provider, "calls": CALLS}
    (whole,) = buyers.buy([{**order, "folder": f"{tmp_path}/whole"}])
    kinds = whole["final"]["kinds"]
    assert whole["ends"] == [0] and sum(whole["bills"].values()) == whole["final"]["calls"]
    points = spread(kinds, 1)[:: 1 if provider == "openai" else 2]
    assert len(points) >= 6
    experiments = [
        {**order, "folder": f"{tmp_path}/{at}", "kills": [at, at // 2 + 5] if at % 3 == 0 else [at]} for at in points
    ]
    results = buyers.buy(experiments)
    assert [line for result in results for line in check(result)] == []
    assert {result["ends"][0] for result in results} == {-signal.SIGKILL}
    assert any(len(result["ends"]) == 3 and result["ends"][1] == -signal.SIGKILL for result in results)
    assert {result["final"]["live"] for result in results} == {whole["final"]["live"]}
    assert any(result["final"]["lost"] for result in results)


@pytest.mark.parametrize("provider", ["bfl", "fal", "replicate"])
def test_a_job_that_was_recorded_is_never_submitted_again(buyers, tmp_path, provider):
    """Killed once all jobs of the first unit are recorded: at polls, downloads, while images are kept and settled."""
    order = {"provider": provider, "calls": CALLS}
    (whole,) = buyers.buy([{**order, "folder": f"{tmp_path}/whole"}])
    kinds = whole["final"]["kinds"]
    submitted = [number for number, kind in enumerate(kinds) if kind == "record job done"][5]  # of 6 seeds
    before_more = next(number for number, kind in enumerate(kinds) if number > submitted and kind == "publish")
    points = {kind: number for number, kind in enumerate(kinds) if submitted < number < before_more}
    points = {
        kind: points[kind] for kind in ("send request_json", "got download", "blobs", "commit done") if kind in points
    }
    assert len(points) >= 3
    experiments = [{**order, "folder": f"{tmp_path}/{at}", "kills": [at, at]} for at in points.values()]
    results = buyers.buy(experiments)
    assert [line for result in results for line in check(result)] == []
    assert all(result["ends"][0] == -signal.SIGKILL for result in results)
    assert [result["bills"] for result in results if any(result["bills"][seed] != 1 for seed in SEED_TEXTS)] == []
    assert any(result["final"]["lost"] for result in results)


def test_kills_on_a_bad_day_stay_inside_of_the_budget(buyers, tmp_path):
    """Faults and kills together, on a budget that is too small."""
    shares = {"busy": 0.1, "cut_late": 0.15, "garbage": 0.05, "moderated": 0.1, "torn_image": 0.05}
    experiments = [
        {"provider": provider, "calls": 12, "folder": f"{tmp_path}/{provider}{at}", "kills": [at, at], "shares": shares}
        for provider in ("openai", "bfl")
        for at in (25, 50)
    ]
    results = buyers.buy(experiments)
    for result in results:
        billed = sum(result["bills"].values())
        assert result["final"]["code"] == 0 and billed <= result["final"]["calls"] <= 12, result
        assert billed * PRICE_USD <= result["final"]["cost_usd"] + 1e-9
    assert sum(result["ends"].count(-signal.SIGKILL) for result in results) >= 4
