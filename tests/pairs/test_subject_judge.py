"""A judge that is shown reference and picture: what it is asked, what it answers, and on models of real classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from evolvedirector.errors import UserError
from evolvedirector.judges import TransformersJudge
from evolvedirector.judges.judge import models_of
from evolvedirector.pairs import SubjectJudge
from evolvedirector.pairs.pair_records import PairRequest, Subject
from evolvedirector.pairs.pictures import picture_file
from evolvedirector.records.questions import Answer, Question
from tests.judges.tiny_vlm_families import ARCHITECTURES


class Answers:
    """Says yes to pictures that are alike, and cannot be read about what it is told to."""

    fingerprint = "answers"

    def __init__(self, unread: str = "") -> None:
        self.unread, self.asked = unread, list[Question]()

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        self.asked += questions
        for question in reversed(questions):  # in any order
            yes = 0.9 if len(set(question.images)) == 1 else 0.2
            mass = 0.0 if self.unread and self.unread in question.item_id else 1.0
            yield Answer(question.item_id, (yes, 1 - yes), mass, reason="mumbled" if not mass else "")

    def price_usd(self) -> float | None:
        return 0.01

    def close(self) -> None: ...


def pairs() -> list[PairRequest]:
    red, blue = (picture_file(np.full((24, 24, 3), shade, np.uint8)) for shade in ((200, 0, 0), (0, 0, 200)))
    subject = Subject("one", 'fox" and "dog')
    files = [{"reference": red, "image": image} for image in (red, blue)]
    return [PairRequest(f"r{n}", subject, 0, 24, 24, "tint", "a blue fox", files=f) for n, f in enumerate(files)]


def test_both_pictures_are_shown_and_the_words_cannot_leave_their_quotation() -> None:
    model = Answers()
    first, second = sorted(SubjectJudge(model).score(pairs()), key=lambda reply: reply.request_id)
    assert (first.scores["identity"], second.scores["identity"]) == (0.9, 0.2) and first.scores["change"] == 0.9
    assert first.cost_usd == 0.02
    both, one = model.asked[0], model.asked[2]
    assert len(both.images) == 2 and len(one.images) == 1 and both.images[1] == one.images[0]
    assert '''"fox' and 'dog"''' in both.text and '"a blue fox"' in both.text


@pytest.mark.parametrize("unread", ["identity", "change"])
def test_an_answer_that_cannot_be_read_is_a_failure(unread: str) -> None:
    replies = list(SubjectJudge(Answers(unread)).score(pairs()))
    assert [reply.status for reply in replies] == ["failure", "failure"] and replies[0].reason == "mumbled"


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"subject_question": "Is it?"}, "subject_question is 'Is it\\?'. Allowed is a text with `{subject}`"),
        ({"change_question": "Is it?"}, "change_question is 'Is it\\?'. Allowed is a text with `{prompt}`"),
    ],
)
def test_a_question_that_asks_about_nothing_is_refused(question: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        SubjectJudge(Answers(), **question)


@pytest.mark.parametrize("name", ["qwen2_5_vl", pytest.param("qwen3_vl", marks=pytest.mark.slow)])
def test_a_vision_language_model_scores_pairs(tmp_path: Path, name: str) -> None:
    model = TransformersJudge(str(ARCHITECTURES[name](tmp_path)), image_size_px=32, min_covered_mass=0.5, batch_size=2)
    judge = SubjectJudge(model)
    judge.verify()
    replies = {reply.request_id: reply for reply in judge.score(pairs())}
    assert replies.keys() == {"r0", "r1"}
    for reply in replies.values():  # random weights rarely say yes or no, and then say so
        assert (reply.status == "failure" and reply.reason) or set(reply.scores) == {"identity", "change"}
    answers = list(model.answer([judge._about_both(0, pair) for pair in pairs()]))
    assert answers[0].probabilities != answers[1].probabilities, "it sees the second picture"
    assert models_of(judge) >= models_of(model)
    judge.close()
