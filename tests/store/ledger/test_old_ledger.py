"""A ledger of before schema 7, where every outcome was called a verdict, is read with its meaning."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.records import Evidence, Look, RoundFigures
from evolvedirector.store.ledger import Duel, Ledger

READINGS = {"student": "shows", "teacher": "lacks", "invalid": "unreadable"}
FIGURES = {
    "written": 5, "refused: duplicate": 2, "refused: held out": 1, "not written: budget spent": 24, "buy": 3,
    "expand": 1, "retire": 2, "buy decisions beyond the allowance": 7, "screen: student": 4, "screen: teacher": 3,
    "screen: invalid": 2, "probe: teacher": 1, "faithfulness: student": 6, "compare: student": 1, "compare: tie": 2,
    "compare: teacher": 3, "compare: invalid": 4, "duel: first": 1, "duel: invalid": 2, "teacher: unfaithful": 1,
    "teacher: refusal": 2, "looks beyond the budget": 8, "kept: nothing else would be live": 1, "judge error": 0.125,
    "judge canary blank": 1.0, "skipped": 1, "skipped because": "says yes",
}  # fmt: skip


def body(kind: str, verdict: str) -> str:
    own = {"prompt_id": "p", "kind": kind, "verdict": verdict, "looks": [{"item_id": "k", "probability": 0.9}]}
    images = {"student_sha256": "s", "teacher_sha256": None}
    return json.dumps({**own, **images, "skill": "tone", "lineage_id": "l"})


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Every verdict of every kind, every result of a duel, every figure."""
    path = tmp_path / "ledger.sqlite"
    evidence = [
        (f"{kind} {verdict}", "p", kind, "", verdict, body(kind, verdict))
        for kind, verdict in [
            *product(("screen", "probe", "faithfulness"), READINGS),
            *product(("compare",), ("student", "teacher", "tie", "invalid")),
        ]
    ]
    duels = [("r", word, "a", "b", "x", "y", word) for word in ("first", "second", "tie", "invalid")]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript((Path(__file__).parent / "schema_6.sql").read_text())
        connection.executemany("INSERT INTO evidence VALUES (?,?,?,?,?,?)", evidence)
        connection.executemany("INSERT INTO duels VALUES (?,?,?,?,?,?,?)", duels)
        connection.execute("INSERT INTO rounds VALUES ('r', 0, 'sha', 7, 'child', ?)", (json.dumps(FIGURES),))
        connection.execute("INSERT INTO revisions VALUES ('child', 2, 'sha', 'r')")
    return path


def open_view(path: Path) -> Ledger:
    return Ledger.for_reading(path)


@pytest.mark.parametrize("reader", [Ledger, open_view])
def test_every_outcome_keeps_its_meaning(old: Path, reader: Any) -> None:
    with closing(reader(old)) as ledger:
        look = (Look("k", 0.9),)
        for kind, (verdict, reading) in product(("screen", "probe", "faithfulness"), READINGS.items()):
            expected = Evidence("p", kind, reading, None, look, "s", None, "tone", "l")  # type: ignore[arg-type]
            assert ledger.looks.evidence(f"{kind} {verdict}") == [expected]
        for verdict in ("student", "teacher", "tie", "invalid"):
            expected = Evidence("p", "compare", None, verdict, look, "s", None, "tone", "l")  # type: ignore[arg-type]
            assert ledger.looks.evidence(f"compare {verdict}") == [expected]
        words = {"first": "first", "second": "second", "tie": "tie", "invalid": "unreadable"}
        assert ledger.looks.duels() == [Duel(old, "a", "b", "x", "y", new) for old, new in words.items()]  # type: ignore[arg-type]
        assert [row.figures for row in ledger.rounds.finished("child")] == [
            RoundFigures(
                written=5,
                unwritten=24,
                refused=Counter({"duplicate": 2, "held out": 1}),
                decisions=Counter(buy=3, expand=1, retire=2),
                buys_beyond_allowance=7,
                screened=Counter(shows=4, lacks=3, unreadable=2),
                probed=Counter(lacks=1),
                checked=Counter(shows=6),
                compared=Counter(student=1, tie=2, teacher=3, invalid=4),
                duels=Counter(first=1, unreadable=2),
                no_image=Counter(unfaithful=1, refusal=2),
                looks_beyond_budget=8,
                kept_to_train=1,
                judge={"error": 0.125, "canary blank": 1.0},
                skipped=True,
                skipped_because="says yes",
            )
        ]


def test_a_report_leaves_an_old_ledger_as_it_is(old: Path, tmp_path: Path) -> None:
    before = shutil.copy(old, tmp_path / "copy.sqlite")
    with closing(Ledger.for_reading(old)) as view:
        assert len(view.looks.evidence()) == 13
    assert old.read_bytes() == Path(before).read_bytes()


def test_a_ledger_is_brought_up_to_date_once(old: Path) -> None:
    with closing(Ledger(old)) as ledger:
        first = ledger.looks.evidence()
    with closing(Ledger(old)) as ledger:
        assert ledger.looks.evidence() == first and len(first) == 13
