"""T2I-CompBench's rule on miniature files of its form."""

from pathlib import Path

import pytest

from evolvedirector.evaluation.suites import T2ICompBench
from evolvedirector.evaluation.suites.t2i_compbench import questions_of
from tests.evaluation.suites.asked import Answerer, Checker, measure


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "color_val.txt").write_text("a green bench and a blue bowl\na red apple and a yellow bird\n")
    (tmp_path / "spatial_val.txt").write_text("a dog on the left of a cat\n")
    (tmp_path / "color_train.txt").write_text("not read")
    return tmp_path


def test_the_score_is_the_product_over_noun_phrases(folder: Path) -> None:
    reader = Answerer(lambda question: "no" if "blue bowl" in question.text else "yes", sure=0.8)
    suite = T2ICompBench(folder, reader, images_per_prompt=2)
    suite.verify()
    rows = measure(suite).rows
    assert rows["color"].value == pytest.approx((0.8 * 0.2 + 0.8 * 0.8) / 2) and rows["color"].of == 2
    assert rows["spatial"].value == pytest.approx(0.8)
    assert rows["mean"].value == pytest.approx((0.4 + 0.8) / 2), "each category counts once"
    assert suite.looks(0) == {"reader": 2 * 5} and len(reader.asked) == 10


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a red apple and yellow bananas", ["a red apple and yellow bananas"]),
        ("A black and white cat sits in a white sink.", ["A black and white cat sits in a white sink"]),
        ("two white sheep, a black goat and a white goat", ["two white sheep", "a black goat", "a white goat"]),
    ],
)
def test_phrases_are_parted_at_commas_and_before_articles(text: str, phrases: list[str]) -> None:
    assert [question.statement for question in questions_of(text, "color")] == phrases


def test_any_judge_checks_phrases_and_prompts(folder: Path) -> None:
    judge = Checker(lambda text: True)
    suite = T2ICompBench(folder, judge, images_per_prompt=1)
    suite.verify()
    assert measure(suite).rows["color"].value == pytest.approx(0.81)
    assert "a dog on the left of a cat" in judge.asked and "a blue bowl" in judge.asked


def test_one_file_is_a_category(folder: Path) -> None:
    suite = T2ICompBench(folder / "spatial_val.txt", Checker(lambda _: True))
    assert {asked.prompt.skill for asked in suite.asked_prompts().values()} == {"spatial"}


def test_what_is_no_file_of_it(tmp_path: Path) -> None:
    reader = Checker(lambda _: True)
    with pytest.raises(ValueError, match=r"has no file of T2I-CompBench"):
        T2ICompBench(tmp_path, reader).verify()
    (tmp_path / "colours.txt").write_text("a red cat\n")
    with pytest.raises(ValueError, match=r"named after no category of T2I-CompBench"):
        T2ICompBench(tmp_path / "colours.txt", reader).verify()
    (tmp_path / "color_val.txt").write_text('a red cat\n\n{"prompt": "a blue cat"}\n')
    with pytest.raises(ValueError, match=r"is no file of T2I-CompBench: line 3 is no plain prompt"):
        T2ICompBench(tmp_path, reader).verify()
