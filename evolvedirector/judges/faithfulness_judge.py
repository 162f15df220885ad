"""A judge that asks about an image part by part, so that one missing object is not lost among many right ones."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

from evolvedirector.judges.faithfulness import look_of
from evolvedirector.judges.judge import ComparesPairs, Judge, models_of, outage_of
from evolvedirector.judges.questions.english_questions import EnglishQuestions
from evolvedirector.judges.questions.prompt_questions import MAX_QUESTIONS, QuestionWriter
from evolvedirector.records import AtomAnswer, FaithfulnessLook, ImageAndPrompt, Look, OrderedPair, digest
from evolvedirector.records.looks import MIN_COVERED_MASS
from evolvedirector.records.part import bytes_of, close_parts, price_of, requests_in_flight_of, verify_parts
from evolvedirector.records.questions import YES_NO, Answer, Question, QuestionAnswerer

QUESTION = "{question} Answer yes or no."
_KEPT_LOOKS = 8192
"""A round looks at the same image in a check, in a pair and in the pair's other order."""
_UNIT_ITEMS = 32
"""Images asked about together; answers come out after each such unit."""


class FaithfulnessJudge:
    """Split each prompt into yes-or-no questions and judge an image by all of its answers.

    The probabilities of yes are combined as in Soft-TIFA (GenEval 2, Kamath et al. 2025: closer to people than one
    question about the whole image), see `look_of`. In a pair, an image that does not show the prompt never wins: where
    neither does, the look is even, so that the image of a teacher that cannot draw a prompt triggers no expansion,
    whatever the policy. Where one does, it wins. Where both do, `judge` decides, or else the clearly higher score.

    Example:
        ```yaml
        judge:
          class_path: evolvedirector.judges.FaithfulnessJudge
          init_args:
            answerer: {class_path: evolvedirector.judges.TransformersJudge, init_args: {model: ...}}
        ```

    Args:
        answerer: The model that answers; `TransformersJudge` and `OpenAIVisionJudge` are such.
        judge: Compares two images that both show the prompt. None: see `ask_pairs`.
        questions: Splits the prompts. None: by rule (`EnglishQuestions`).
        expected_error: Share of wrong answers to reckon with, 0 to under 0.5; 0 lets one no fail an image.
        min_readable_share: Share of readable answers under which an image is not judged, over 0 to 1.
        equal_within: Difference of two scores up to which they are even, 0 to 1; where nobody compares the images.
        ask_pairs: Let `answerer` compare two images that both show the prompt, where there is no `judge`: one model in
            memory for both. Off: their scores are compared.

    Raises:
        ValueError: A share out of its range, or `ask_pairs` of a model that is no judge, or beside `judge`.
    """

    def __init__(
        self,
        answerer: QuestionAnswerer,
        judge: Judge | None = None,
        questions: QuestionWriter | None = None,
        expected_error: float = 0.0,
        min_readable_share: float = 0.5,
        equal_within: float = 0.05,
        ask_pairs: bool = False,
    ) -> None:
        look_of(FaithfulnessLook("", ()), expected_error, min_readable_share)  # it knows the allowed shares
        if not 0.0 <= equal_within <= 1.0:
            raise ValueError(f"equal_within is {equal_within}. Allowed: 0 to 1. Write `equal_within: 0.05`.")
        # not `Judge`: isinstance would ask for the fingerprint, which may need the model's files
        if ask_pairs and (judge is not None or not isinstance(answerer, ComparesPairs)):
            why = "beside a judge of pairs" if judge is not None else f"of {type(answerer).__name__}, which is no judge"
            raise ValueError(f"ask_pairs is true {why}. Allowed: one of both. Leave `ask_pairs` or `judge` out.")
        self.answerer = answerer
        self.judge = judge
        self.questions = questions or EnglishQuestions()
        self.expected_error = expected_error
        self.min_readable_share = min_readable_share
        self.equal_within = equal_within
        self.ask_pairs = ask_pairs
        self._looks: OrderedDict[tuple[str, str], Look] = OrderedDict()

    @property
    def fingerprint(self) -> str:
        """Name the models, the rule of the questions and how answers are combined."""
        shares = (self.expected_error, self.min_readable_share, self.equal_within, self.ask_pairs)
        pairs = self.judge.fingerprint if self.judge is not None else ""
        parts = digest(self.answerer.fingerprint, self.questions.fingerprint, pairs, repr(shares), QUESTION)
        return f"faithfulness-1/{parts}"

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield, per item, the probability that the image shows all of its prompt.

        Args:
            items: Encoded images with their prompts.
        """
        for start in range(0, len(items), _UNIT_ITEMS):
            unit = items[start : start + _UNIT_ITEMS]
            looks = self._scores([(item.image, item.prompt) for item in unit])
            yield from (replace(looks[_key(item.image, item.prompt)], item_id=item.item_id) for item in unit)

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield, per pair in its one order, the probability that the first image fits better.

        Args:
            pairs: Encoded images; an unfaithful one never wins.
        """
        for start in range(0, len(pairs), _UNIT_ITEMS):
            yield from self._compare(pairs[start : start + _UNIT_ITEMS])

    def ask_atoms(self, items: Sequence[ImageAndPrompt]) -> Iterator[FaithfulnessLook]:
        """Yield, per item, one answer per question about its prompt.

        Args:
            items: Encoded images with their prompts.
        """
        split = list(self.questions.questions([item.prompt for item in items]))
        asked = [
            Question(f"{place}-{number}", (item.image,), QUESTION.replace("{question}", question.text), YES_NO)
            for place, (item, questions) in enumerate(zip(items, split, strict=True))
            for number, question in enumerate(questions)
        ]
        answers = {answer.item_id: answer for answer in self.answerer.answer(asked)} if asked else {}
        for place, (item, questions) in enumerate(zip(items, split, strict=True)):
            found = [answers.get(f"{place}-{number}") for number in range(len(questions))]
            atoms = tuple(_atom(q.kind, q.text, answer) for q, answer in zip(questions, found, strict=True))
            read = any(atom.covered_mass >= MIN_COVERED_MASS for atom in atoms)
            reason = "" if read else next((answer.reason for answer in found if answer and answer.reason), "")
            sent, cut_off = outage_of(*(answer for answer in found if answer is not None))
            yield FaithfulnessLook(item.item_id, atoms, reason, sent, cut_off)

    @property
    def requests_in_flight(self) -> int:
        """Return how many looks a round should hand over at once; 0 where all models run here."""
        return requests_in_flight_of(self.answerer, self.judge, self.questions)

    def verify(self) -> None:
        """Let the models check that they can work, before anything is spent.

        Raises:
            ValueError: One cannot.
        """
        verify_parts(self.answerer, self.judge, self.questions)

    def estimated_bytes(self) -> int:
        """Return what the models need on a device, in bytes, as far as they say so."""
        return sum(bytes_of(self.judge, self.answerer, self.questions))

    def price_usd(self) -> float | None:
        """Return what a look costs in USD at most, all questions about two images; None where it is not known."""
        asked_once = price_of(self.judge, self.questions)
        asked_often = price_of(self.answerer, times=2 * MAX_QUESTIONS + self.ask_pairs)
        return None if asked_once is None or asked_often is None else asked_once + asked_often

    def models(self) -> frozenset[str]:
        """Name every model behind this judge."""
        return models_of(self.answerer, self.judge)

    def close(self) -> None:
        """Free the memory and connections of all models."""
        close_parts(self.answerer, self.judge, self.questions)

    def _scores(self, wanted: Sequence[tuple[bytes, str]]) -> dict[tuple[str, str], Look]:
        """Look at images of prompts, each once; what was read before is remembered."""
        missing = {key: item for item in wanted if (key := _key(*item)) not in self._looks}
        items = [ImageAndPrompt(str(place), *item) for place, item in enumerate(missing.values())]
        fresh = {
            key: look_of(answers, self.expected_error, self.min_readable_share)
            for key, answers in zip(missing, self.ask_atoms(items), strict=True)
        }
        known = {key: self._looks[key] for item in wanted if (key := _key(*item)) in self._looks}
        # an answer that could not be read is asked for again another time: an outage ends
        self._looks.update({key: look for key, look in fresh.items() if look.covered_mass > 0.0})
        while len(self._looks) > _KEPT_LOOKS:
            self._looks.popitem(last=False)
        return known | fresh

    def _compare(self, pairs: Sequence[OrderedPair]) -> list[Look]:
        judge = cast(Judge, self.answerer) if self.ask_pairs else self.judge
        scores = self._scores([(image, pair.prompt) for pair in pairs for image in (pair.first, pair.second)])
        looks: dict[str, Look] = {}
        both: list[OrderedPair] = []
        for pair in pairs:
            first, second = (scores[_key(image, pair.prompt)] for image in (pair.first, pair.second))
            shown = _are_read(first, second) and min(first.probability, second.probability) >= 0.5
            if shown and judge is not None:
                both.append(pair)
            else:
                looks[pair.item_id] = compared(first, second, self.equal_within, pair.item_id)
        if both and judge is not None:
            # both images were asked about by then, so the pair was sent even where its comparison was not
            looks |= {
                look.item_id: look if look.sent else replace(look, sent=True, cut_off=True) for look in judge.look(both)
            }
        return [looks[pair.item_id] for pair in pairs if pair.item_id in looks]


def compared(first: Look, second: Look, equal_within: float, item_id: str) -> Look:
    """Compare two images by how far each shows the prompt: P(first) = 1/2 + (p1 - p2) / 2, or even.

    It is even where neither shows the prompt (p < 1/2): the less wrong of two wrong images is no example to follow. It
    is even too where both do and their scores differ by `equal_within` at most. Swapping the images mirrors it.

    Args:
        first: The look at the first image alone.
        second: The look at the second image alone.
        equal_within: Difference of the scores of two faithful images up to which they are even.
        item_id: Name of the pair.
    """
    mass = min(first.covered_mass, second.covered_mass)
    if not _are_read(first, second):
        unread = first if first.covered_mass < MIN_COVERED_MASS else second
        reason = unread.reason or "an image could not be judged"
        sent, cut_off = outage_of(first, second)
        return Look(item_id, 0.5, mass, reason, sent=sent, cut_off=cut_off)
    shown = (first.probability >= 0.5) + (second.probability >= 0.5)
    if shown == 0:
        return Look(item_id, 0.5, mass, "neither image shows the prompt")
    difference = first.probability - second.probability
    if shown == 2 and abs(difference) <= equal_within:
        return Look(item_id, 0.5, mass)
    return Look(item_id, 0.5 + difference / 2, mass)


def _are_read(*looks: Look) -> bool:
    return all(look.covered_mass >= MIN_COVERED_MASS for look in looks)


def _atom(kind: str, question: str, answer: Answer | None) -> AtomAnswer:
    if answer is None or len(answer.probabilities) != len(YES_NO):
        return AtomAnswer(kind, question, 0.5, 0.0)
    return AtomAnswer(kind, question, answer.probabilities[0], answer.covered_mass)


def _key(image: bytes, prompt: str) -> tuple[str, str]:
    return hashlib.sha256(image).hexdigest(), prompt
