"""Rounds in the background on two ranks: both draw, both read the same revision, and both end when one fails."""

from typing import Any

import pytest

from tests.distributed.test_rounds import batches, log, notes, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("ranks")
    wanted: dict[str, dict[str, Any]] = {"two": {}, "one": {"world_size": 1}, "failing": {"fails": ["policy", 0]}}
    named = [
        {"name": name, "folder": f"{root}/{name}", "mode": "background", "epochs": 5, **what}
        for name, what in wanted.items()
    ]
    found = {result["name"]: result for result in run(named)}
    again = {"name": "going on", "folder": found["failing"]["folder"], "mode": "background", "epochs": 5}
    return found | {result["name"]: result for result in run([again])}


def test_two_ranks_train_and_evolve_as_one(results: dict[str, dict[str, Any]]) -> None:
    two, one = results["two"], results["one"]
    assert two["codes"] == [0, 0], log(two, 0)[-2000:]
    assert batches(two["folder"], 2) == batches(one["folder"], 1)
    assert len({revision for revision, _ in batches(one["folder"], 1).values()}) == 4, "the seeds and three rounds"
    drew = [{i for (ids,) in notes(two["folder"], "drew", rank) for i in ids} for rank in (0, 1)]
    assert drew[0] | drew[1] == {i for (ids,) in notes(one["folder"], "drew", 0) for i in ids}


def test_a_failure_beside_training_ends_both_ranks_with_the_reason(results: dict[str, dict[str, Any]]) -> None:
    failing = results["failing"]
    assert failing["codes"] == [1, 1]
    assert all("the policy broke" in log(failing, rank) for rank in (0, 1))


def test_both_ranks_go_on_from_there(results: dict[str, dict[str, Any]]) -> None:
    assert results["going on"]["codes"] == [0, 0], log(results["going on"], 0)[-2000:]
    assert max(batches(results["going on"]["folder"], 2)) == 15, "every step was trained on both, from one revision"
