"""A run ended anywhere, by any signal, and given the same command again ends where an uninterrupted one does."""

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
MUST_AGREE = ("weights", "chain", "live", "batches", "images_bought")
MUST_AGREE_IN_SUMMARY = (
    "rounds",
    "revisions",
    "live",
    "retired",
    "expanded",
    "deleted",
    "mutated",
    "images_seen",
    "win_rate",
)


class Servers:
    """Two processes that have imported everything and fork for each experiment."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / "toy_run.py")]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self._free = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
        self._all = list(self._free)

    def perform(self, experiments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(len(self._all)) as pool:
            return list(pool.map(self._one, experiments))

    def _one(self, experiment: dict[str, Any]) -> dict[str, Any]:
        server = self._free.pop()
        server.stdin.write(json.dumps(experiment) + "\n")
        result = json.loads(server.stdout.readline())
        self._free.append(server)
        return result

    def close(self) -> None:
        for server in self._all:
            server.stdin.close()
            server.stdout.close()
            server.wait(timeout=60)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.close()


def spread(kinds: list[str], per_kind: int, only: set[str] | None = None) -> list[int]:
    """Choose events spread over the kinds and, within each, over the run."""
    places = defaultdict(list)
    for number, kind in enumerate(kinds):
        places[kind].append(number)
    chosen: set[int] = set()
    for turn, (kind, numbers) in enumerate(sorted(places.items())):
        if only is None or kind in only:
            steps = [(2 * part + 1 + turn % 2) * len(numbers) // (2 * per_kind + 1) for part in range(per_kind)]
            chosen |= {numbers[min(step, len(numbers) - 1)] for step in steps}
    return sorted(chosen)


VARIANTS: dict[str, dict[str, Any]] = {
    "max_epochs": {"limit": "max_epochs"},
    "max_steps": {"limit": "max_steps"},
    "each 3 steps": {"limit": "max_steps", "every_n_train_steps": 3},  # with the last batch of an epoch
    "background": {"limit": "max_epochs", "every_n_train_steps": 2, "mode": "background"},
}


@pytest.fixture(scope="module")
def references(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    runs = [{"folder": f"{folder}/{name}", **variant} for name, variant in VARIANTS.items()]
    return dict(zip(VARIANTS, (result["final"] for result in servers.perform(runs)), strict=True))


def check(result: dict[str, Any], reference: dict[str, Any], budget: int = 400) -> list[str]:
    """List in what an interrupted run differs from an uninterrupted one."""
    final, name = result["final"], f"{result['variant']} ended at {result['at']}"
    if final["code"] != 0:
        log = (Path(result["folder"]) / "log.txt").read_text()
        return [f"{name}: did not go on: {log[-1500:]}"]
    if result.get("mode") == "background":  # another thread may end it between a checkpoint and the note of its batch
        noted = dict(final["batches"])
        unnoted = [batch for batch in reference["batches"] if batch[0] not in noted]
        final["batches"] = sorted([*final["batches"], *unnoted[: len(result["at"])]])
    wrong = [f"{name}: {field} differs" for field in MUST_AGREE if final[field] != reference[field]]
    wrong += [
        f"{name}: summary {field} is {final['summary'][field]}, not {reference['summary'][field]}"
        for field in MUST_AGREE_IN_SUMMARY
        if final["summary"][field] != reference["summary"][field]
    ]
    if not final["live_in_shards"]:
        wrong.append(f"{name}: webdataset does not read every live sample")
    if result["asked_again"]:
        wrong.append(f"{name}: {result['asked_again']} recorded answers were asked for again")
    if not final["asked"] <= final["teacher_calls"] <= budget:
        wrong.append(f"{name}: {final['asked']} requests arrived, {final['teacher_calls']} are in the books")
    return wrong


def test_kill_at_any_event(servers: Servers, references: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """At least 24 points: reading, training, rendering, judging, buying, committing, publishing, checkpointing."""
    experiments = []
    few = {"batch end", "checkpoint done", "publish done"}
    for name, per_kind, kinds in (("max_epochs", 1, None), ("max_steps", 2, few), ("each 3 steps", 3, few)):
        for at in spread(references[name]["kinds"], per_kind, kinds):
            again = [at, 150] if at % 5 == 0 else [at]  # a few are killed while they go on, too
            experiments.append({"folder": f"{tmp_path}/{name}-{at}", "variant": name, "at": again, **VARIANTS[name]})
    assert len(experiments) >= 24
    results = servers.perform(experiments)
    wrong = [line for result in results for line in check(result, references[result["variant"]])]
    assert not wrong, "\n".join(wrong)
    assert {result["ends"][0]["code"] for result in results} == {-signal.SIGKILL}
    assert any(result["final"]["lost_calls"] for result in results)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_at_any_event(
    servers: Servers, references: dict[str, dict[str, Any]], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """SIGTERM and Ctrl-C end a run at once with their exit code, in training and in a round."""
    kinds = {"batch end", "teacher asked", "look", "generate", "before commit", "checkpoint", "current"}
    places = spread(references["max_epochs"]["kinds"], 1, kinds)
    experiments = [
        {"folder": f"{tmp_path}/{at}", "variant": "max_epochs", "at": [at], "signal": int(number)} for at in places
    ]
    assert len(experiments) >= 6
    results = servers.perform(experiments)
    wrong = [line for result in results for line in check(result, references["max_epochs"])]
    assert not wrong, "\n".join(wrong)
    assert [result["ends"][0]["code"] for result in results] == [code] * len(results)
    assert max(result["ends"][0]["seconds"] for result in results) < 15


def test_kill_at_any_event_while_training_goes_on_beside_a_round(
    servers: Servers, references: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Events of two threads: which one has a number differs from run to run, where the run ends does not."""
    reference, variant = references["background"], VARIANTS["background"]
    experiments = [
        {"folder": f"{tmp_path}/{at}", "variant": "background", "at": [at, 150] if at % 4 == 0 else [at], **variant}
        for at in spread(reference["kinds"], 1)
    ]
    assert len(experiments) >= 15
    results = servers.perform(experiments)
    wrong = [line for result in results for line in check(result, reference)]
    assert not wrong, "\n".join(wrong)
    assert {result["ends"][0]["code"] for result in results} == {-signal.SIGKILL}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_while_training_goes_on_beside_a_round(
    servers: Servers, references: dict[str, dict[str, Any]], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    reference, kinds = references["background"], {"batch end", "teacher asked", "look", "before commit"}
    experiments = [
        {"folder": f"{tmp_path}/{at}", "variant": "background", "at": [at], "signal": int(number)}
        | VARIANTS["background"]
        for at in spread(reference["kinds"], 2, kinds)
    ]
    results = servers.perform(experiments)
    wrong = [line for result in results for line in check(result, reference)]
    assert not wrong, "\n".join(wrong)
    assert [result["ends"][0]["code"] for result in results] == [code] * len(results)
    assert max(result["ends"][0]["seconds"] for result in results) < 15


def test_a_tight_budget_holds_through_kills(
    servers: Servers, references: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Lost submissions are paid from the budget: it is never exceeded, even where images are missing in the end."""
    places = spread(references["max_epochs"]["kinds"], 1, {"teacher asked", "teacher answered", "before commit"})
    experiments = [{"folder": f"{tmp_path}/{at}", "limit": "max_epochs", "at": [at], "budget": 20} for at in places]
    for result in servers.perform(experiments):
        final = result["final"]
        assert final["code"] == 0
        assert final["asked"] <= final["teacher_calls"] <= 20
        assert result["asked_again"] == 0
