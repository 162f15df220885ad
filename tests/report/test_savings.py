"""What looking first saved, by the run's own base rate; nothing is claimed where that is unknown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.records import Evidence, Look, Prompt, RevisionChange, RoundFigures
from evolvedirector.report.savings import saved_by_looking, savings_sentence
from evolvedirector.store import DatasetStore
from evolvedirector.store.ledger import Call

EXACT = {"sensitivity": 1.0, "specificity": 1.0, "sensitivity looks": 20.0, "specificity looks": 20.0}
ERRING = {"sensitivity": 0.8, "specificity": 0.8, "sensitivity looks": 200.0, "specificity looks": 200.0}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DatasetStore]:
    with DatasetStore(tmp_path / "data", create=True) as opened:
        yield opened


def run(
    store: DatasetStore,
    judge: dict[str, float],
    origin: Any = "mutation",
    failed: int = 31,
    looks: int = 1,
    buys: int = 31,
) -> dict[str, Any] | None:
    """One round: 240 candidates, the first of which fail and are bought."""
    start = store.publish(None, "import", RevisionChange(prompts=(Prompt.create("seed"),)))
    prompts = [Prompt.create(f"candidate {n}", origin, "tone") for n in range(240)]
    store.ledger.prompts.add(prompts)
    store.ledger.rounds.open("r", 0, start, 1)
    evidence = [
        Evidence(p.id, "screen", "lacks", looks=(Look("a", 0.1),) * looks)
        if n < failed
        else Evidence(p.id, "screen", "shows")
        for n, p in enumerate(prompts)
    ]
    store.ledger.looks.add_evidence("r", evidence)
    store.ledger.calls.reserve("r", [Call(f"call {p.id}", p.id, p.lineage_id, "toy") for p in prompts[:buys]])
    child = store.publish(start, "r", RevisionChange(prompts=tuple(prompts[:1])))
    store.ledger.rounds.close("r", child, RoundFigures(decisions=Counter(buy=buys), judge=judge))
    return saved_by_looking(store.ledger, child)


def test_with_an_exact_judge_an_even_set_needs_as_many_images_as_were_looked_at(store: DatasetStore) -> None:
    saved = run(store, EXACT)
    assert saved is not None
    assert (saved["candidates"], saved["failed"], saved["bought"], saved["bought_failing"]) == (240, 31, 31, 31.0)
    assert saved["even_images"] == 240
    assert saved["base_share"] == pytest.approx(31 / 240, abs=1e-3)
    least, most = saved["even_interval"]
    assert least < 240 and most is None  # 20 images of gold do not exclude that the judge makes all of it up
    said = savings_sentence(saved)
    assert "Of 240 candidates" in said and "31 failed: 31 images were bought." in said
    assert f"about 240 images for as many that fail (95 % interval {least} or more)" in said


def test_much_gold_closes_the_interval(store: DatasetStore) -> None:
    saved = run(store, EXACT | {"sensitivity looks": 900.0, "specificity looks": 900.0})
    assert saved is not None and 150 < saved["even_interval"][0] < 240 < saved["even_interval"][1] < 400
    assert " to " in savings_sentence(saved)


def test_a_judge_that_errs_is_corrected_for(store: DatasetStore) -> None:
    saved = run(store, ERRING, failed=60, looks=2, buys=20)
    assert saved is not None
    assert saved["base_share"] == pytest.approx((60 / 240 - 0.2) / 0.6, abs=1e-3)
    assert 8 < saved["bought_failing"] < 18  # of those that failed two looks not all do fail
    assert saved["even_interval"][0] < saved["even_images"] == pytest.approx(saved["bought_failing"] * 12, rel=0.02)
    assert "for prompts that it does fail" in savings_sentence(saved)


def test_a_base_rate_measured_as_0_gives_a_bound(store: DatasetStore) -> None:
    saved = run(store, ERRING, failed=40, buys=20)
    assert saved is not None and saved["even_images"] is None and saved["even_interval"][1] is None
    assert f"at least {saved['even_interval'][0]} images" in savings_sentence(saved)


@pytest.mark.parametrize(
    ("judge", "other"),
    [
        ({}, {}),
        ({"error": 0.1}, {"failed": 0, "buys": 0}),
        (EXACT, {"origin": "expansion"}),
        (EXACT, {"buys": 0}),
        ({**EXACT, "sensitivity": 0.5, "specificity": 0.5}, {}),
    ],
)
def test_nothing_is_claimed_where_the_base_rate_is_unknown(
    store: DatasetStore, judge: dict[str, float], other: dict[str, Any]
) -> None:
    saved = run(store, judge, **other)
    assert saved is None and savings_sentence(saved) == ""
