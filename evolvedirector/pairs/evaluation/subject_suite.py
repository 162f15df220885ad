"""How well a model draws given subjects, always beside the ends: what could be had without such a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.evaluation.kept_pictures import keep_picture
from evolvedirector.evaluation.prompt_choice import refuse_below
from evolvedirector.evaluation.suite import Asked, Drawn, Figure, Offered, Outcome, Readings, Sitting
from evolvedirector.pairs.change_reader import ChangeReader
from evolvedirector.pairs.evaluation.measures import (
    ALL,
    DIVERSITY,
    ERROR_OUTSIDE,
    FOUND,
    FOUND_BY_FEATURES,
    IDENTITY,
    LEFT_OUTSIDE,
    RIGHT_FROM,
    TEXT,
    TO_TARGET,
    Seen,
    SubjectMeasures,
    left_outside,
    spread,
)
from evolvedirector.pairs.evaluation.questions import (
    COPY,
    NEAREST,
    PASTED,
    TARGET,
    UNTOUCHED,
    SubjectQuestion,
    SubjectQuestions,
)
from evolvedirector.pairs.pair_records import MASK, REFERENCE, SOURCE
from evolvedirector.pairs.patch_encoder import PatchEncoder
from evolvedirector.pairs.pictures import pixels_of
from evolvedirector.pairs.stages import MaskStage
from evolvedirector.records import FileRef, ImageRequest, Prompt, digest, seed_of
from evolvedirector.records.part import Part, verify_parts
from evolvedirector.records.subject_roles import SUBJECT_BOX
from evolvedirector.rewards.reward import Reward

WORDS, BOX, TEXT_ONLY, EDIT = "place from words", "box given", "text only", "edit"
"""What the model draws: W, B, with the null reference, and with source and mask."""
ARMS = (WORDS, BOX, EDIT, TEXT_ONLY, TARGET, COPY, PASTED, NEAREST, UNTOUCHED)
FIGURES = (
    ALL,
    TEXT,
    IDENTITY,
    TO_TARGET,
    FOUND,
    FOUND_BY_FEATURES,
    DIVERSITY,
    ERROR_OUTSIDE,
    LEFT_OUTSIDE,
)
PICTURES = "subjects"
"""Folder of the kept pictures, below that of the evaluation; also the key of `summary.json`."""
SHOWN = 8
"""Questions whose pictures are kept."""


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """One picture that the model draws, and what it answers."""

    question: SubjectQuestion
    arm: str
    request: ImageRequest


class SubjectSuite:
    """Draw subjects that were held out, and set the pictures beside their ends.

    Each text is drawn with its references, the place read from the words (`place from words`) and with the box of the
    exact target (`box given`), with the null reference (`text only`), and as an edit. Beside them, measured alike,
    stand the ends: the exact target (no model can do better), a copy of the reference (no upper end: a perfect answer
    is not like it), its cut-out pasted without the change, the training subject that is nearest, and the source of the
    edit untouched. Figures, each a mean over questions:

    - `all`: share whose change was made as asked. `text`: what a reward, or the reader, says of picture and text.
    - `identity`: cosine of patch features of the two cut-outs, picture and reference; `to target`: picture and exact
      target. Both are relative to an empty square.
    - `retrieval`: how often the exact target is nearer in pixels than that of any other subject; `retrieval by
      features`: how often its own reference is the nearest.
    - `diversity`: mean distance of pictures of one text, 1 - cosine; from two images per prompt on.
    - `error outside`: mean change outside of an edit's mask before it is composited, of 255; `left outside`: the
      largest one after.

    Example:
        ```yaml
        - class_path: evolvedirector.callbacks.EvaluationCallback
          init_args:
            suites:
              subjects:
                class_path: evolvedirector.pairs.evaluation.SubjectSuite
                init_args:
                  questions:
                    class_path: evolvedirector.pairs.evaluation.DrawnQuestions
                    init_args: {world: {class_path: evolvedirector.worlds.shapes.cut_outs.ShapeCutOuts}}
                  identity: {class_path: evolvedirector.pairs.RawPatches}
                  mask: {class_path: evolvedirector.pairs.BorderMask}
        ```

    Args:
        questions: What is asked.
        identity: Encoder of patches: DINO-type by name (`TransformersPatches`), or offline.
        mask: Finds the subject in a picture.
        reader: Who reads whether the change was made. None: `all` is not measured.
        text: How well picture and text fit: a CLIP by name (`CLIPScore`). None: what the reader says of it, if it does.
        images_per_prompt: Images of each text in each way; two or more show diversity.
        apart: Kinds that have rows of their own and count in no mean.
        right_from: Least score `change` that counts as made, by kind. None: those of `DrawnReader`, and .5 for other
            kinds.
        side_px: Side of the squares that are compared.
        seed: Root of the seeds of images.
        every_n_epochs: Epochs between further evaluations. None: only when training ends.

    Raises:
        UserError: A number out of range.
    """

    reads_alone = True
    chooses_files = True
    reads_edits = True

    def __init__(
        self,
        questions: SubjectQuestions,
        identity: PatchEncoder,
        mask: MaskStage,
        reader: ChangeReader | None = None,
        text: Reward | None = None,
        images_per_prompt: int = 1,
        apart: list[str] | None = None,
        right_from: dict[str, float] | None = None,
        side_px: int = 96,
        seed: int = 0,
        every_n_epochs: int | None = None,
    ) -> None:
        refuse_below(1, images_per_prompt=images_per_prompt, every_n_epochs=every_n_epochs)
        self.questions = questions
        self.measures = SubjectMeasures(
            identity, mask, reader, text, side_px, RIGHT_FROM if right_from is None else right_from
        )
        self.images_per_prompt = images_per_prompt
        self.apart = tuple(("style", "view") if apart is None else apart)
        self.seed = seed
        self.every_n_epochs = every_n_epochs
        self._ends: dict[str, dict[str, float]] = {}  # they are the same at every step

    @property
    def fingerprint(self) -> str:
        """Name questions, readers and rule."""
        parts = [part.fingerprint for part in (self.questions, *self.parts().values())]
        rule = sorted(self.measures.right_from.items())
        numbers = (self.images_per_prompt, self.measures.side_px, self.seed)
        return f"subjects-1/{digest(*parts, *self.apart, repr(rule), *numbers)}"

    def verify(self) -> None:
        """Read the files of the questions, and see that all who measure would work.

        Raises:
            UserError: With what is wrong and what to write.
        """
        self.measures.verify()
        verify_parts(self.questions)
        if not self.questions.questions():
            raise UserError(_NOTHING)

    def prompts(self, offered: Offered) -> Sequence[Prompt]:
        """List the texts."""
        return [question.prompt for question in self.questions.questions()]

    def requests(self, offered: Offered) -> Asked:
        """Ask for each text in each way; the same seeds in every way."""
        return {key: (one.request, one.question.prompt) for key, one in self._asked().items()}

    def read(self, drawn: Sequence[Drawn], sitting: Sitting) -> Readings:
        """Measure what was drawn, and the ends beside it."""
        asked = self._asked()
        files = {one.request_id: _file(one.image) for one in drawn}
        try:
            seen = [Seen(key, asked[key].question, file) for key, file in files.items()]
            found = self._measured(seen)
            for key, file in files.items():
                edit = asked[key].question.edit if asked[key].arm == EDIT else None
                if edit is not None:
                    found[key][LEFT_OUTSIDE] = left_outside(file, edit[SOURCE], edit[MASK])
                    if key in sitting.errors_outside:
                        found[key][ERROR_OUTSIDE] = sitting.errors_outside[key]
            self._add_diversity(found, asked, files)
            if not self._ends:
                ends = {
                    f"{question.prompt.id}/{name}": Seen(f"{question.prompt.id}/{name}", question, file)
                    for question in self.questions.questions()
                    for name, file in question.ends.items()
                }
                self._ends = self._measured(list(ends.values()))
        finally:
            self.measures.close()
        return {**found, **self._ends, PICTURES: self._kept(asked, files, sitting)}

    def figures(self, readings: Readings, sitting: Sitting) -> Outcome:
        """Return the figures by arm; kinds apart count in none."""
        asked = self._asked()
        questions = {question.prompt.id: question for question in self.questions.questions()}
        by_arm: dict[str, dict[str, list[Mapping[str, float]]]] = {}
        for key, row in readings.items():
            if key in asked:
                arm, prompt_id = asked[key].arm, asked[key].question.prompt.id
            elif "/" in key:
                prompt_id, _, arm = key.partition("/")
            else:
                continue
            by_arm.setdefault(arm, {}).setdefault(prompt_id, []).append(row)
        if not by_arm:
            return Outcome({})

        def table(belongs: Callable[[str], bool]) -> dict[str, dict[str, Figure]]:
            return {
                arm: figures
                for arm in ARMS
                if arm in by_arm
                and (figures := _figures([r for q, r in by_arm[arm].items() if belongs(questions[q].prompt.skill)]))
            }

        table_of_all = table(lambda kind: kind not in self.apart)
        kinds = list(dict.fromkeys(question.prompt.skill for question in questions.values()))
        by_kind = {kind: table(lambda of, kind=kind: of == kind) for kind in kinds}  # type: ignore[misc]
        rows = {f"{arm}, {name}": figure for arm, figures in table_of_all.items() for name, figure in figures.items()}
        rows |= {
            f"{arm}, {ALL} ({kind})": figures[ALL]
            for kind, arms in by_kind.items()
            for arm, figures in arms.items()
            if arm in (WORDS, BOX, EDIT) and ALL in figures and len(kinds) > 1
        }
        for arm in (BOX, WORDS):
            if (way := way_to_target(table_of_all, arm)) is not None:
                rows[f"{arm}, way to target"] = Figure(round(way, 6), None, table_of_all[arm][TO_TARGET].of)
        about = {
            "arms": _plain(table_of_all),
            "by_kind": {kind: _plain(arms) for kind, arms in by_kind.items()},
            "apart": [kind for kind in kinds if kind in self.apart],
            "subjects": len({question.about.subject.name for question in questions.values()}),
            "questions": len(questions),
            "shown": readings.get(PICTURES, []),
        }
        return Outcome(rows, {PICTURES: about})

    def parts(self) -> Mapping[str, Part]:
        """Name who measures."""
        return self.measures.parts()

    def looks(self, held_out: int) -> Mapping[str, int]:
        """Count one answer for each picture, and for each end the first time."""
        pictures = len(self._asked()) + sum(len(question.ends) for question in self.questions.questions())
        return {name: pictures for name in self.parts() if name in ("reader", "text")}

    def _asked(self) -> dict[str, _Asked]:
        """List what the model draws, by request id."""
        found = {}
        for question in self.questions.questions():
            prompt, about = question.prompt, question.about
            for arm, files in _ways(question).items():
                for index in range(self.images_per_prompt):
                    name = digest("subjects", self.seed, prompt.id, arm, index)
                    seed = seed_of("subjects", self.seed, prompt.id, index)
                    request = ImageRequest(name, prompt.text, seed, about.width_px, about.height_px, files=files)
                    found[name] = _Asked(question, arm, request)
        return found

    def _measured(self, seen: Sequence[Seen]) -> dict[str, dict[str, float]]:
        first = {question.about.subject.name: question for question in reversed(self.questions.questions())}
        return self.measures.measure(seen, list(first.values()), self.questions.rivals)

    def _add_diversity(
        self, found: dict[str, dict[str, float]], asked: Mapping[str, _Asked], files: Mapping[str, FileRef]
    ) -> None:
        groups: dict[tuple[str, str], list[str]] = {}
        for key in files:
            groups.setdefault((asked[key].question.prompt.id, asked[key].arm), []).append(key)
        for keys in groups.values():
            if len(keys) > 1:
                between = spread(self.measures.whole([pixels_of(files[key]) for key in keys]))
                for key in keys:
                    found[key][DIVERSITY] = between

    def _kept(
        self, asked: Mapping[str, _Asked], files: Mapping[str, FileRef], sitting: Sitting
    ) -> list[dict[str, Any]]:
        """Keep the pictures of some questions, spread over kinds and subjects."""
        questions = self.questions.questions()
        by_kind: dict[str, list[SubjectQuestion]] = {}
        for question in questions:
            by_kind.setdefault(question.prompt.skill, []).append(question)
        places = np.linspace(0, 1, -(-SHOWN // max(1, len(by_kind))), endpoint=False)
        shown = [of[int(place * len(of))] for place in places for of in by_kind.values()][:SHOWN]
        rows = {q.prompt.id: {REFERENCE: q.references[REFERENCE], **q.ends} for q in shown}
        for key, file in files.items():
            row = rows.get(asked[key].question.prompt.id)
            if row is not None:
                row.setdefault(asked[key].arm, file)
        folder = sitting.folder / PICTURES
        return [
            {
                "prompt": q.prompt.text,
                "kind": q.prompt.skill,
                "subject": q.about.subject.name,
                "pictures": {name: keep_picture(folder, f.content or b"") for name, f in rows[q.prompt.id].items()},
            }
            for q in dict.fromkeys(shown)
        ]


_NOTHING = (
    "The suite has no question about any subject. Allowed are one or more subjects and texts. Write another split or"
    " folder under `questions`."
)


def way_to_target(table: Mapping[str, Mapping[str, Figure]], arm: str) -> float | None:
    """Return (c - c_text) / (1 - c_text): how far an arm came from text-only to the exact target; None if not known.

    Args:
        table: Figures by arm.
        arm: Which one.
    """
    values = [table.get(name, {}).get(TO_TARGET, Figure(None)).value for name in (arm, TEXT_ONLY)]
    own, text = values
    return None if own is None or text is None or text >= 1 else (own - text) / (1 - text)


def _ways(question: SubjectQuestion) -> dict[str, Mapping[str, FileRef]]:
    """Return the files that a text is drawn with, by arm."""
    box = {} if question.box is None else {SUBJECT_BOX: question.box}
    ways: dict[str, Mapping[str, FileRef]] = {WORDS: question.references, TEXT_ONLY: {}}
    if box:
        ways[BOX] = {**question.references, **box}
    if question.edit is not None:
        ways[EDIT] = {**question.references, **box, **question.edit}
    return ways


def _figures(by_question: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, Figure]:
    """Return the mean of each figure over questions, of each the mean over its images."""
    found = {}
    for name in FIGURES:
        told = [[row[name] for row in rows if name in row] for rows in by_question]
        if means := [sum(values) / len(values) for values in told if values]:
            found[name] = Figure.of_mean(means)
    return found


def _plain(table: Mapping[str, Mapping[str, Figure]]) -> dict[str, dict[str, Any]]:
    return {
        arm: {name: {"value": f.value, "interval": f.interval, "of": f.of} for name, f in figures.items()}
        for arm, figures in table.items()
    }


def _file(image: bytes) -> FileRef:
    return FileRef.of(image, "image/png")
