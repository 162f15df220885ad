"""A student's images as a suite sees them, and readers whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from evolvedirector.evaluation.suite import Drawn, Offered, Outcome, Sitting, Suite
from evolvedirector.records import ImageAndPrompt, ImageRequest, Look, OrderedPair
from evolvedirector.records.questions import Answer, Question
from tests import toys


def measure(
    suite: Suite, offered: Offered | None = None, draw: Callable[[ImageRequest], bytes] | None = None
) -> Outcome:
    """Do what the callback does, in one process and without a student."""
    offered = offered or Offered(size_px=8)
    asked = suite.requests(offered)
    sitting = Sitting(asked, offered)
    draw = draw or (lambda request: toys.flat_png(request.seed % 256))
    drawn = [Drawn(key, prompt, draw(request)) for key, (request, prompt) in asked.items()]
    return suite.figures(suite.read(drawn, sitting), sitting)


class Answerer:
    """Answers each question by a rule; remembers what it was asked."""

    fingerprint = "toy answerer"

    def __init__(self, answer: Callable[[Question], str], mass: float = 1.0, sure: float = 0.8) -> None:
        self.rule, self.mass, self.sure = answer, mass, sure
        self.asked: list[Question] = []
        self.closed = 0

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        for question in questions:
            self.asked.append(question)
            said = question.answers.index(self.rule(question))
            rest = (1 - self.sure) / (len(question.answers) - 1)
            chances = tuple(self.sure if place == said else rest for place in range(len(question.answers)))
            yield Answer(question.item_id, chances, self.mass)

    def close(self) -> Any:
        self.closed += 1


class Checker:
    """A judge that only checks images against texts."""

    fingerprint = "toy checker"

    def __init__(self, shows: Callable[[str], bool]) -> None:
        self.shows, self.asked = shows, []

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        raise NotImplementedError

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        for item in items:
            self.asked.append(item.prompt)
            yield Look(item.item_id, 0.9 if self.shows(item.prompt) else 0.1)

    def close(self) -> Any: ...
