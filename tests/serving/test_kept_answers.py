"""Answers that are kept by key: a bound on their number and bytes, failures forgotten."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from evolvedirector.serving.images_protocol import Answer, CallRefused
from evolvedirector.serving.kept_answers import KeptAnswers


class Drawer:
    """Counts what is drawn, and answers at once unless it is told to wait."""

    def __init__(self, status: int = 200, size_bytes: int = 10, waits: bool = False) -> None:
        self.drawn, self.status, self.size_bytes, self.waits = 0, status, size_bytes, waits

    def __call__(self) -> Future[Answer]:
        self.drawn += 1
        answer: Future[Answer] = Future()
        if not self.waits:
            answer.set_result(Answer(self.status, b"x" * self.size_bytes))
        return answer


def keys_of(kept: KeptAnswers, keys: str) -> str:
    """Return those of the keys whose answers are kept."""
    found = ""
    for key in keys:
        drawer = Drawer(500)  # a failure leaves no trace
        kept.get(key, b"body", drawer)
        found += "" if drawer.drawn else key
    return found


def test_the_newest_answers_are_kept_within_number_and_bytes() -> None:
    by_number, by_bytes = KeptAnswers(max_answers=2), KeptAnswers(max_bytes=25)
    for kept in (by_number, by_bytes):
        for key in "abc":
            kept.get(key, b"body", Drawer())
        assert keys_of(kept, "abc") == "bc"


def test_what_is_being_drawn_is_never_forgotten() -> None:
    kept, waiting = KeptAnswers(max_answers=1), Drawer(waits=True)
    answer = kept.get("a", b"body", waiting)
    for key in "bcd":
        kept.get(key, b"body", Drawer())
    assert kept.get("a", b"body", waiting) is answer and waiting.drawn == 1


@pytest.mark.parametrize(("status", "again"), [(200, 1), (400, 1), (502, 2), (503, 2)])
def test_answers_are_kept_and_failures_are_not(status: int, again: int) -> None:
    kept, drawer = KeptAnswers(), Drawer(status)
    for _ in range(2):
        assert kept.get("a", b"body", drawer).result().status == status
    assert drawer.drawn == again


def test_a_call_that_is_turned_away_leaves_its_key_free() -> None:
    kept = KeptAnswers()

    def refuse() -> Future[Answer]:
        raise CallRefused(503, "overloaded", "too many")

    with pytest.raises(CallRefused, match="too many"):
        kept.get("a", b"body", refuse)
    assert kept.get("a", b"other body", Drawer()).result().status == 200
