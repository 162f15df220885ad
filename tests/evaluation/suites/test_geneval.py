"""GenEval's rule on a miniature file of its form."""

import json
from pathlib import Path

import pytest

from evolvedirector.evaluation.suites import GenEval
from tests.evaluation.suites.asked import Answerer, Checker, measure

LINES = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "two_object", "include": [{"class": "apple", "count": 1}, {"class": "dog", "count": 1}],
     "prompt": "a photo of an apple and a dog"},
    {"tag": "counting", "include": [{"class": "bench", "count": 3}], "exclude": [{"class": "bench", "count": 4}],
     "prompt": "a photo of three benches"},
    {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "orange"}],
     "prompt": "a photo of an orange cup"},
    {"tag": "position", "include": [{"class": "cat", "count": 1},
                                    {"class": "dog", "count": 1, "position": ["left of", 0]}],
     "prompt": "a photo of a dog left of a cat"},
]  # fmt: skip


def file_of(folder: Path, lines: list) -> Path:
    path = folder / "evaluation_metadata.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_every_clause_is_asked_and_an_image_is_right_where_all_hold(tmp_path: Path) -> None:
    reader = Answerer(lambda question: "no" if "a dog left of a cat" in question.text else "yes")
    suite = GenEval(file_of(tmp_path, LINES), reader, images_per_prompt=2)
    suite.verify()
    rows = measure(suite).rows
    assert {question.text.split("?")[0] for question in reader.asked} == {
        "Is there a bench in this picture",
        "Is there an apple in this picture",
        "Is there a dog in this picture",
        "Are there exactly three benches in this picture",
        "Is there an orange cup in this picture",
        "Is there a cat in this picture",
        "Does this picture show a dog left of a cat",
    }
    values = {name: row.value for name, row in rows.items()}
    assert values["position"] == 0.0 and values["counting"] == 1.0, "one clause that fails fails the image"
    assert values["mean"] == pytest.approx(4 / 5), "the mean over tasks"
    assert rows["mean"].interval is not None and rows["mean"].of == 5
    assert suite.looks(0) == {"reader": 2 * 8} and len(reader.asked) == 16 and reader.closed == 1


def test_any_judge_checks_the_clauses(tmp_path: Path) -> None:
    judge = Checker(lambda text: text != "three benches")
    suite = GenEval(file_of(tmp_path, LINES), judge, images_per_prompt=1)
    suite.verify()
    rows = measure(suite).rows
    assert rows["counting"].value == 0.0 and rows["mean"].value == pytest.approx(4 / 5)
    assert "an orange cup" in judge.asked and "a dog left of a cat" in judge.asked


def test_what_cannot_be_read_is_wrong_and_counted(tmp_path: Path) -> None:
    rows = measure(GenEval(file_of(tmp_path, LINES), Answerer(lambda _: "yes", mass=0.1), images_per_prompt=1)).rows
    assert rows["mean"].value == 0.0 and rows["unreadable"].value == 1.0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a photo of a bench", "line 2 is no JSON object"),
        ({"tag": "counting", "prompt": "x"}, "line 2 has no list under 'include'"),
        ({"tag": "counting", "include": [{"class": "dog"}], "prompt": "x"}, "line 2 has a clause of 'dog' without"),
        ({"include": [{"class": "dog", "count": 1}], "prompt": "x"}, "line 2 has no text under 'tag'"),
        (
            {"tag": "p", "include": [{"class": "dog", "count": 1, "position": ["above", 0]}], "prompt": "x"},
            "line 2 has a 'position' of 'dog' that names no earlier clause",
        ),
        (
            {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": 3}], "prompt": "x"},
            "line 2 has a 'color' of 'dog' that is no text",
        ),
        (
            {
                "tag": "c",
                "include": [{"class": "dog", "count": 1}],
                "exclude": [{"class": "cat", "count": 1}],
                "prompt": "x",
            },
            "line 2 has an 'exclude' of 'cat' that is not one more than it includes",
        ),
    ],
)
def test_a_file_of_another_form_is_refused_by_its_line(tmp_path: Path, line: object, said: str) -> None:
    suite = GenEval(file_of(tmp_path, [LINES[0], line]), Answerer(lambda _: "yes"))
    with pytest.raises(ValueError, match=f"is no file of GenEval: {said}"):
        suite.verify()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"of GenEval cannot be read: No such file"):
        GenEval(tmp_path / "none.jsonl", Answerer(lambda _: "yes")).verify()


def test_fewer_prompts_are_spread_over_tasks(tmp_path: Path) -> None:
    suite = GenEval(file_of(tmp_path, LINES), Answerer(lambda _: "yes"), max_prompts=3)
    assert len({asked.prompt.skill for asked in suite.asked_prompts().values()}) == 3
