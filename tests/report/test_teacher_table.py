"""The table of who taught what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.report.summary import teacher_share
from evolvedirector.store.dataset import DatasetStore
from evolvedirector.store.ledger import Duel, TeacherResult
from tests import toys

COUNTING = [Prompt.create(f"tone {n}", skill="counting") for n in range(4)]
COLOURS = [Prompt.create(f"tone {n}", skill="colours") for n in range(10, 13)]


@pytest.fixture
def store(tmp_path: Path):
    with DatasetStore(tmp_path / "data", create=True) as opened:
        yield opened


def samples(store: DatasetStore, prompts: list[Prompt], teacher: str) -> tuple[Sample, ...]:
    names = store.blobs.put_many([toys.flat_png(toys.tone_of(prompt.text)) for prompt in prompts])
    return tuple(Sample.create(prompt, name, teacher) for prompt, name in zip(prompts, names, strict=True))


def test_shares_duels_and_bad_marks_by_skill(store: DatasetStore) -> None:
    start = store.publish(None, "import", RevisionChange(samples=samples(store, COUNTING[:1], "a")))
    bought = (*samples(store, COUNTING[1:4], "b"), *samples(store, COLOURS[:2], "a"))
    retired = {COUNTING[3].id: "retired"}
    sha = store.publish(start, "r1", RevisionChange(samples=bought, prompts=(COLOURS[2],), states=retired))
    preferences = ("second", "second", "tie", "unreadable")
    duels = [Duel(p.id, "a", "b", "x", "y", v) for p, v in zip(COUNTING, preferences, strict=True)]
    store.ledger.looks.add_duels("r1", duels)
    store.ledger.looks.add_duels("another fork's", [Duel(COUNTING[0].id, "a", "b", "x", "y", "first")])
    results = [TeacherResult(COUNTING[0].id, "a", "unfaithful"), TeacherResult(COUNTING[0].id, "b", "faithful")]
    store.ledger.calls.add_results("r1", [*results, TeacherResult(COLOURS[2].id, "c", "refusal")])

    table = teacher_share(store, sha)
    counting = table["skills"]["counting"]
    assert (counting["a"]["share"], counting["b"]["share"]) == (1 / 3, 2 / 3)  # the retired one is not trained on
    assert (counting["b"]["duels_won"], counting["b"]["duels"], counting["b"]["win_rate"]) == (2.5, 3, 2.5 / 3)
    low, high = counting["b"]["win_rate_interval"]
    assert 0 < low < 2.5 / 3 < high < 1
    assert (counting["a"]["unfaithful"], counting["a"]["checked"], counting["b"]["unfaithful"]) == (1, 1, 0)
    assert table["skills"]["colours"]["c"]["refusals"] == 1 and table["skills"]["colours"]["c"]["share"] == 0.0
    assert {name: row["share"] for name, row in table["overall"].items()} == {"a": 3 / 5, "b": 2 / 5, "c": 0.0}
    assert table["overall"]["b"]["duels"] == 3
    kept = json.loads(json.dumps(table))  # as the summary and the report keep it
    assert kept["skills"]["counting"]["b"]["win_rate_interval"] == [low, high]


def test_before_the_first_purchase_there_is_an_empty_table(store: DatasetStore) -> None:
    sha = store.publish(None, "import", RevisionChange(prompts=tuple(COUNTING)))
    table = teacher_share(store, sha)
    assert table == {"overall": {}, "skills": {}}


def test_a_teacher_that_gave_nothing_has_no_interval(store: DatasetStore) -> None:
    sha = store.publish(None, "seeding", RevisionChange(prompts=tuple(COUNTING)))
    store.ledger.calls.add_results("seeding", [TeacherResult(COUNTING[0].id, "shy", "refusal")])
    table = teacher_share(store, sha)
    assert table["overall"]["shy"]["share"] is None and table["overall"]["shy"]["win_rate_interval"] is None
    assert (table["overall"]["shy"]["images"], table["overall"]["shy"]["refusals"]) == (0, 1)
