"""Questions about a folder of subjects: DreamBench's layout, and one sentence for each file that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evolvedirector.configs
from evolvedirector.errors import UserError
from evolvedirector.pairs import BorderMask, RawPatches
from evolvedirector.pairs.evaluation import FolderQuestions, SubjectSuite
from evolvedirector.pairs.evaluation.questions import COPY, PASTED
from evolvedirector.pairs.pictures import pixels_of

SHIPPED = evolvedirector.configs.path() / "prompts" / "subjects.jsonl"


def picture(path: Path, blobs: int = 1, alpha: bool = True, side: int = 48) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[..., :3] = 240
    for number in range(blobs):
        left = 4 + number * 24
        pixels[14:34, left : left + 16] = (200, 40 + 40 * number, 60, 255)
    Image.fromarray(pixels if alpha else pixels[..., :3]).save(path)


def folder(root: Path, subjects: int = 2, pictures: int = 2) -> str:
    for number in range(subjects):
        for place in range(pictures):
            picture(root / "subjects" / f"toy_dog{number}" / f"0{place}.png")
    return str(root / "subjects")


def asked(root: Path, **settings: object) -> FolderQuestions:
    given: dict[str, object] = {"prompts": str(SHIPPED), "image_size_px": 32}
    return FolderQuestions(str(root / "subjects"), **(given | settings))  # type: ignore[arg-type]


def test_thirty_subjects_meet_the_twenty_five_texts_that_are_shipped(tmp_path: Path) -> None:
    folder(tmp_path, subjects=31, pictures=1)
    questions = asked(tmp_path).questions()
    assert len(questions) == 30 * 25 == len({question.prompt.id for question in questions})
    assert {question.prompt.skill for question in questions} == {"place", "tint", "texture", "style"}
    assert all("toy dog" in q.prompt.text and "{" not in q.prompt.text for q in questions)


def test_references_are_the_first_pictures_and_the_ends_need_no_answer(tmp_path: Path) -> None:
    folder(tmp_path, subjects=1, pictures=5)
    (tmp_path / "subjects" / "toy_dog0" / "00.txt").write_text("corgi")
    questions = asked(tmp_path, references=4)
    question = questions.questions()[0]
    assert set(question.references) == {
        name for role in ("reference", "reference_2", "reference_3", "reference_4") for name in (role, f"{role}_mask")
    }
    assert "corgi" in question.prompt.text and question.box is None and question.edit is None
    assert set(question.ends) == {COPY, PASTED}
    assert all(pixels_of(end).shape == (32, 32, 3) for end in question.ends.values())
    assert questions.rivals(question) == []
    assert questions.files()[question.prompt.id] == question.references


def test_a_mask_stage_finds_what_no_file_tells(tmp_path: Path) -> None:
    picture(tmp_path / "subjects" / "dog" / "00.png", alpha=False)
    assert len(asked(tmp_path, mask=BorderMask(), most_prompts=2).questions()) == 2


def with_mask(path: Path, mask: np.ndarray) -> None:
    picture(path, alpha=False)
    Image.fromarray(mask).save(path.with_name(f"{path.stem}.mask.png"))


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no mask": (lambda path: picture(path, alpha=False), "has no mask of its subject"),
    "mask of another size": (lambda path: with_mask(path, np.full((20, 20), 255, np.uint8)), "both must have one size"),
    "empty mask": (lambda path: with_mask(path, np.zeros((48, 48), np.uint8)), "is empty"),
    "several subjects": (lambda path: picture(path, blobs=2), "shows several subjects"),
    "no picture": (lambda path: path.write_bytes(b"no png"), "cannot be read"),
}


@pytest.mark.parametrize("bad", BAD)
def test_files_that_cannot_be_used_are_told_in_one_sentence(tmp_path: Path, bad: str) -> None:
    make, says = BAD[bad]
    path = tmp_path / "subjects" / "dog" / "00.png"
    path.parent.mkdir(parents=True)
    make(path)
    with pytest.raises(UserError, match=says) as error:
        asked(tmp_path).verify()
    assert "dog/00" in str(error.value)


def test_settings_and_texts_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reads 1 to 4"):
        asked(tmp_path, references=5)
    with pytest.raises(UserError, match="most_prompts 0"):
        asked(tmp_path, most_prompts=0)
    folder(tmp_path, subjects=1)
    texts = tmp_path / "texts.txt"
    texts.write_text("a {subject} on the moon\na dog on the moon\n")
    with pytest.raises(UserError, match="0 times"):
        asked(tmp_path, prompts=str(texts)).verify()
    (tmp_path / "subjects" / "toy_dog0").rename(tmp_path / "flat")
    with pytest.raises(UserError, match="no folder with pictures"):
        FolderQuestions(str(tmp_path / "flat"), str(SHIPPED)).questions()


def test_a_suite_has_its_questions_check_their_files_and_who_finds_outlines(tmp_path: Path) -> None:
    class Missing(BorderMask):
        def verify(self) -> None:
            raise UserError("The model is not here.")

    folder(tmp_path, subjects=1)
    with pytest.raises(UserError, match="The model is not here"):
        SubjectSuite(asked(tmp_path, mask=Missing()), RawPatches(8), BorderMask()).verify()
    picture(tmp_path / "subjects" / "toy_dog0" / "00.mask.jpg", alpha=False)
    with pytest.raises(UserError, match=r"The mask '00\.mask\.jpg' belongs to no picture"):
        SubjectSuite(asked(tmp_path), RawPatches(8), BorderMask()).verify()
