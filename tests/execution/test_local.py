"""All the work in one process: units, phases and their tenants, cancellation, and parts that cross to another."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.round_parts import tenants_of
from evolvedirector.execution.executor import Executor, InStep
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.records import ImageAndPrompt, ImageReply, ImageRequest, Score
from evolvedirector.records.part import Part
from tests.toys import ToyJudge, ToyTeacher, ToyWriter, flat_png, tone_of


def draw(requests: Sequence[ImageRequest]) -> list[bytes]:
    return [flat_png(tone_of(request.prompt)) for request in requests]


class Closing(ToyTeacher):
    """Counts how often it let go."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


class ClosingJudge(ToyJudge):
    closed = 0

    def close(self) -> None:
        self.closed += 1


class Brightness:
    """A reward: how bright an image is."""

    fingerprint = "brightness"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        return (Score(item.item_id, float(len(item.image))) for item in items)


class Cast:
    def __init__(self, chunk: int = 2, unit: int = 8) -> None:
        self.drawn: list[int] = []
        self.moves: list[bool] = []
        self.student = StudentPart(self.draw, chunk=chunk)
        self.one, self.two, self.judge = Closing("one"), Closing("two"), ClosingJudge()
        self.reward = Brightness()
        tenants = tenants_of(
            self.student, {"one": self.one, "two": self.two}, self.judge, ToyWriter(), {"bright": self.reward}
        )
        self.executor = LocalExecutor(tenants, self.moves.append, unit)

    def draw(self, requests: Sequence[ImageRequest]) -> list[bytes]:
        self.drawn.append(len(requests))
        return draw(requests)


def requests(*tones: int) -> list[ImageRequest]:
    return [ImageRequest(f"r{tone}", f"tone {tone}", 0, 8, 8) for tone in tones]


def test_it_is_an_executor_and_the_student_a_part_that_goes_in_step() -> None:
    cast = Cast()
    executor: Executor = cast.executor
    assert executor.unit_of(cast.judge) == 8
    assert isinstance(cast.student, Part) and isinstance(cast.student, InStep) and not isinstance(cast.one, InStep)


def test_a_student_draws_whole_chunks_padded_by_repetition() -> None:
    cast = Cast(chunk=4)
    replies = list(cast.executor.ask(cast.student, "generate", requests(1, 2, 3, 4, 5)))
    assert [reply.image for reply in replies] == [flat_png(tone) for tone in (1, 2, 3, 4, 5)]
    assert cast.drawn == [8]
    assert list(cast.executor.ask(cast.student, "generate", [])) == []
    assert Cast(chunk=3, unit=8).executor.unit_of(StudentPart(draw, chunk=3)) == 9


def test_a_service_gets_as_much_as_it_wants_at_once() -> None:
    class Service(ToyTeacher):
        requests_in_flight = 40

    assert Cast().executor.unit_of(Service()) == 40


def test_a_phase_has_one_tenant_at_a_time_and_the_student_makes_room() -> None:
    cast = Cast()
    list(cast.executor.ask(cast.one, "generate", requests(1)))
    assert (cast.one.closed, cast.two.closed, cast.judge.closed, cast.moves) == (0, 1, 1, [True])
    list(cast.executor.ask(cast.two, "generate", requests(1)))
    assert (cast.one.closed, cast.two.closed) == (1, 1)
    list(cast.executor.ask(cast.judge, "check", []))
    assert (cast.one.closed, cast.two.closed, cast.judge.closed) == (2, 2, 1)
    cast.executor.enter("train")
    assert cast.judge.closed == 2 and cast.moves == [True, False]


def test_closing_the_replies_cancels_what_has_not_begun() -> None:
    cast = Cast()
    replies = cast.executor.ask(cast.one, "generate", requests(1, 2, 3))
    next(replies)
    replies.close()  # type: ignore[attr-defined]
    assert cast.one.asked == ["tone 1"]


def test_a_part_of_nobody_is_told_so() -> None:
    with pytest.raises(ValueError, match=r"ToyTeacher takes no part in this round\. Allowed are write writer,"):
        list(Cast().executor.ask(ToyTeacher("stranger"), "generate", requests(1)))


class SpawnedExecutor:
    """A toy of what a cluster does: parts cross pickled, unloaded, and are asked on the other side."""

    def __init__(self) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(1)

    def ask(self, part: Any, method: str, requests: Sequence[Any]) -> Iterator[Any]:
        yield from self._pool.apply(_ask, (pickle.dumps(part), method, list(requests)))

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


def _ask(part: bytes, method: str, requests: list[Any]) -> list[Any]:
    return list(getattr(pickle.loads(part), method)(requests))


def shipped_parts() -> list[tuple[Any, str, list[Any]]]:
    """Parts that work without a download, each with something to ask it."""
    from evolvedirector.judges.calibrated_judge import CalibratedJudge
    from evolvedirector.judges.panel_judge import PanelJudge
    from evolvedirector.records import WriteRequest
    from evolvedirector.worlds.shapes import MiniatureJudge, MiniatureTeacher, MiniatureWriter

    drawn = [ImageRequest("r", "a red circle", 0, 32, 32)]
    checks = [ImageAndPrompt("c", flat_png(200, 32), "a red circle")]
    writes = [WriteRequest("w", "mutation", None, None, 2, 0)]
    return [
        (MiniatureTeacher(), "generate", drawn),
        (MiniatureJudge(), "check", checks),
        (PanelJudge({"one": MiniatureJudge(), "two": MiniatureJudge()}), "check", checks),
        (CalibratedJudge(MiniatureJudge()), "check", checks),
        (MiniatureWriter(), "write", writes),
        (ToyTeacher(), "generate", requests(7)),
        (ToyJudge(), "check", [ImageAndPrompt("c", flat_png(7), "tone 7")]),
        (ToyWriter(), "write", writes),
        (Brightness(), "score", [ImageAndPrompt("s", flat_png(7), "tone 7")]),
        (StudentPart(draw, "step 3"), "generate", requests(7)),
    ]


@pytest.mark.slow
def test_every_part_answers_the_same_on_the_other_side() -> None:
    executor = SpawnedExecutor()
    try:
        for part, method, asked in shipped_parts():
            there = list(executor.ask(part, method, asked))
            assert there == list(getattr(part, method)(asked)) and len(there) == len(asked), type(part).__name__
            assert pickle.loads(pickle.dumps(part)).fingerprint == part.fingerprint
    finally:
        executor.close()


def unloaded_parts() -> list[Any]:
    """Parts that need a model or a service: nothing is loaded or opened before the first question."""
    from evolvedirector.judges import OpenAIVisionJudge, TransformersJudge
    from evolvedirector.rewards import CLIPScore
    from evolvedirector.teachers import DiffusersTeacher, OpenAIImagesTeacher
    from evolvedirector.transport.endpoint import Endpoint
    from evolvedirector.writers import OpenAIChatWriter, TransformersWriter

    endpoint = Endpoint("http://127.0.0.1:1/v1")
    return [
        OpenAIVisionJudge(endpoint, "m"),
        TransformersJudge("nobody/none"),
        CLIPScore("nobody/none"),
        DiffusersTeacher("nobody/none"),
        OpenAIImagesTeacher(endpoint, "m"),
        OpenAIChatWriter(endpoint, "m"),
        TransformersWriter("nobody/none"),
    ]


def test_parts_that_load_or_connect_cross_as_class_path_and_arguments() -> None:
    for part in unloaded_parts():
        assert type(pickle.loads(pickle.dumps(part))) is type(part)


def test_replies_cross_too() -> None:
    reply = ImageReply("r", "image", flat_png(1))
    assert pickle.loads(pickle.dumps(reply)) == reply
