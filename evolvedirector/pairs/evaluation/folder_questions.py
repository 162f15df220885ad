"""Questions about subjects of a folder, in the layout of DreamBench: a folder of pictures each, and a file of texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from evolvedirector.errors import UserError
from evolvedirector.pairs.evaluation.questions import COPY, PASTED, SubjectQuestion, prompt_about
from evolvedirector.pairs.folder_subjects import FolderSubjects
from evolvedirector.pairs.masks import mask_problem, several_subjects
from evolvedirector.pairs.pair_records import IMAGE, MASK, REFERENCE, REFERENCE_MASK, PairRequest, Subject
from evolvedirector.pairs.pictures import cut_square, mask_file, mask_of, picture_file, pixels_of, square_around
from evolvedirector.pairs.stages import MaskStage
from evolvedirector.records import FileRef, Prompt, digest, seed_of
from evolvedirector.records.part import close_parts, verify_parts
from evolvedirector.records.subject_roles import REFERENCES
from evolvedirector.records.subject_roles import mask_of as mask_role_of
from evolvedirector.store.prompt_files import read_prompt_file

SUBJECT = "{subject}"
"""Stands in a text where the word for the subject goes."""
_GROUND = 128
_PASTED = 0.6
"""Side of a cut-out that is pasted without being asked where, of the picture."""


class FolderQuestions:
    """Ask each text of a file about each subject of a folder: DreamBench's protocol (Ruiz et al. 2023, 2208.12242).

    A subject is a folder of its pictures, `subjects/dog2/00.jpg`; its word is in `00.txt`, or is the folder's name
    without digits and underscores. A text has `{subject}` where the word goes. The outline of a subject is the alpha of
    its picture or `00.mask.png`, else the mask stage finds it when the run is set up. Nothing is known of exact
    answers, so that the ends are a copy of the reference and its cut-out, pasted.
    """

    def __init__(
        self,
        folder: str,
        prompts: str,
        mask: MaskStage | None = None,
        references: int = 1,
        most_subjects: int | None = 30,
        most_prompts: int | None = 25,
        image_size_px: int = 512,
        several_share: float | None = 0.5,
    ) -> None:
        """Name the files.

        Args:
            folder: With a folder for each subject.
            prompts: Texts, as in every prompt file; a `skill` there gives a row of its own.
            mask: Finds outlines that no file gives. None: every picture must have one.
            references: How many pictures of a subject the model reads, the first by name, 1 to 4.
            most_subjects: The first so many by name. None: all.
            most_prompts: The first so many. None: all.
            image_size_px: Side of all pictures.
            several_share: An outline whose second area has at least this share of its largest shows several subjects,
                and is refused. None: not looked at.

        Raises:
            UserError: A number is out of range.
        """
        if not 1 <= references <= len(REFERENCES):
            raise UserError(
                f"references is {references}, and a model reads 1 to {len(REFERENCES)} of a subject. Allowed are the"
                " first so many of its pictures by name. Write `references: 4`, say."
            )
        limits = [limit for limit in (most_subjects, most_prompts) if limit is not None]
        if min(limits, default=1) < 1 or not 16 <= image_size_px <= 4096:
            raise UserError(
                f"most_subjects is {most_subjects}, most_prompts {most_prompts} and image_size_px {image_size_px}."
                " Allowed are 1 or more, or null, and a side of 16 to 4096. Write `image_size_px: 512`, say."
            )
        self.folder, self.prompt_file, self.mask, self.references = folder, prompts, mask, references
        self.most_subjects, self.most_prompts = most_subjects, most_prompts
        self.image_size_px, self.several_share = image_size_px, several_share
        self._source = FolderSubjects(folder)

    @property
    def fingerprint(self) -> str:
        """Name pictures, texts and who finds outlines."""
        texts = [prompt.text for prompt in self._texts]
        finder = "" if self.mask is None else self.mask.fingerprint
        numbers = (self.references, self.most_subjects or 0, self.image_size_px)
        return f"folder questions 1 {self._source.fingerprint} {digest(*numbers, finder, *texts)}"

    def verify(self) -> None:
        """Read all files.

        Raises:
            UserError: One cannot be used.
        """
        self._source.verify()
        verify_parts(self.mask)
        self.questions()

    def questions(self) -> Sequence[SubjectQuestion]:
        """List them, subject by subject."""
        return self._questions

    def prompts(self) -> Sequence[Prompt]:
        """List their texts."""
        return [question.prompt for question in self._questions]

    def files(self) -> Mapping[str, Mapping[str, FileRef]]:
        """Return the references of each prompt, by its id."""
        return {question.prompt.id: question.references for question in self._questions}

    def rivals(self, question: SubjectQuestion) -> Sequence[np.ndarray]:
        """Return nothing: no exact answer is known."""
        return []

    @cached_property
    def _texts(self) -> list[Prompt]:
        texts = read_prompt_file(self.prompt_file)[: self.most_prompts]
        for prompt in texts:
            if prompt.text.count(SUBJECT) != 1:
                raise UserError(
                    f"The text {prompt.text!r} of '{self.prompt_file}' has {SUBJECT} {prompt.text.count(SUBJECT)}"
                    f" times. Allowed is once: there goes the word for the subject. Write `a {SUBJECT} on the beach`,"
                    " say."
                )
        return texts

    @cached_property
    def _questions(self) -> list[SubjectQuestion]:
        by_folder: dict[str, list[Subject]] = {}
        for subject in self._source.subjects():
            by_folder.setdefault(Path(subject.name).parent.as_posix(), []).append(subject)
        if not by_folder or list(by_folder) == ["."]:
            raise UserError(
                f"The folder '{self.folder}' has no folder with pictures. Allowed is a folder for each subject. Write"
                " such as 'subjects/dog/00.jpg'."
            )
        found = []
        try:
            for name, pictures in list(by_folder.items())[: self.most_subjects]:
                found += self._about(name, pictures[: self.references])
        finally:
            close_parts(self.mask)
        return found

    def _about(self, name: str, pictures: Sequence[Subject]) -> list[SubjectQuestion]:
        read = [self._loaded(picture) for picture in pictures]
        references: dict[str, FileRef] = {}
        for role, (pixels, mask) in zip(REFERENCES, read, strict=False):
            references |= {role: picture_file(pixels), mask_role_of(role): mask_file(mask)}
        subject = replace(pictures[0], name=name, category=_word(pictures[0], name), group=name)
        ends = {
            COPY: picture_file(_scaled(read[0][0], self.image_size_px)),
            PASTED: picture_file(self._pasted(*read[0])),
        }
        files = {role: references[role] for role in (REFERENCE, REFERENCE_MASK)}
        asked = []
        for text in self._texts:
            written = text.text.replace(SUBJECT, subject.category)
            prompt = prompt_about(subject, written, text.skill, self.image_size_px)
            size = (self.image_size_px,) * 2
            about = PairRequest(prompt.id, subject, seed_of("question", prompt.id), *size, None, written, {}, files)
            asked.append(SubjectQuestion(prompt, about, references, ends=ends))
        return asked

    def _loaded(self, subject: Subject) -> tuple[np.ndarray, np.ndarray]:
        """Return picture and outline, cut to a square.

        Raises:
            UserError: There is none, or it cannot be used.
        """
        request = PairRequest(subject.name, subject, 0, self.image_size_px, self.image_size_px)
        (reply,) = self._source.load([request])
        if reply.status == "done" and REFERENCE_MASK not in reply.files:
            if self.mask is None:
                raise UserError(
                    f"The picture '{subject.name}' has no mask of its subject, and no mask stage is named. Allowed are"
                    f" alpha or '{Path(subject.name).stem}.mask.png' beside it. Give one, or write `mask:"
                    " {class_path: evolvedirector.pairs.TransformersMask, init_args: {model: ...}}`."
                )
            (masked,) = self.mask.mask([replace(request, files={IMAGE: reply.files[REFERENCE]})])
            if masked.status == "done":
                reply = replace(reply, files={**reply.files, REFERENCE_MASK: masked.files[MASK]})
            else:
                reply = masked
        if reply.status != "done":
            raise UserError(f"{reply.reason.rstrip('.')}. Allowed are pictures with one subject. Mend or remove it.")
        pixels, mask = pixels_of(reply.files[REFERENCE]), mask_of(reply.files[REFERENCE_MASK])
        problem = mask_problem(mask, pixels, f"'{subject.name}'")
        if not problem and self.several_share is not None and several_subjects(mask, self.several_share):
            problem = f"The picture '{subject.name}' shows several subjects"
        if problem:
            raise UserError(f"{problem.rstrip('.')}. Allowed are pictures with one subject. Mend or remove it.")
        return square_around(pixels, mask)

    def _pasted(self, pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Put the cut-out into the middle of a grey picture."""
        side = round(_PASTED * self.image_size_px)
        picture = np.full((self.image_size_px, self.image_size_px, 3), _GROUND, np.uint8)
        start = (self.image_size_px - side) // 2
        picture[start : start + side, start : start + side] = cut_square(pixels, mask, side, _GROUND)[0]
        return picture


def _word(picture: Subject, folder: str) -> str:
    """Return what a text calls a subject: what a file says, else the folder's name without digits."""
    name = Path(folder).name.replace("_", " ")
    if picture.category != name:
        return picture.category
    return " ".join(re.sub(r"\d+", " ", name).split()) or name


def _scaled(pixels: np.ndarray, side_px: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.LANCZOS))
