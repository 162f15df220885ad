from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from evolvedirector.evolution.history import past_rounds
from evolvedirector.records import Evidence, JudgeAccuracy, Prompt, Reading, RevisionChange, RoundFigures, Sample, Tally
from evolvedirector.store.dataset import DatasetStore
from tests.toys import flat_png

SEEDS = [Prompt.create(f"tone {n}", skill="dark") for n in range(3)]
CHILDREN = [Prompt.create(f"tone {n}", "expansion", "dark", SEEDS[0]) for n in range(10, 14)]
STRANGERS = [Prompt.create(f"tone {n}", "mutation", "light") for n in range(200, 204)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DatasetStore]:
    with DatasetStore(tmp_path / "data", create=True) as opened:
        yield opened


def published(store: DatasetStore, parent: str | None, name: str, tone: int) -> str:
    prompt = Prompt.create(f"tone {tone}")
    sample = Sample.create(prompt, store.blobs.put_many([flat_png(tone)])[0], "toy")
    return store.publish(parent, name, RevisionChange(samples=(sample,)))


def played(
    store: DatasetStore, parent: str, name: str, evidence: Sequence[Evidence], judge_error: float | None = None
) -> str:
    """A finished round: opened, recorded, published, closed."""
    store.ledger.rounds.open(name, 0, parent, 0)
    store.ledger.prompts.add([*SEEDS, *CHILDREN, *STRANGERS])
    store.ledger.looks.add_evidence(name, evidence)
    child = published(store, parent, name, 100 + len(store.revisions()))
    store.ledger.rounds.close(name, child, RoundFigures(judge={} if judge_error is None else {"error": judge_error}))
    return child


def screened(prompts: Sequence[Prompt], *readings: Reading) -> list[Evidence]:
    return [Evidence(prompt.id, "screen", reading) for prompt, reading in zip(prompts, readings, strict=True)]


def test_a_round_is_told_by_skill_lineage_and_failures(store: DatasetStore) -> None:
    first = published(store, None, "import", 50)
    evidence = screened([*CHILDREN, *STRANGERS[:2]], "lacks", "shows", "lacks", "unreadable", "shows", "unreadable")
    evidence += [Evidence(SEEDS[1].id, "probe", "lacks"), Evidence(CHILDREN[0].id, "faithfulness", "shows")]
    child = played(store, first, "r0", evidence, judge_error=0.2)
    (past,) = past_rounds(store.ledger, child)
    assert (past.round_id, past.judge) == ("r0", JudgeAccuracy(0.8, 0.8))
    assert past.judge_error == pytest.approx(0.2)
    assert past.skills == {"dark": Tally(3, 2), "light": Tally(1, 0)}
    assert past.lineages == {SEEDS[0].id: Tally(3, 2), STRANGERS[0].id: Tally(1, 0)}
    assert past.failed == {CHILDREN[0].id, CHILDREN[2].id}
    assert past_rounds(store.ledger, first) == ()


def test_rounds_come_oldest_first_across_revisions_that_no_round_published(store: DatasetStore) -> None:
    sha = published(store, None, "import", 50)
    for number in range(3):
        sha = played(store, sha, f"r{number}", screened(CHILDREN[:1], "lacks"))
        sha = published(store, sha, f"seeds {number}", 60 + number)
    assert [past.round_id for past in past_rounds(store.ledger, sha)] == ["r0", "r1", "r2"]
    assert all(past.judge_error == 0.0 and not past.judge.is_known for past in past_rounds(store.ledger, sha))


def test_a_fork_sees_its_own_past_only(store: DatasetStore) -> None:
    trunk = played(store, published(store, None, "import", 50), "r0", screened(CHILDREN[:1], "lacks"))
    one = played(store, trunk, "left", screened(CHILDREN[:2], "lacks", "shows"))
    other = played(store, trunk, "right", screened(STRANGERS[:1], "shows"))
    assert [past.round_id for past in past_rounds(store.ledger, one)] == ["r0", "left"]
    assert [past.round_id for past in past_rounds(store.ledger, other)] == ["r0", "right"]
    assert [past.round_id for past in past_rounds(store.ledger, trunk)] == ["r0"]


def test_an_unfinished_round_and_one_that_saw_nothing_are_left_out(store: DatasetStore) -> None:
    sha = played(store, published(store, None, "import", 50), "r0", screened(CHILDREN[:1], "lacks"))
    store.ledger.rounds.open("skipped", 1, sha, 0)
    store.ledger.rounds.close("skipped", sha, RoundFigures(skipped=True))
    store.ledger.rounds.open("cut off", 2, sha, 0)
    store.ledger.looks.add_evidence("cut off", screened(CHILDREN[:2], "lacks", "lacks"))
    sha = played(store, sha, "unreadable", screened(CHILDREN[:1], "unreadable"))
    assert [past.round_id for past in past_rounds(store.ledger, sha)] == ["r0"]
