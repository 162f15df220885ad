"""TIFA's rule on a miniature file of its form."""

import json
from pathlib import Path

import pytest

from evolvedirector.evaluation.suites import TIFA
from tests.evaluation.suites.asked import Answerer, Checker, measure


def entry(item: str, question: str, choices: list[str], answer: str, kind: str = "object") -> dict:
    caption = {"coco_1": "a surfer on a beach", "drawbench_2": "three cats"}[item]
    found = {"id": item, "caption": caption, "question": question, "choices": choices, "answer": answer}
    return found | {"element_type": kind, "element": "x"}


ENTRIES = [
    entry("coco_1", "is this a surfer?", ["yes", "no"], "yes", "animal/human"),
    entry("coco_1", "what type of place is this?", ["beach", "park", "forest"], "beach", "location"),
    entry("drawbench_2", "how many cats are there?", ["1", "2", "3", "4"], "3", "counting"),
]


def file_of(folder: Path, entries: object) -> Path:
    path = folder / "tifa.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries, indent=1))
    return path


def test_the_score_is_the_mean_over_captions_of_right_choices(tmp_path: Path) -> None:
    said = {"is this a surfer?": "yes", "what type of place is this?": "park", "how many cats are there?": "3"}
    reader = Answerer(lambda question: next(said[text] for text in said if question.text.startswith(text)))
    suite = TIFA(file_of(tmp_path, ENTRIES), reader)
    suite.verify()
    rows = measure(suite).rows
    assert {question.answers for question in reader.asked} >= {("beach", "park", "forest"), ("1", "2", "3", "4")}
    assert "Answer with one of: 1, 2, 3, 4." in {q.text.partition("? ")[2] for q in reader.asked}
    assert rows["tifa"].value == pytest.approx((1 / 2 + 1) / 2) and rows["tifa"].of == 2
    assert {kind: rows[kind].value for kind in ("animal/human", "location", "counting")} == {
        "animal/human": 1.0, "location": 0.0, "counting": 1.0,
    }  # fmt: skip


def test_a_judge_that_only_checks_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    suite = TIFA(file_of(tmp_path, ENTRIES), Checker(lambda _: True))
    with pytest.raises(ValueError, match=r"reader is a Checker, which only checks.*TIFA asks.*'is this a surfer\?'"):
        suite.verify()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('[\n{"id": 1,\n}]', "line 3 is no JSON"),
        ('{"id": 1}', "line 1 begins no list"),
        ([ENTRIES[0], {**ENTRIES[1], "answer": "desert"}], "line 14 .entry 2. has an answer 'desert' that is none"),
        ([{**ENTRIES[0], "choices": ["yes"]}], "line 2 .entry 1. has no list of two or more texts under 'choices'"),
        ([ENTRIES[0], "text"], "line 14 .entry 2. is no object"),
    ],
)
def test_a_file_of_another_form_is_refused_by_its_line(tmp_path: Path, wrong: object, said: str) -> None:
    with pytest.raises(ValueError, match=f"is no file of TIFA: {said}"):
        TIFA(file_of(tmp_path, wrong), Answerer(lambda _: "yes")).verify()
