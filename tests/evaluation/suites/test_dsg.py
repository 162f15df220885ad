"""DSG's rule on a miniature file of its form."""

from pathlib import Path

import pytest

from evolvedirector.evaluation.suite import Offered
from evolvedirector.evaluation.suites import DSG
from tests.evaluation.suites.asked import Answerer, Checker, measure

HEAD = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language"
)
ROWS = [
    "whoops_5,a purple cube on a table,cube,1,0,entity,whole,entity - whole (cube),Is there a cube?",
    'whoops_5,a purple cube on a table,"cube, purple",2,1,attribute,color,"cube, purple",Is the cube purple?',
    "whoops_5,a purple cube on a table,table,3,0,entity,whole,entity (table),Is there a table?",
    'whoops_5,a purple cube on a table,"on",4,"1,3",relation,spatial,"relation (on)",Is the cube on the table?',
    "vrd_7,bench near trees,bench,1,0,entity,whole,entity - whole (bench),Is there a bench?",
]


def file_of(folder: Path, rows: list[str]) -> Path:
    path = folder / "dsg-1k-anns.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_questions_whose_parent_is_answered_by_no_do_not_count(tmp_path: Path) -> None:
    reader = Answerer(lambda question: "no" if "Is there a cube" in question.text else "yes")
    suite = DSG(file_of(tmp_path, [HEAD, *ROWS]), reader)
    suite.verify()
    rows = measure(suite).rows
    # no cube: neither its colour nor its place counts; the table does
    assert rows["whoops"].value == pytest.approx(1 / 4) and rows["vrd"].value == 1.0
    assert rows["dsg"].value == pytest.approx((1 / 4 + 1) / 2) and rows["dsg"].of == 2
    assert suite.looks(0) == {"reader": 5} and len(reader.asked) == 5


def test_items_of_equal_text_are_drawn_and_scored_each(tmp_path: Path) -> None:
    """The published file has such a pair under `midjourney`; which of two is scored must not decide the mean."""
    again = ["whoops_9,A purple cube on a table.,cube,1,0,entity,whole,entity - whole (cube),Is there a purple cube?"]
    reader = Answerer(lambda question: "no" if "Is there a cube" in question.text else "yes")
    suite = DSG(file_of(tmp_path, [HEAD, *ROWS, *again]), reader)
    rows = measure(suite).rows
    assert rows["whoops"].of == 2 and rows["whoops"].value == pytest.approx((1 / 4 + 1) / 2)
    assert len(suite.requests(Offered(size_px=8))) == 3 and suite.looks(0) == {"reader": 6}
    alone = DSG(file_of(tmp_path, [HEAD, *ROWS]), reader)
    assert set(alone.asked_prompts()) < set(suite.asked_prompts()), "what comes once keeps its images"


def test_a_judge_that_only_checks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"only checks images against texts, and DSG asks"):
        DSG(file_of(tmp_path, [HEAD, *ROWS]), Checker(lambda _: True)).verify()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["item_id,text", "a,b"], "line 1 lacks the columns proposition_id, dependency"),
        ([HEAD, ROWS[0], "whoops_5,x,y,2,9,attribute,color,t,Is it?"], "line 3 depends on '9'"),
        ([HEAD, "whoops_5,x,y,2,0,attribute,color,t,"], "line 2 has nothing under question_natural_language"),
        ([HEAD], "line 2 is missing"),
        ([HEAD, '"whoops_5'], "line 2 is no CSV"),
    ],
)
def test_a_file_of_another_form_is_refused_by_its_line(tmp_path: Path, rows: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=f"is no file of DSG: {said}"):
        DSG(file_of(tmp_path, rows), Answerer(lambda _: "yes")).verify()
