"""The suite of subjects on pictures whose figures are known: exact answers, copies, blanks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evolvedirector.errors import UserError
from evolvedirector.evaluation.suite import ChoosesFiles, Drawn, Offered, Outcome, ReadsEdits, Sitting, Suite
from evolvedirector.pairs import BorderMask, DrawnReader, RawPatches
from evolvedirector.pairs.evaluation import DrawnQuestions, SubjectSuite
from evolvedirector.pairs.evaluation.questions import COPY, TARGET, UNTOUCHED, SubjectQuestion
from evolvedirector.pairs.evaluation.subject_suite import BOX, EDIT, PICTURES, TEXT_ONLY, WORDS
from evolvedirector.pairs.pair_records import PairReply, PairRequest
from evolvedirector.pairs.pictures import picture_file
from evolvedirector.records import ImageRequest
from evolvedirector.worlds.shapes.cut_outs import ShapeCutOuts

WORLD = ShapeCutOuts()
BLANK = picture_file(np.full((32, 32, 3), 200, np.uint8)).content or b""


class CountingReader(DrawnReader):
    """Count what is read."""

    def __init__(self) -> None:
        super().__init__(WORLD, RawPatches(8), learned=6, side_px=32)
        self.looks = 0

    def read(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        self.looks += len(requests)
        yield from super().read(requests)


def suite_of(images_per_prompt: int = 1, **settings: object) -> SubjectSuite:
    given: dict[str, object] = {"subjects": 4, "image_size_px": 32, "nearest_among": 10}
    questions = DrawnQuestions(WORLD, **(given | settings))  # type: ignore[arg-type]
    return SubjectSuite(questions, RawPatches(8), BorderMask(), CountingReader(), None, images_per_prompt, side_px=32)


def way_of(request: ImageRequest) -> str:
    """Tell how a request asks, by its files."""
    if "source" in request.files:
        return EDIT
    return TEXT_ONLY if not request.files else BOX if "subject_box" in request.files else WORDS


def answer(question: SubjectQuestion, way: str) -> bytes:
    """Draw as a model would that is perfect with a box, copies without, and leaves edits alone."""
    end = {BOX: TARGET, WORDS: COPY, EDIT: UNTOUCHED}.get(way)
    return BLANK if end is None else question.ends[end].content or b""


def measured(suite: SubjectSuite, folder: Path, errors: float | None = None) -> Outcome:
    offered = Offered((), (), 32)
    asked = suite.requests(offered)
    questions = {question.prompt.id: question for question in suite.questions.questions()}
    drawn = [Drawn(k, prompt, answer(questions[prompt.id], way_of(r))) for k, (r, prompt) in asked.items()]
    sitting = Sitting(asked, offered, folder)
    if errors is not None:
        edits = [key for key, (request, _) in asked.items() if way_of(request) == EDIT]
        sitting = replace(sitting, errors_outside=dict.fromkeys(edits, errors))
    return suite.figures(suite.read(drawn, sitting), sitting)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return measured(suite_of(), tmp_path_factory.mktemp("subjects"), errors=7.5)


def test_each_text_is_asked_in_four_ways_from_one_seed() -> None:
    suite = suite_of()
    assert isinstance(suite, Suite) and isinstance(suite, ChoosesFiles) and isinstance(suite, ReadsEdits)
    by_prompt: dict[str, list[ImageRequest]] = {}
    for request, prompt in suite.requests(Offered()).values():
        by_prompt.setdefault(prompt.id, []).append(request)
    for requests in by_prompt.values():
        assert sorted(map(way_of, requests)) == sorted([WORDS, BOX, TEXT_ONLY, EDIT])
        assert len({request.seed for request in requests}) == 1
    assert len(by_prompt) == len(suite.prompts(Offered()))


def test_a_perfect_answer_is_the_upper_end_and_a_copy_is_none(outcome: Outcome) -> None:
    rows = outcome.rows
    for figure in ("all", "identity", "to target", "retrieval", "retrieval by features"):
        assert rows[f"{BOX}, {figure}"] == rows[f"{TARGET}, {figure}"]
        assert rows[f"{WORDS}, {figure}"] == rows[f"{COPY}, {figure}"]
        assert rows[f"{EDIT}, {figure}"] == rows[f"{UNTOUCHED}, {figure}"]
    assert rows[f"{BOX}, to target"].value == pytest.approx(1) and rows[f"{BOX}, retrieval"].value == 1
    assert rows[f"{BOX}, way to target"].value == pytest.approx(1)
    assert rows[f"{COPY}, identity"].value > rows[f"{TARGET}, identity"].value  # type: ignore[operator]
    assert rows[f"{COPY}, all"].value < 0.2 < 0.8 < rows[f"{TARGET}, all"].value  # type: ignore[operator]
    assert rows[f"{EDIT}, error outside"].value == 7.5 and rows[f"{EDIT}, left outside"].value == 0


def test_a_picture_without_a_subject_is_wrong_and_like_nothing(outcome: Outcome) -> None:
    rows = outcome.rows
    assert [rows[f"{TEXT_ONLY}, {name}"].value for name in ("all", "identity", "to target")] == [0, 0, 0]


def test_kinds_apart_have_rows_and_count_in_no_mean(outcome: Outcome) -> None:
    counted = [q for q in suite_of().questions.questions() if q.prompt.skill != "style"]
    assert outcome.rows[f"{BOX}, all"].of == len(counted)
    assert outcome.rows[f"{BOX}, all (style)"].of == 4
    assert outcome.summary[PICTURES]["apart"] == ["style"]


def test_ends_are_read_once_and_pictures_kept_for_the_report(tmp_path: Path) -> None:
    suite = suite_of(subjects=2)
    reader = suite.measures.reader
    assert isinstance(reader, CountingReader)
    shown = measured(suite, tmp_path).summary[PICTURES]["shown"]
    first = reader.looks
    assert first <= suite.looks(0)["reader"]
    measured(suite, tmp_path)
    assert reader.looks - first < first / 2
    assert {row["kind"] for row in shown} == {"place", "tint", "texture", "style"}
    for row in shown:
        assert {"reference", TARGET, WORDS, BOX, EDIT, TEXT_ONLY} <= set(row["pictures"])
        assert all((tmp_path / PICTURES / f"{name}.png").is_file() for name in row["pictures"].values())


def test_equal_pictures_of_one_text_have_no_diversity(tmp_path: Path) -> None:
    rows = measured(suite_of(images_per_prompt=2, kinds=["tint"]), tmp_path).rows
    assert rows[f"{BOX}, diversity"].value == pytest.approx(0, abs=1e-6)
    assert f"{TARGET}, diversity" not in rows


def test_a_suite_without_questions_or_of_small_squares_is_refused() -> None:
    class Nothing(DrawnQuestions):
        def questions(self) -> list[SubjectQuestion]:
            return []

    with pytest.raises(UserError, match="no question"):
        SubjectSuite(Nothing(WORLD), RawPatches(8), BorderMask()).verify()
    with pytest.raises(UserError, match="side_px is 8"):
        SubjectSuite(DrawnQuestions(WORLD), RawPatches(8), BorderMask(), side_px=8)
