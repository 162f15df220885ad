"""What was learned about one endpoint's answers, so that the same lesson is not paid for with each look."""

from __future__ import annotations

from collections.abc import Iterable

from evolvedirector.judges.answer_ladder import RUNGS, Rung

_MOST_FIRST_QUESTIONS = 3


class LadderMemory:
    """Remember which rungs an endpoint ignores or refuses.

    Used from several tasks at once: sets only grow. A rung that worked once is never given up for a single bad reply.

    Args:
        first: The best rung to try.
    """

    def __init__(self, first: Rung) -> None:
        self._all = RUNGS[RUNGS.index(first) :]
        self._worked: set[Rung] = set()
        self._given_up: set[Rung] = set()
        self._shown: set[int] = set()
        self._closed: dict[int, str] = {}
        self._tried = 0

    def rungs(self) -> tuple[Rung, ...]:
        """List the rungs worth a request, best first; plain text always is."""
        return tuple(rung for rung in self._all if rung not in self._given_up or rung == RUNGS[-1])

    def is_tried(self) -> None:
        """Note that a question is about to be asked."""
        self._tried += 1

    def is_known(self) -> bool:
        """Say whether another question is likely to take one request: a form worked, or none but plain text is left.

        After three questions that taught nothing (an outage, say) the others need not wait for a fourth.
        """
        return bool(self._worked) or len(self.rungs()) == 1 or self._tried >= _MOST_FIRST_QUESTIONS

    def has_worked(self, rung: Rung) -> bool:
        """Say whether the endpoint ever answered in the form of this rung.

        Args:
            rung: The form.
        """
        return rung in self._worked

    def learn(self, rung: Rung, obeyed: bool, images: int, refused: Iterable[Rung] = ()) -> None:
        """Note that a question was answered, in the form asked for or not, after better forms were refused.

        Args:
            rung: The form that was asked for.
            obeyed: Whether the reply had it.
            images: How many the question showed.
            refused: Rungs at which the server would not take the same question.
        """
        self._shown.add(images)
        if obeyed:
            self._worked.add(rung)
        self._given_up |= {other for other in refused if other not in self._worked}
        if not obeyed:
            self.is_ignored(rung)

    def is_ignored(self, rung: Rung) -> None:
        """Note that the endpoint replied as if it had not been asked for this form.

        Args:
            rung: The form.
        """
        if rung not in self._worked:
            self._given_up.add(rung)

    def close(self, images: int, reason: str) -> None:
        """Note that the model cannot be shown so many images, unless it was before.

        Args:
            images: How many.
            reason: What the server said.
        """
        if images not in self._shown:
            self._closed.setdefault(images, reason)

    def closed(self, images: int) -> str:
        """Say why asking is useless; empty where it is not.

        Args:
            images: How many a question shows.
        """
        return self._closed.get(images, "")
