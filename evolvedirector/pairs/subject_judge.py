"""A vision-language model as judge of pairs: is it the very same subject, and is the change there?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evolvedirector.errors import UserError
from evolvedirector.judges.judge import models_of
from evolvedirector.pairs.pair_records import IMAGE, REFERENCE, PairReply, PairRequest, failed
from evolvedirector.records import FileRef, digest
from evolvedirector.records.looks import MIN_COVERED_MASS
from evolvedirector.records.part import bytes_of, close_parts, price_of, requests_in_flight_of, verify_parts
from evolvedirector.records.questions import CHECK_QUESTION, YES_NO, Answer, Question, QuestionAnswerer, quoted

SUBJECT_QUESTION = (
    'The first picture shows a "{subject}". Does the second picture show that very same "{subject}", and not another '
    'of its kind, changed only as "{prompt}" says? Answer yes or no.'
)


class SubjectJudge:
    """Show a model the reference and the picture and ask whether it is the same subject; then ask about the words.

    The first question gives the score `identity`, the second, about the picture alone, `change`: each the probability
    of yes, 0 to 1. It scores pairs, or what a student drew (`EvolvingPairs`). Which model sees such differences has to
    be measured on pairs with known answers; none was by us.
    """

    def __init__(
        self,
        answerer: QuestionAnswerer,
        subject_question: str = SUBJECT_QUESTION,
        change_question: str = CHECK_QUESTION,
    ) -> None:
        """Choose who is asked, and what.

        Args:
            answerer: The model: `TransformersJudge` or `OpenAIVisionJudge` by name.
            subject_question: About reference and picture, with `{subject}` and `{prompt}`, answered by yes or no.
            change_question: About the picture, with `{prompt}`, answered by yes or no.

        Raises:
            UserError: A question lacks what it is to ask about.
        """
        for name, question, word in (
            ("subject_question", subject_question, "{subject}"),
            ("change_question", change_question, "{prompt}"),
        ):
            if word not in question:
                raise UserError(
                    f"{name} is {question[:200]!r}. Allowed is a text with `{word}`, or every pair scores alike. Leave "
                    f"{name} out for a question that has it."
                )
        self.answerer = answerer
        self.subject_question, self.change_question = subject_question, change_question

    @property
    def fingerprint(self) -> str:
        """Name the model and the questions."""
        return f"subject judge 1 {digest(self.answerer.fingerprint, self.subject_question, self.change_question)}"

    def models(self) -> frozenset[str]:
        """Name the model behind it, and itself."""
        return models_of(self.answerer) | {self.fingerprint}

    def verify(self) -> None:
        """See that the model would work."""
        verify_parts(self.answerer)

    def price_usd(self) -> float | None:
        """Return what the two answers about a pair cost."""
        return price_of(self.answerer, times=2)

    def estimated_bytes(self) -> int:
        """Return what the model needs on a device, in bytes, as far as it says so."""
        return sum(bytes_of(self.answerer))

    @property
    def requests_in_flight(self) -> int:
        """Return how many pairs the model wants at once; 0 where it runs here."""
        return requests_in_flight_of(self.answerer)

    def score(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield `identity` and `change` of each pair; one of which an answer cannot be read is a failure."""
        requests = list(requests)
        # those about two pictures first: neighbours with equally many share a forward pass
        asked = [self._about_both(place, r) for place, r in enumerate(requests)]
        asked += [self._about_one(place, r) for place, r in enumerate(requests)]
        answers: dict[str, Answer] = {}
        cost_usd = self.price_usd() or 0.0
        for answer in self.answerer.answer(asked):
            answers[answer.item_id] = answer
            place = answer.item_id.partition(" ")[0]
            pair = [answers.get(f"{place} {name}") for name in ("identity", "change")]
            if pair[0] is not None and pair[1] is not None:
                yield _reply(requests[int(place)], pair[0], pair[1], cost_usd)

    def close(self) -> None:
        """Free the model's memory and connections."""
        close_parts(self.answerer)

    def _about_both(self, place: int, request: PairRequest) -> Question:
        subject = quoted(request.subject.category or "thing")
        text = self.subject_question.replace("{subject}", subject).replace("{prompt}", quoted(request.prompt))
        images = (_bytes(request.files[REFERENCE]), _bytes(request.files[IMAGE]))
        return Question(f"{place} identity", images, text, YES_NO)

    def _about_one(self, place: int, request: PairRequest) -> Question:
        text = self.change_question.replace("{prompt}", quoted(request.prompt))
        return Question(f"{place} change", (_bytes(request.files[IMAGE]),), text, YES_NO)


def _reply(request: PairRequest, identity: Answer, change: Answer, cost_usd: float) -> PairReply:
    for answer in (identity, change):
        if answer.covered_mass < MIN_COVERED_MASS:
            sent = identity.sent or change.sent
            return failed(request, answer.reason or "the answer cannot be read", sent)
    scores = {"identity": identity.probabilities[0], "change": change.probabilities[0]}
    return PairReply(request.request_id, scores=scores, cost_usd=cost_usd)


def _bytes(file: FileRef) -> bytes:
    return file.content or b""
