"""What is recorded is not asked again, what is asked is reserved first and settled as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evolvedirector.evolution.history import past_rounds
from evolvedirector.evolution.remembered import in_groups, remembered
from evolvedirector.evolution.round_parts import Round, RoundInterrupted, RoundWatch
from evolvedirector.records import Look, Prompt, RoundInfo
from evolvedirector.store.ledger import Ledger, Spend


class Asked:
    """An executor that answers from a script and notes what was sent, in units of two."""

    fingerprint = "asked"

    def __init__(self, fails_at: str = "", stray: bool = False, silent: Sequence[str] = ()) -> None:
        self.sent: list[str] = []
        self.closed = False
        self.fails_at, self.stray, self.silent = fails_at, stray, silent

    def unit_of(self, part: Any) -> int:
        return 2

    def enter(self, phase: Any) -> None:
        pass

    def ask(self, part: Any, method: str, requests: Sequence[str]) -> Iterator[Look]:
        try:
            for key in requests:
                self.sent.append(key)
                if key == self.fails_at:
                    raise OSError("gone")
                if self.stray:
                    yield Look("nobody asked", 0.5)
                if key not in self.silent:
                    yield Look(key, 0.9)
                    yield Look(key, 0.1)
        finally:
            self.closed = True


class Book:
    """Notes in which order things are recorded."""

    def __init__(self, **known: float) -> None:
        self.known, self.events = dict(known), []  # type: ignore[var-annotated]

    def recorded(self, keys: Sequence[str]) -> dict[str, float]:
        return {key: self.known[key] for key in keys if key in self.known}

    def reserve(self, keys: Sequence[str]) -> None:
        self.events.append(("reserve", *keys))

    def settle(self, looks: Sequence[Look]) -> dict[str, float]:
        self.events.append(("settle", *(look.item_id for look in looks)))
        return {look.item_id: look.probability for look in looks[::-1]}

    def silent_now(self, keys: Sequence[str]) -> dict[str, float]:
        self.events.append(("silent", *keys))
        return dict.fromkeys(keys, 0.0)


def answers(
    executor: Asked, book: Book, *keys: str, watch: RoundWatch | None = None, **limits: Any
) -> dict[str, float]:
    store = SimpleNamespace(executor=executor, ledger=SimpleNamespace(spend=lambda round_id: Spend()))
    round = Round(store, RoundInfo("r", 0, None, 0, 0, "sha"), watch or RoundWatch())  # type: ignore[arg-type]
    return remembered(
        round,
        "judge",
        executor,
        "check",
        keys,
        recorded=book.recorded,
        requests=list,
        settle=book.settle,
        reserve=book.reserve,
        silent=book.silent_now,
        **limits,
    )


def test_only_what_is_missing_is_asked_once_in_units_reserved_before_they_are_sent() -> None:
    executor, book = Asked(), Book(b=0.5)
    assert answers(executor, book, "a", "b", "a", "c", "d") == {"a": 0.9, "b": 0.5, "c": 0.9, "d": 0.9}
    assert executor.sent == ["a", "c", "d"]
    assert [event for event in book.events if event[0] == "reserve"] == [("reserve", "a", "c"), ("reserve", "d")]
    assert book.events[0][0] == "reserve"


@pytest.mark.parametrize("group_seconds", [0.0, 60.0])
def test_answers_come_in_the_order_of_the_questions_however_they_fell_into_groups(group_seconds: float) -> None:
    asked = ["c", "a", "d", "b", "e"]  # the book returns each group the other way round, and knows one beforehand
    found = answers(Asked(), Book(d=0.5), *asked, group_seconds=group_seconds)
    assert list(found) == asked, "the name of a revision would depend on time"


def test_an_answer_nobody_asked_for_is_none_and_silence_is_settled() -> None:
    executor, book = Asked(stray=True, silent=["b"]), Book()
    assert answers(executor, book, "a", "b") == {"a": 0.9, "b": 0.0}
    assert ("silent", "b") in book.events and "nobody asked" not in str(book.events)


def test_what_arrived_before_a_failure_is_settled_and_the_source_is_closed() -> None:
    executor, book = Asked(fails_at="b"), Book()
    with pytest.raises(OSError, match="gone"):
        answers(executor, book, "a", "b", "c")
    assert ("settle", "a") in book.events and executor.closed and "c" not in executor.sent


def test_a_limit_and_the_money_cut_what_is_asked() -> None:
    executor, book = Asked(), Book()
    assert answers(executor, book, "a", "b", "c", within=lambda missing: missing[:2]).keys() == {"a", "b"}
    poor = Asked()
    purse = iter([1, 1, 0])
    found = answers(poor, Book(), "a", "b", "c", afford=lambda number: min(number, next(purse, 0)))
    assert found.keys() == {"a", "b"}
    assert poor.sent == ["a", "b"]


def test_a_round_is_stopped_between_two_units() -> None:
    executor = Asked()
    with pytest.raises(RoundInterrupted, match="enough"):
        answers(executor, Book(), "a", "b", "c", watch=RoundWatch(lambda: "enough" if executor.sent else None))
    assert executor.sent == ["a", "b"]


def test_closing_the_groups_closes_their_source() -> None:
    closed = []

    def source() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    groups = in_groups(source(), rows=10)
    assert next(groups) == list(range(10))
    groups.close()
    assert closed == [True]


def test_the_past_is_summed_up_in_as_many_questions_however_long_it_is(tmp_path: Path) -> None:
    counts = []
    for rounds in (2, 12):
        with Ledger(tmp_path / f"{rounds}.sqlite") as ledger:
            ledger.prompts.add([Prompt.create("tone 1")])
            for number in range(rounds):
                ledger.rounds.open(f"r{number}", number, f"sha{number}", 0)
                ledger.rounds.record_revision(f"sha{number + 1}", number + 2, f"sha{number}", f"r{number}")
                with ledger.file.transaction() as connection:
                    connection.execute("UPDATE rounds SET child_sha=? WHERE number=?", (f"sha{number + 1}", number))
                    row = (f"r{number}", Prompt.create("tone 1").id)
                    connection.execute("INSERT INTO evidence VALUES (?,?,'screen','','lacks',NULL,'s','l','{}')", row)
            asked: list[str] = []
            with ledger.file.transaction() as connection:
                connection.set_trace_callback(asked.append)
            assert len(past_rounds(ledger, f"sha{rounds}")) == rounds
            counts.append(len(asked))
    assert counts[0] == counts[1]
