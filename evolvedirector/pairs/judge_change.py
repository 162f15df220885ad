"""Let a judge say whether a picture shows the change of its text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evolvedirector.judges.judge import Judge, models_of
from evolvedirector.pairs.pair_records import IMAGE, PairReply, PairRequest, failed
from evolvedirector.records import ImageAndPrompt
from evolvedirector.records.looks import is_readable
from evolvedirector.records.part import close_parts, price_of, requests_in_flight_of, verify_parts


class JudgeChange:
    """Ask a judge whether the picture shows the prompt of the pair: a vision-language model by name, say."""

    def __init__(self, judge: Judge) -> None:
        """Choose who is asked.

        Args:
            judge: Any judge; its `check` is asked once a pair.
        """
        self.judge = judge

    @property
    def fingerprint(self) -> str:
        """Name the judge."""
        return f"judge change 1 {self.judge.fingerprint}"

    def models(self) -> frozenset[str]:
        """Name the models behind the judge."""
        return models_of(self.judge)

    def verify(self) -> None:
        """See that the judge would work."""
        verify_parts(self.judge)

    def price_usd(self) -> float | None:
        """Return what one look costs."""
        return price_of(self.judge)

    @property
    def requests_in_flight(self) -> int:
        """Return how many questions the judge wants at once."""
        return requests_in_flight_of(self.judge)

    def read(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield the probability that a picture shows its prompt, as `change`."""
        items = [ImageAndPrompt(r.request_id, r.files[IMAGE].content or b"", r.prompt) for r in requests]
        by_key = {request.request_id: request for request in requests}
        cost_usd = self.price_usd() or 0.0
        for look in self.judge.check(items):
            if is_readable(look):
                yield PairReply(look.item_id, scores={"change": look.probability}, cost_usd=cost_usd)
            else:
                yield failed(by_key[look.item_id], look.reason or "the answer cannot be read", look.sent)

    def close(self) -> None:
        """Let go of the judge's memory and connections."""
        close_parts(self.judge)
