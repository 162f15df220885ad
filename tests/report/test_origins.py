"""What candidates yield by who wrote them, in the summary and on the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.records import Evidence, Prompt, RevisionChange, RoundFigures
from evolvedirector.report.origins import failed_by_origin, origins_chart, origins_sentence
from evolvedirector.store import DatasetStore

EXACT = {"sensitivity": 1.0, "specificity": 1.0, "sensitivity looks": 400.0, "specificity looks": 400.0}
ERRING = EXACT | {"sensitivity": 0.8, "specificity": 0.8}
COIN = EXACT | {"sensitivity": 0.5, "specificity": 0.5}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DatasetStore]:
    with DatasetStore(tmp_path / "data", create=True) as opened:
        yield opened


def played(store: DatasetStore, *rounds: tuple[dict[str, float], dict[str, tuple[int, int]]]) -> str:
    """Hold rounds with a judge and (looked, failed) by origin; a further prompt of each is unreadable."""
    seed = Prompt.create("seed")
    sha = store.publish(None, "import", RevisionChange(prompts=(seed,)))
    for number, (judge, counts) in enumerate(rounds):
        name, evidence = f"round {number}", []
        store.ledger.rounds.open(name, number, sha, number)
        for origin, (looked, failed) in counts.items():
            texts = [f"{origin} {number} {n}" for n in range(looked + 1)]
            prompts = [Prompt.create(text, origin, "tone", seed if origin == "expansion" else None) for text in texts]  # type: ignore[arg-type]
            store.ledger.prompts.add(prompts)
            readings: list[Any] = ["lacks"] * failed + ["shows"] * (looked - failed) + ["unreadable"]
            evidence += [Evidence(p.id, "screen", r) for p, r in zip(prompts, readings, strict=True)]
        store.ledger.looks.add_evidence(name, [*evidence, Evidence(seed.id, "probe", "lacks")])
        sha = store.publish(sha, name, RevisionChange(states={seed.id: "candidate"}))
        store.ledger.rounds.close(name, sha, RoundFigures(judge=judge))
    return sha


def test_children_and_new_ideas_are_told_apart_round_by_round(store: DatasetStore) -> None:
    sha = played(
        store,
        (EXACT, {"mutation": (40, 4)}),
        (EXACT, {}),
        (EXACT, {"mutation": (30, 3), "expansion": (20, 10)}),
        (EXACT, {"mutation": (30, 3), "expansion": (20, 16)}),
    )
    rows = failed_by_origin(store.ledger, sha)
    assert [(row["round"], list(row["origins"])) for row in rows] == [
        (0, ["all", "mutation"]), (2, ["all", "expansion", "mutation"]), (3, ["all", "expansion", "mutation"])
    ]  # fmt: skip
    told = {name: (of["looked"], of["failed"], of["share"]) for name, of in rows[1]["origins"].items()}
    assert told == {"all": (50, 13, 0.26), "expansion": (20, 10, 0.5), "mutation": (30, 3, 0.1)}
    for row in rows:
        for of in row["origins"].values():
            assert of["interval"][0] < of["share"] < of["interval"][1]
    said = origins_sentence(rows)
    assert said.startswith("In round 3 the student failed 50 % of the children") and "in round 4" in said
    assert "80 % of the children" in said and said.count("95 % interval") == 4
    chart = origins_chart(rows)
    assert chart is not None
    assert [trace["name"] for trace in chart["traces"]] == ["all candidates", "children of failed prompts", "new ideas"]
    assert chart["traces"][1]["y"] == [0.5, 0.8] and chart["traces"][1]["customdata"] == ["(10 of 20)", "(16 of 20)"]


def test_the_mistakes_of_the_judge_are_taken_out(store: DatasetStore) -> None:
    (row,) = failed_by_origin(store.ledger, played(store, (ERRING, {"mutation": (100, 23), "expansion": (100, 50)})))
    assert row["origins"]["mutation"]["share"] == pytest.approx((0.23 - 0.2) / 0.6, abs=1e-3)
    assert row["origins"]["expansion"]["share"] == 0.5


def test_a_judge_that_says_nothing_leaves_the_counts_alone(store: DatasetStore) -> None:
    rows = failed_by_origin(store.ledger, played(store, (COIN, {"mutation": (10, 3), "expansion": (10, 5)})))
    nothing = {"looked": 10, "failed": 3, "share": None, "interval": None}
    assert rows[0]["origins"]["mutation"] == nothing
    assert (origins_sentence(rows), origins_chart(rows)) == ("", None)
    assert (origins_sentence([]), origins_chart([])) == ("", None)
