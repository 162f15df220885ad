from collections import Counter
from pathlib import Path

import pytest

from evolvedirector.evaluation.intervals import wilson_interval
from evolvedirector.evolution import Budget
from evolvedirector.records import Evidence, ImageReply, Prompt, RevisionChange, RoundFigures, Sample
from evolvedirector.report.summary import SUMMARY_KEYS, evolution_figures
from evolvedirector.store import DatasetStore
from evolvedirector.store.ledger import Call
from tests import toys

KEYS = """
rounds rounds_skipped revisions live mastered retired expanded deleted mutated teacher_calls judge_calls lost_calls
cost_usd images_seen wall_s accuracy accuracy_interval accuracy_prompts accuracy_mean accuracy_mean_interval
accuracy_by_kind win_rate
win_rate_interval
win_rate_held_out win_rate_by_training_judge win_rate_history
forgetting embedding_arms subjects suites
evaluation_teacher_calls evaluation_cost_usd teacher_share teacher_table judge_health
rounds_detail failed_shares budget saved_by_looking failed_by_origin nonfinite_steps nonfinite_at
background loop
"""


def test_the_keys_are_fixed() -> None:
    assert list(SUMMARY_KEYS) == KEYS.split()


def test_the_interval_is_wilsons() -> None:
    assert wilson_interval(0, 0) is None
    low, high = wilson_interval(5, 10) or (0, 0)
    assert (low, high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))  # Wilson 1927, z = 1.96
    assert wilson_interval(0, 10)[0] == 0.0  # type: ignore[index]
    assert wilson_interval(10, 10)[1] == 1.0  # type: ignore[index]


class TwoRounds:
    """A run in small: one seed, a screened round that buys, and a skipped one."""

    def __init__(self, folder: Path) -> None:
        self.seed, self.failed, self.passed = (
            Prompt.create(f"tone {t}", skill=s) for t, s in ((1, "a"), (2, "a"), (3, "b"))
        )
        with DatasetStore(folder, create=True) as store:
            store.ledger.prompts.add([self.seed, self.failed, self.passed])
            start = store.publish(None, "seeds", self.buy(store, "seeds", self.seed))
            store.ledger.rounds.open("one", 0, start, 10)
            store.ledger.looks.add_evidence(
                "one",
                [
                    Evidence(self.failed.id, "screen", "lacks"),
                    Evidence(self.passed.id, "screen", "shows"),
                    Evidence(self.seed.id, "probe", "unreadable"),
                    Evidence(self.failed.id, "faithfulness", "shows"),
                ],
            )
            child = store.publish(start, "one", self.buy(store, "one", self.failed))
            store.ledger.rounds.close("one", child, RoundFigures(decisions=Counter(buy=1), judge={"error": 0.1}))
            skipped = RoundFigures(skipped=True, judge={"error": 0.4, "agreement": 0.5})
            store.ledger.rounds.open("two", 1, child, 20)
            store.ledger.rounds.close("two", child, skipped)
            store.ledger.rounds.open("three", 2, child, 30)  # still running
            store.ledger.rounds.open("other", 1, start, 10)  # forked off from the same seeds
            store.ledger.looks.add_evidence("other", [Evidence(self.passed.id, "compare", verdict="student")])
            fork = store.publish(start, "other", self.buy(store, "other", self.passed))
            store.ledger.rounds.close("other", fork, RoundFigures(decisions=Counter(retire=1), judge={"error": 0.2}))
            self.figures = evolution_figures(store, child, Budget())
            self.of_fork = evolution_figures(store, fork, Budget())

    def buy(self, store: DatasetStore, round_id: str, prompt: Prompt) -> RevisionChange:
        store.ledger.calls.reserve(round_id, [Call(f"call {prompt.id}", prompt.id, prompt.lineage_id, "toy")])
        sha256 = store.blobs.put(toys.flat_png(toys.tone_of(prompt.text)))
        store.ledger.calls.settle([(ImageReply(f"call {prompt.id}", "image"), sha256)])
        return RevisionChange(samples=(Sample.create(prompt, sha256, "toy"),))


def test_each_finished_round_is_a_point_of_the_curves(tmp_path: Path) -> None:
    first, second = TwoRounds(tmp_path / "data").figures["rounds_detail"]
    assert first == {
        "round": 0,
        "global_step": 10,
        "teacher_calls": 2,
        "skipped": False,
        "looked_by_skill": {"a": 1, "b": 1},
        "failed_by_skill": {"a": 1, "b": 0},
        "bought_by_skill": {"a": 1},
    }
    assert TwoRounds(tmp_path / "again").figures["failed_shares"][0] == {
        "round": 0,
        "skills": {
            "a": {"share": 1.0, "interval": [0.0844, 1.0]},
            "b": {"share": 0.0, "interval": [0.0, 0.9156]},
        },
    }
    assert second["skipped"] and second["teacher_calls"] == 2 and second["bought_by_skill"] == {}


def test_a_fork_reports_its_own_past_and_a_skipped_round_is_counted_apart(tmp_path: Path) -> None:
    runs = TwoRounds(tmp_path / "data")
    assert (runs.figures["rounds"], runs.figures["rounds_skipped"]) == (1, 1)
    assert (runs.figures["deleted"], runs.figures["win_rate"]) == (0, None)
    assert (runs.of_fork["rounds"], runs.of_fork["rounds_skipped"]) == (1, 0)
    assert (runs.of_fork["deleted"], runs.of_fork["win_rate"]) == (1, 1.0)
    assert runs.of_fork["judge_health"] == {"error": 0.2}
    (detail,) = runs.of_fork["rounds_detail"]
    assert detail["teacher_calls"] == 2 and detail["bought_by_skill"] == {"b": 1}


def test_judge_health_is_that_of_the_last_finished_round(tmp_path: Path) -> None:
    assert TwoRounds(tmp_path / "data").figures["judge_health"] == {"error": 0.4, "agreement": 0.5}


def test_the_table_of_teachers_is_part_of_the_figures(tmp_path: Path) -> None:
    figures = TwoRounds(tmp_path / "data").figures
    assert figures["teacher_table"]["overall"]["toy"]["images"] == 2
    assert list(figures["teacher_table"]["skills"]) == ["a"]
