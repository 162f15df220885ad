import json
from pathlib import Path

import pytest

from evolvedirector.evaluation import TeacherImages
from evolvedirector.records import ImageReply, ImageRequest
from tests import toys

REQUESTS = [ImageRequest(f"r{tone}", f"tone {tone}", 7, 8, 8) for tone in (10, 20, 30)]


class Flaky(toys.ToyTeacher):
    """Fails at first."""

    def generate(self, requests):
        for request in requests:
            first = request.prompt not in self.asked
            self.asked.append(request.prompt)
            yield ImageReply(
                request.request_id,
                "failure" if first else "image",
                None if first else toys.flat_png(toys.tone_of(request.prompt)),
                cost_usd=0.5,
            )


def test_an_image_is_asked_for_once_per_folder(tmp_path: Path) -> None:
    teacher = toys.ToyTeacher(cost_usd=0.25)
    for _ in range(2):
        kept = TeacherImages(tmp_path)
        kept.buy(teacher, REQUESTS)
        assert kept.kept(teacher, REQUESTS) == {r.request_id: toys.flat_png(toys.tone_of(r.prompt)) for r in REQUESTS}
    assert len(teacher.asked) == 3
    assert kept.spent() == (3, 0.75)
    assert kept.kept(toys.ToyTeacher("other"), REQUESTS) == {}, "another teacher's images are not its own"


def test_a_refusal_is_kept_and_not_asked_again(tmp_path: Path) -> None:
    teacher = toys.ToyTeacher(refuses=True)
    for _ in range(2):
        TeacherImages(tmp_path).buy(teacher, REQUESTS)
    assert len(teacher.asked) == 3
    assert TeacherImages(tmp_path).outcomes(teacher, REQUESTS)["refusal"] == 3


def test_what_another_folder_has_is_taken_and_counted_there(tmp_path: Path) -> None:
    teacher, stubborn, flaky = toys.ToyTeacher(), toys.ToyTeacher("stubborn", refuses=True), Flaky("flaky")
    first = TeacherImages(tmp_path)
    first.buy(teacher, REQUESTS[:1])
    first.buy(stubborn, REQUESTS[:1])
    first.buy(flaky, REQUESTS[:1])
    before = sorted(path.name for path in tmp_path.rglob("*"))
    second = TeacherImages(tmp_path.parent / "second", 4, first)
    for asked in (teacher, stubborn, flaky):
        second.buy(asked, REQUESTS[:2])
    assert [len(asked.asked) for asked in (teacher, stubborn, flaky)] == [2, 2, 3]
    assert (first.spent()[0], second.spent()[0]) == (3, 4)
    assert len(second.kept(teacher, REQUESTS)) == 2
    assert second.outcomes(stubborn, REQUESTS) == {"image": 0, "refusal": 2, "failure": 0, "not asked": 1}
    assert second.outcomes(flaky, REQUESTS) == {"image": 1, "refusal": 0, "failure": 1, "not asked": 1}
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_failure_is_asked_again_and_counted_twice(tmp_path: Path) -> None:
    teacher, kept = Flaky(), TeacherImages(tmp_path)
    kept.buy(teacher, REQUESTS)
    assert kept.kept(teacher, REQUESTS) == {} and kept.outcomes(teacher, REQUESTS)["failure"] == 3
    kept.buy(teacher, REQUESTS)
    assert len(kept.kept(teacher, REQUESTS)) == 3
    assert kept.spent() == (6, 3.0)


def test_the_limit_holds_across_runs(tmp_path: Path) -> None:
    teacher = toys.ToyTeacher()
    for _ in range(2):
        kept = TeacherImages(tmp_path, budget_teacher_calls=2)
        kept.buy(teacher, REQUESTS)
    assert teacher.asked == ["tone 10", "tone 20"]
    assert kept.outcomes(teacher, REQUESTS) == {"image": 2, "refusal": 0, "failure": 0, "not asked": 1}


def test_a_kill_before_the_answer_costs_a_call_all_the_same(tmp_path: Path) -> None:
    class Dies(toys.ToyTeacher):
        def generate(self, requests):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TeacherImages(tmp_path).buy(Dies(), REQUESTS)
    kept = TeacherImages(tmp_path, budget_teacher_calls=4)
    kept.buy(toys.ToyTeacher(), REQUESTS)
    assert kept.spent()[0] == 4 and len(kept.kept(toys.ToyTeacher(), REQUESTS)) == 1


def test_a_teacher_that_breaks_at_once_is_charged_for_a_few_questions_only(tmp_path: Path) -> None:
    class Breaks(toys.ToyTeacher):
        def generate(self, requests):
            self.asked += requests
            raise OSError("no connection")

    many, teacher, kept = (
        [ImageRequest(f"r{n}", f"tone {n}", 7, 8, 8) for n in range(40)],
        Breaks(),
        TeacherImages(tmp_path),
    )
    with pytest.raises(OSError, match="no connection"):
        kept.buy(teacher, many)
    assert kept.spent()[0] == len(teacher.asked) <= 8
    kept.buy(toys.ToyTeacher(), many)
    assert len(kept.kept(toys.ToyTeacher(), many)) == 40


def test_a_damaged_image_is_not_taken_for_the_teachers(tmp_path: Path) -> None:
    teacher, kept = toys.ToyTeacher(), TeacherImages(tmp_path)
    kept.buy(teacher, REQUESTS[:1])
    (path,) = tmp_path.glob("blobs/*/*.png")
    path.write_bytes(toys.flat_png(200))
    assert kept.kept(teacher, REQUESTS[:1]) == {}
    kept.buy(teacher, REQUESTS[:1])
    assert kept.kept(teacher, REQUESTS[:1]) == {"r10": toys.flat_png(10)}


@pytest.mark.parametrize("text", ["", "[]", '{"status": "image"}', "x" * 70_000])
def test_a_damaged_record_is_not_read(tmp_path: Path, text: str) -> None:
    teacher, kept = toys.ToyTeacher(), TeacherImages(tmp_path)
    kept.buy(teacher, REQUESTS[:1])
    (path,) = tmp_path.glob("answers/*.json")
    path.write_text(text)
    assert kept.kept(teacher, REQUESTS[:1]) == {}


def test_a_record_names_no_file_outside(tmp_path: Path) -> None:
    teacher, kept = toys.ToyTeacher(), TeacherImages(tmp_path / "in")
    kept.buy(teacher, REQUESTS[:1])
    (path,) = tmp_path.glob("in/answers/*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_sha256": "../../secret"}))
    assert kept.kept(teacher, REQUESTS[:1]) == {}


def test_what_is_no_image_is_a_failure(tmp_path: Path) -> None:
    class Garbled(toys.ToyTeacher):
        def generate(self, requests):
            yield ImageReply(requests[0].request_id, "image", b"no picture")
            yield ImageReply("never asked", "image", toys.flat_png(1))

    kept = TeacherImages(tmp_path)
    kept.buy(Garbled(), REQUESTS[:1])
    assert kept.outcomes(Garbled(), REQUESTS[:1])["failure"] == 1


def test_a_try_that_came_to_nothing_for_good_is_followed_by_new_work(tmp_path: Path) -> None:
    keys: list[str] = []

    class Damaged(toys.ToyTeacher):
        def generate(self, requests):
            keys.extend(request.idempotency_key for request in requests)
            for reply in super().generate(requests):
                yield ImageReply(reply.request_id, "image", b"<html>") if len(keys) == 1 else reply

    for _ in range(2):
        TeacherImages(tmp_path).buy(Damaged(), REQUESTS[:1])
    assert keys == ["r10", "r10-1"]
