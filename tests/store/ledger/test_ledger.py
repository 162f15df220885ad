import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from evolvedirector.records import Decision, Evidence, ImageReply, Look, Prompt, RoundFigures, WriteReply
from evolvedirector.store.errors import DiskFullError
from evolvedirector.store.ledger import Call, DrawnImage, Duel, Ledger, RoundRow, Spend, TeacherResult

CALL = Call("q", "p", "l", "toy")


@pytest.fixture
def ledger(tmp_path: Path):
    book = Ledger(tmp_path / "ledger.sqlite")
    yield book
    book.close()


def test_what_is_recorded_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    book = Ledger(path)
    parent = Prompt.create("a fox", skill="animal")
    child = Prompt.create("a bear", "expansion", "animal", parent)
    book.prompts.add([parent, child])
    book.prompts.hold_out(["h1", "h1"])
    book.rounds.open("r", 0, "sha", 7)
    figures = RoundFigures(written=3, decisions=Counter(retire=2), screened=Counter(lacks=1), judge={"error": 0.25})
    book.rounds.close("r", "child", figures)
    book.rounds.add_renders("r", {"s": "ab"})
    book.prompts.add_writes("r", [WriteReply("w", ("x",), ("tone",), "")])
    evidence = Evidence("p", "compare", None, "tie", (Look("k", 0.5, 0.9, "why"),), "ab", "cd")
    book.looks.add_evidence("r", [evidence])
    book.rounds.add_decisions("r", [Decision("keep", "p", 1, "because")])
    book.close()
    again = Ledger(path)
    assert again.prompts.all() == {parent.id: parent, child.id: child}
    assert again.prompts.held_out() == {"h1"}
    assert again.rounds.all() == [RoundRow("r", 0, "sha", 7, "child", figures)]
    assert again.rounds.renders("r") == {"s": "ab"}
    assert again.prompts.writes(["w", "missing"]) == {"w": WriteReply("w", ("x",), ("tone",), "")}
    assert again.looks.evidence("r") == [evidence]
    assert again.rounds.decisions("r") == [Decision("keep", "p", 1, "because")]
    again.close()


def test_a_request_without_answer_is_lost_when_it_is_sent_again(ledger: Ledger) -> None:
    ledger.calls.reserve("r", [CALL])
    assert ledger.spend() == Spend(teacher_calls=1)
    assert ledger.calls.replies(["q"]) == {}
    ledger.calls.reserve("r", [CALL])
    assert ledger.spend() == Spend(teacher_calls=2, lost_calls=1)
    ledger.calls.settle([(ImageReply("q", "image", b"x", cost_usd=0.5), "ab")])
    assert ledger.spend("r") == Spend(teacher_calls=2, lost_calls=1, cost_usd=1.0)  # a lost call costs the price
    assert ledger.calls.replies(["q"])["q"].image_sha256 == "ab"
    assert ledger.calls.by_lineage() == {"l": 2}
    assert ledger.calls.images() == [("p", "toy")]


def test_a_failure_may_be_asked_again_an_image_may_not(ledger: Ledger) -> None:
    ledger.calls.reserve("r", [CALL])
    ledger.calls.settle([(ImageReply("q", "failure", reason="503"), None)])
    ledger.calls.reserve("r", [CALL])
    ledger.calls.settle([(ImageReply("q", "image", b"x", cost_usd=0.25), "ab")])
    ledger.calls.reserve("r", [CALL])
    assert ledger.calls.replies(["q"])["q"].status == "image"
    assert ledger.spend() == Spend(teacher_calls=2, cost_usd=0.25)
    assert ledger.calls.price_usd("toy") == 0.25
    assert ledger.calls.price_usd("unknown") is None


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "ledger.sqlite")
    book.calls.reserve("r", [CALL])
    pages = book.file.row("PRAGMA page_count")[0]
    book.file.row(f"PRAGMA max_page_count={pages}")  # SQLite's own "database or disk is full"
    with pytest.raises(DiskFullError, match=r"disk is full.*--ckpt_path last"):
        book.prompts.add_writes("r", [WriteReply("w", ("x" * 100_000,))])
    assert book.spend().teacher_calls == 1
    book.close()


def test_a_look_is_paid_once_and_read_again(ledger: Ledger) -> None:
    ledger.looks.reserve("r", "judge", ["a", "b"])
    ledger.looks.settle([Look("a", 0.25, 0.5, "dim")])
    assert ledger.looks.get(["a", "b"]) == {"a": Look("a", 0.25, 0.5, "dim")}
    assert ledger.spend().judge_calls == 2


def test_a_look_costs_its_price_each_time_it_is_asked(ledger: Ledger) -> None:
    ledger.looks.reserve("r", "judge", ["a", "b"], 0.25)
    ledger.looks.settle([Look("a", 0.25)])
    ledger.looks.reserve("r", "judge", ["b"], 0.5)
    assert ledger.spend() == ledger.spend("r") == Spend(0, 3, 1, 1.0)


def test_spending_is_counted_by_round(ledger: Ledger) -> None:
    ledger.calls.reserve("r1", [CALL])
    ledger.calls.reserve("r2", [Call("q2", "p2", "l", "toy")])
    assert ledger.spend("r1").teacher_calls == ledger.spend("r2").teacher_calls == 1
    assert ledger.spend("r3") == Spend()


def test_a_failed_transaction_leaves_nothing(ledger: Ledger) -> None:
    with pytest.raises(AttributeError):
        ledger.calls.settle([("not a reply", None)])  # type: ignore[list-item]
    with pytest.raises(sqlite3.IntegrityError):
        ledger.rounds.record_revision("sha", None, None, None)  # type: ignore[arg-type]
    ledger.calls.reserve("r", [CALL])
    assert ledger.spend().teacher_calls == 1


def test_more_keys_than_sqlite_takes_at_once(ledger: Ledger) -> None:
    keys = [f"k{number}" for number in range(1700)]
    ledger.looks.reserve("r", "judge", keys)
    ledger.looks.settle([Look(key, 0.5) for key in keys])
    assert len(ledger.looks.get(keys)) == 1700


def test_a_ledger_of_the_schema_before_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as file:
        file.executescript((Path(__file__).parent / "schema_6.sql").read_text())
        file.execute(
            "INSERT INTO looks (key, round_id, judge, probability, covered_mass) VALUES ('old','r1','j',0.9,1)"
        )
        for view in ("calls_by_rounds", "looks_by_rounds"):
            file.execute(f"DROP VIEW {view}")
        for table in ("earlier_calls", "earlier_looks"):
            file.execute(f"DROP TABLE {table}")
        file.execute("ALTER TABLE looks DROP COLUMN rung")
        file.execute("ALTER TABLE looks DROP COLUMN cost_usd")
        file.execute("ALTER TABLE calls DROP COLUMN price_usd")
        file.execute("ALTER TABLE calls DROP COLUMN attempt")
        file.execute("PRAGMA user_version=2")
        file.commit()
    with closing(Ledger(path)) as ledger:
        ledger.looks.reserve("r1", "judge", ["new"])
        ledger.looks.settle([Look("new", 0.2, 0.7, "", "choice")])
        assert ledger.looks.get(["old", "new"]) == {"old": Look("old", 0.9), "new": Look("new", 0.2, 0.7, "", "choice")}


_BACK_TO_SCHEMA_9 = """
ALTER TABLE calls DROP COLUMN seed;
ALTER TABLE calls DROP COLUMN fingerprint;
CREATE TABLE old (round_id TEXT NOT NULL, prompt_id TEXT NOT NULL, kind TEXT NOT NULL, count INTEGER NOT NULL,
    reason TEXT NOT NULL, image_sha256 TEXT, PRIMARY KEY (round_id, prompt_id, kind));
INSERT INTO old SELECT round_id, prompt_id, kind, count, reason, image_sha256 FROM decisions WHERE variant = '';
DROP TABLE decisions;
ALTER TABLE old RENAME TO decisions;
PRAGMA user_version=9;
"""


def test_a_ledger_of_one_image_a_prompt_takes_an_image_for_each_aspect(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    before = [Decision("buy", "p", 1, "best of K", "ab"), Decision("keep", "q", 1, "tie")]
    with closing(Ledger(path)) as ledger:
        ledger.rounds.add_decisions("r1", before)
        ledger.calls.reserve("r1", [CALL])
        ledger.calls.settle([(ImageReply("q", "image", b"x"), "ab")])
    with closing(sqlite3.connect(path)) as file:
        file.executescript(_BACK_TO_SCHEMA_9)
        file.commit()
    with closing(Ledger.for_reading(path)) as view:
        assert view.rounds.decisions("r1") == before
    aspects = [Decision("buy", "p", image_sha256="ab", variant=name) for name in ("colour", "symmetry")]
    with closing(Ledger(path)) as ledger:
        ledger.rounds.add_decisions("r1", aspects)
        ledger.calls.reserve("r1", [replace(CALL, request_id="q2", seed=2**63 - 1, fingerprint="weights")])
        ledger.calls.settle([(ImageReply("q2", "image", b"y"), "cd")])
    with closing(Ledger(path)) as ledger:
        assert ledger.rounds.decisions("r1") == before + aspects
        drawn = [DrawnImage("p", "ab", "toy", None, ""), DrawnImage("p", "cd", "toy", 2**63 - 1, "weights")]
        assert ledger.calls.drawn(["p", "nobody"]) == drawn


def test_a_ledger_without_losses_gets_room_for_them_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        ledger.looks.reserve("r1", "judge", ["k"])
        ledger.looks.settle([Look("k", 0.9)])
    with closing(sqlite3.connect(path)) as file:  # as schema 8 had it
        file.executescript(_BACK_TO_SCHEMA_9)
        file.execute("DROP TABLE losses")
        file.execute("PRAGMA user_version=8")
        file.commit()
    before = path.read_bytes()
    with closing(Ledger.for_reading(path)) as view:
        assert view.rounds.losses("r1") == {} and view.looks.get(["k"]) == {"k": Look("k", 0.9)}
    assert path.read_bytes() == before
    with closing(Ledger(path)) as ledger:
        ledger.rounds.add_losses("r1", {"a": 0.25})
    with closing(Ledger(path)) as ledger:
        assert ledger.rounds.losses("r1") == {"a": 0.25} and ledger.looks.get(["k"]) == {"k": Look("k", 0.9)}


def test_losses_are_those_of_the_way_to_a_revision_the_last_ones_first_to_stay(ledger: Ledger) -> None:
    for number, (parent, child) in enumerate([("a", "b"), ("b", "c"), ("b", "fork"), ("c", "d"), ("d", "e")]):
        ledger.rounds.record_revision(child, number + 2, parent, f"to {child}")
        ledger.rounds.open(f"to {child}", number, parent, number)
        ledger.rounds.close(f"to {child}", child, RoundFigures())
        if child != "d":
            ledger.rounds.add_losses(f"to {child}", {child: 0.5, "s": number})
    ledger.rounds.open("open", 9, "e", 9)
    ledger.rounds.add_losses("open", {"s": 9.0})
    assert ledger.rounds.recent_losses("e", 10) == [{"b": 0.5, "s": 0.0}, {"c": 0.5, "s": 1.0}, {"e": 0.5, "s": 4.0}]
    assert ledger.rounds.recent_losses("e", 2) == [{"c": 0.5, "s": 1.0}, {"e": 0.5, "s": 4.0}]
    assert ledger.rounds.recent_losses("fork", 10) == [{"b": 0.5, "s": 0.0}, {"fork": 0.5, "s": 2.0}]


def test_an_open_call_costs_the_listed_price_before_anything_was_sold(ledger: Ledger) -> None:
    for _ in range(3):
        ledger.calls.reserve("r", [CALL], price_usd=0.1)  # killed twice before it was answered
    assert ledger.spend().cost_usd == pytest.approx(0.3)
    ledger.calls.settle([(ImageReply("q", "image", cost_usd=0.1), "sha")])
    assert ledger.spend().cost_usd == pytest.approx(0.3)


def test_a_price_is_that_of_one_submission_and_the_first_answer_counts(ledger: Ledger) -> None:
    for status in ("failure", "failure", "image"):
        ledger.calls.reserve("r", [CALL])
        ledger.calls.settle([(ImageReply("q", status, cost_usd=0.04), None)])
    ledger.calls.settle([(ImageReply("q", "image", cost_usd=9.0), "other")])
    assert (ledger.calls.price_usd("toy"), ledger.spend().cost_usd) == (0.04, pytest.approx(0.12))


def test_taking_back_a_call_keeps_the_one_that_was_lost_before(ledger: Ledger) -> None:
    ledger.calls.reserve("r", [CALL], 0.1)
    ledger.calls.reserve("r", [CALL], 0.1)  # the first was cut off by a kill
    ledger.calls.withdraw(["q"])
    assert ledger.spend() == Spend(1, 0, 1, pytest.approx(0.1))
    ledger.calls.reserve("r", [CALL], 0.1)
    assert ledger.spend().teacher_calls == 2


def test_a_question_that_never_left_is_neither_counted_nor_final(ledger: Ledger) -> None:
    ledger.looks.reserve("r", "judge", ["asked", "kept back"], 0.01)
    ledger.looks.settle([Look("asked", 0.9)])
    ledger.looks.withdraw(["kept back", "asked"], 0.01)
    assert list(ledger.looks.get(["asked", "kept back"])) == ["asked"]
    assert (ledger.spend().judge_calls, ledger.spend().cost_usd) == (1, pytest.approx(0.01))


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(ValueError, match=r"ledger schema 99.*reads schema 10"):
        Ledger(path)


def test_several_teachers_images_of_one_prompt_are_evidence_each(ledger: Ledger) -> None:
    images = [
        Evidence("p", "faithfulness", reading, teacher_sha256=sha)
        for reading, sha in (("lacks", "a"), ("unreadable", "b"))
    ]
    screens = [
        Evidence("p", "screen", reading, student_sha256=sha) for reading, sha in (("lacks", "s1"), ("shows", "s2"))
    ]
    ledger.looks.add_evidence("r", [*images, *images, *screens])
    assert ledger.looks.evidence("r") == [*images, screens[1]]  # a prompt is screened once


def test_duels_and_results_are_kept_by_round(ledger: Ledger) -> None:
    duels = [Duel("p", "a", "b", "x", "y", "second"), Duel("p", "b", "c", "y", "z", "unreadable")]
    ledger.looks.add_duels("r1", duels)
    ledger.looks.add_duels("r1", duels)
    ledger.looks.add_duels("r2", duels[:1])
    assert ledger.looks.duels(["r1"]) == duels
    assert len(ledger.looks.duels()) == 3
    ledger.calls.add_results("r1", [TeacherResult("p", "a", "failure")])
    ledger.calls.add_results("r1", [TeacherResult("p", "a", "faithful")])
    assert ledger.calls.results(["r1", "r2"]) == [TeacherResult("p", "a", "faithful")]
    assert ledger.looks.duels([]) == ledger.calls.results([]) == []


def test_a_call_that_was_never_answered_costs_its_price_even_if_it_is_never_repeated(ledger: Ledger) -> None:
    ledger.calls.reserve("r", [CALL, Call("q2", "p2", "l", "toy")])
    ledger.calls.settle([(ImageReply("q", "image", b"x", cost_usd=0.5), "ab")])
    assert ledger.spend() == Spend(teacher_calls=2, cost_usd=1.0)  # killed before the answer: it may have been billed


def test_calls_are_counted_by_teacher_with_lost_and_repeated_ones(ledger: Ledger) -> None:
    ledger.calls.reserve("r", [CALL, Call("q2", "p2", "l", "other")])
    ledger.calls.reserve("r", [CALL])
    ledger.calls.settle([(ImageReply("q", "failure", reason="503"), None)])
    ledger.calls.reserve("r", [CALL])
    assert ledger.calls.by_teacher() == {"toy": 3, "other": 1}


def test_the_rounds_to_a_revision_leave_forks_out(ledger: Ledger) -> None:
    for number, (sha, parent, round_id) in enumerate([("a", None, "import"), ("b", "a", "r1"), ("c", "b", "r2")]):
        ledger.rounds.record_revision(sha, number + 1, parent, round_id)
    ledger.rounds.record_revision("fork", 2, "a", "r9")
    assert ledger.rounds.leading_to("c") == ["import", "r1", "r2"]
    assert ledger.rounds.leading_to("fork") == ["import", "r9"]
    assert ledger.rounds.leading_to("unknown") == []


def test_a_free_refusal_is_no_price(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.calls.reserve("r", [Call(name, name, name, "dear") for name in ("refused", "drawn")])
    ledger.calls.settle([(ImageReply("refused", "refusal"), None)])
    assert ledger.calls.price_usd("dear") is None
    ledger.calls.settle([(ImageReply("drawn", "image", cost_usd=0.04), "ab")])
    assert ledger.calls.price_usd("dear") == 0.04
    ledger.close()


def test_each_try_of_a_call_is_booked_to_the_round_that_made_it(ledger: Ledger) -> None:
    other = Call("q2", "p2", "l", "toy")
    ledger.calls.reserve("r1", [CALL, other], 0.1)
    ledger.calls.settle(
        [(ImageReply("q", "failure", reason="503", cost_usd=0.1), None)]
    )  # and `other` is never answered
    ledger.calls.reserve("r2", [CALL, other], 0.1)
    ledger.calls.settle([(ImageReply("q", "failure", reason="503"), None), (ImageReply("q2", "image"), "ab")])
    ledger.calls.reserve("r1", [CALL, other], 0.1)
    ledger.calls.settle([(ImageReply("q", "image", cost_usd=0.1), "ab")])
    assert ledger.spend("r1") == Spend(3, 0, 1, pytest.approx(0.3))
    assert ledger.spend("r2") == Spend(2, 0, 0, pytest.approx(0.0))
    assert ledger.spend() == Spend(5, 0, 1, pytest.approx(0.3))
    assert (ledger.calls.by_lineage(), ledger.calls.by_teacher()) == ({"l": 5}, {"toy": 5})
    assert ledger.calls.price_usd("toy") == 0.1 and ledger.calls.replies(["q"])["q"].status == "image"


def test_a_try_that_is_taken_back_leaves_those_of_earlier_rounds(ledger: Ledger) -> None:
    ledger.calls.reserve("r1", [CALL])
    ledger.calls.settle([(ImageReply("q", "failure", reason="503"), None)])
    for _ in range(2):
        ledger.calls.reserve("r2", [CALL])
        ledger.calls.withdraw(["q"])
        assert (ledger.spend("r1"), ledger.spend("r2"), ledger.spend()) == (Spend(1), Spend(), Spend(1))
        assert ledger.calls.replies(["q"])["q"].status == "failure"
    ledger.calls.reserve("r2", [CALL])
    assert (ledger.spend("r1"), ledger.spend("r2")) == (Spend(1), Spend(1))


def test_each_try_of_a_look_is_booked_to_the_round_that_made_it(ledger: Ledger) -> None:
    ledger.looks.reserve("r1", "judge", ["a"], 0.25)
    ledger.looks.reserve("r1", "judge", ["a"], 0.25)
    ledger.looks.reserve("r2", "judge", ["a"], 0.25)
    assert ledger.spend("r1") == Spend(0, 2, 2, 0.5) and ledger.spend("r2") == Spend(0, 1, 0, 0.25)
    ledger.looks.settle([Look("a", 0.9)])
    assert ledger.looks.get(["a"]) == {"a": Look("a", 0.9)} and ledger.spend() == Spend(0, 3, 2, 0.75)


def test_a_question_that_is_taken_back_leaves_the_one_that_was_lost_before(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.looks.reserve("r", "judge", ["a"], 0.25)
    ledger.looks.withdraw(["a"], 0.25)
    assert ledger.looks.get(["a"]) == {} and ledger.spend() == Spend(0, 1, 0, 0.25)
    ledger.looks.reserve("r", "judge", ["a"], 0.25)
    assert ledger.spend() == Spend(0, 2, 1, 0.5)
