"""Prompts with questions of their own: what the suites that users compare by have in common.

Each of them is a file of prompts, a way to ask whether an image shows its prompt, and a rule that turns answers into a
score. The file is the user's own copy; the questions go to any judge or model that answers questions.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.evaluation.prompt_choice import refuse_below, requests_to_draw, spread_over_skills
from evolvedirector.evaluation.suite import Asked, Drawn, Figure, Offered, Outcome, Readings, Sitting
from evolvedirector.judges.judge import Judge
from evolvedirector.records import ImageAndPrompt, Prompt, digest
from evolvedirector.records.looks import MIN_COVERED_MASS, is_readable
from evolvedirector.records.part import Part, close_parts, requests_in_flight_of
from evolvedirector.records.questions import YES_NO, Question, QuestionAnswerer
from evolvedirector.store.paths import user_path

MAX_FILE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ImageQuestion:
    """One closed question about an image, and its right answer.

    Args:
        text: As it is asked.
        answers: All that may be answered.
        right: The right one.
        statement: What the image must show for the right answer, for a judge that only checks images against texts.
            Empty: such a judge cannot answer it.
        kind: Group of questions that have a row of their own.
        parents: Places of the questions that must be answered right for this one to count.
    """

    text: str
    answers: tuple[str, ...] = YES_NO
    right: str = YES_NO[0]
    statement: str = ""
    kind: str = ""
    parents: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """A prompt with the questions that its image is asked."""

    prompt: Prompt
    questions: tuple[ImageQuestion, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """How one question was answered.

    Args:
        is_right: Whether the right answer was the likeliest; False where the reply could not be read.
        probability: Of the right answer among all that the reader might have said; 0 where it could not be read.
        is_readable: Whether it could.
    """

    is_right: bool
    probability: float
    is_readable: bool = True


class AskedPrompts:
    """Draw the prompts of a file, ask each image its questions, score the answers by a suite's rule.

    Args:
        file: The user's copy of the suite's file.
        reader: Who answers: a model that answers questions, or a judge where every question has a statement.
        images_per_prompt: Seeds of each prompt.
        max_prompts: Prompts at most, spread over skills. None: all.
        every_n_epochs: Epochs between further evaluations. None: only when training ends.
        seed: Root of the choice of prompts and of the seeds.

    Raises:
        UserError: A number below 1.
    """

    title = ""
    """How messages call the suite."""

    def __init__(
        self,
        file: str | Path,
        reader: QuestionAnswerer | Judge,
        images_per_prompt: int = 1,
        max_prompts: int | None = None,
        every_n_epochs: int | None = None,
        seed: int = 0,
    ) -> None:
        refuse_below(1, images_per_prompt=images_per_prompt, max_prompts=max_prompts, every_n_epochs=every_n_epochs)
        self.file = file
        self.reader = reader
        self.images_per_prompt = images_per_prompt
        self.max_prompts = max_prompts
        self.every_n_epochs = every_n_epochs
        self.seed = seed
        self._asked: dict[str, AskedPrompt] | None = None

    @abstractmethod
    def load(self) -> list[AskedPrompt]:
        """Read the file.

        Raises:
            UserError: It has another form, with the line that shows it.
        """

    @abstractmethod
    def rows(self, scored: Mapping[str, Sequence[Sequence[Reply]]]) -> Mapping[str, Figure]:
        """Score the replies by the suite's rule.

        Args:
            scored: By prompt id, for each image the replies in the order of the questions.
        """

    @property
    def fingerprint(self) -> str:
        """Name reader, prompts, questions and choice."""
        listed = self.asked_prompts().values()
        texts = [text for asked in listed for text in (asked.prompt.text, *(repr(q) for q in asked.questions))]
        options = (self.images_per_prompt, str(self.max_prompts), self.seed)
        return f"{self.title.lower()}-1/{digest(self.reader.fingerprint, *options, *texts)}"

    @property
    def reads_alone(self) -> bool:
        """Whether the reader asks a service: one process asks for all ranks."""
        return requests_in_flight_of(self.reader) > 0

    def asked_prompts(self) -> Mapping[str, AskedPrompt]:
        """Return prompts with their questions by prompt id; the file is read once.

        Raises:
            UserError: The file has another form.
        """
        if self._asked is None:
            by_id = told_apart(self.load())
            chosen = list(by_id)
            if self.max_prompts is not None:
                prompts = [asked.prompt for asked in by_id.values()]
                chosen = [prompt.id for prompt in spread_over_skills(prompts, self.max_prompts, self.seed)]
            self._asked = {prompt_id: by_id[prompt_id] for prompt_id in chosen}
        return self._asked

    def verify(self) -> None:
        """Read the file, and see that the reader can answer its questions.

        Raises:
            UserError: With what is wrong and what to write.
        """
        questions = [question for asked in self.asked_prompts().values() for question in asked.questions]
        if "answer" in dir(self.reader):
            return
        if open_question := next((question for question in questions if not question.statement), None):
            raise UserError(
                f"reader is a {type(self.reader).__name__}, which only checks images against texts, and {self.title} "
                f"asks questions such as {open_question.text!r} ({', '.join(open_question.answers)}). Allowed is a "
                "model that answers questions. Write `reader: {class_path: evolvedirector.judges.TransformersJudge, "
                "init_args: {model: Qwen/Qwen3-VL-8B-Instruct}}`, say."
            )

    def prompts(self, offered: Offered) -> Sequence[Prompt]:
        """List the prompts of the file."""
        return [asked.prompt for asked in self.asked_prompts().values()]

    def requests(self, offered: Offered) -> Asked:
        """Ask for some images of each; the same for every step, so that steps are comparable."""
        return requests_to_draw(self.prompts(offered), self.images_per_prompt, self.seed, offered.size_px, self.title)

    def read(self, drawn: Sequence[Drawn], sitting: Sitting) -> Readings:
        """Ask each image its questions; by request id a list of [right, probability, readable] in their order."""
        try:
            replies = self._from_answers(drawn) if "answer" in dir(self.reader) else self._from_checks(drawn)
        finally:
            close_parts(self.reader)
        found: dict[str, list[list[float]]] = {}
        for one in drawn:
            rows = [
                replies.get(f"{one.request_id}-{place}", Reply(False, 0.0, False))
                for place in range(len(self.asked_prompts()[one.prompt.id].questions))
            ]
            found[one.request_id] = [[float(r.is_right), r.probability, float(r.is_readable)] for r in rows]
        return found

    def figures(self, readings: Readings, sitting: Sitting) -> Outcome:
        """Score the replies by the suite's rule; a last row says which share of them could not be read."""
        scored: dict[str, list[list[Reply]]] = {}
        for key, rows in readings.items():
            replies = [Reply(bool(right), probability, bool(readable)) for right, probability, readable in rows]
            scored.setdefault(sitting.asked[key][1].id, []).append(replies)
        unread = [float(not r.is_readable) for images in scored.values() for replies in images for r in replies]
        share = Figure(round(sum(unread) / len(unread), 6), None, len(unread), "answers") if unread else Figure(None)
        return Outcome({**self.rows(scored), "unreadable": share})

    def parts(self) -> Mapping[str, Part]:
        """Name the reader."""
        return {"reader": self.reader}

    def looks(self, held_out: int) -> Mapping[str, int]:
        """Count one answer for each question about each image."""
        questions = sum(len(asked.questions) for asked in self.asked_prompts().values())
        return {"reader": questions * self.images_per_prompt}

    def _questions(self, drawn: Sequence[Drawn]) -> list[tuple[str, Drawn, ImageQuestion]]:
        return [
            (f"{one.request_id}-{place}", one, question)
            for one in drawn
            for place, question in enumerate(self.asked_prompts()[one.prompt.id].questions)
        ]

    def _from_answers(self, drawn: Sequence[Drawn]) -> dict[str, Reply]:
        listed = self._questions(drawn)
        questions = {key: question for key, _, question in listed}
        asked = [Question(key, (one.image,), _asked_text(q), q.answers) for key, one, q in listed]
        replies = {}
        for answer in self.reader.answer(asked):  # type: ignore[union-attr]
            question = questions[answer.item_id]
            if answer.covered_mass < MIN_COVERED_MASS:
                continue
            right = question.answers.index(question.right)
            likeliest = max(range(len(question.answers)), key=lambda n: answer.probabilities[n])
            probability = answer.probabilities[right] * answer.covered_mass
            replies[answer.item_id] = Reply(likeliest == right, probability)
        return replies

    def _from_checks(self, drawn: Sequence[Drawn]) -> dict[str, Reply]:
        items = [ImageAndPrompt(key, one.image, question.statement) for key, one, question in self._questions(drawn)]
        looks = self.reader.check(items)  # type: ignore[union-attr]
        return {look.item_id: Reply(look.probability >= 0.5, look.probability) for look in looks if is_readable(look)}


def told_apart(items: Sequence[AskedPrompt]) -> dict[str, AskedPrompt]:
    """Name the items of a file by prompt id; those of equal text have images and a score each, as in the suites.

    DSG's file has one such pair, TIFA's four, T2I-CompBench's one (a final stop apart), GenEval's none.

    Args:
        items: In the order of the file. Later ones of a text get a number behind the id that follows from it.
    """
    times: Counter[str] = Counter()
    found = {}
    for item in items:
        times[item.prompt.id] += 1
        number = times[item.prompt.id]
        prompt = item.prompt if number == 1 else replace(item.prompt, id=f"{item.prompt.id}-{number}")
        found[prompt.id] = replace(item, prompt=prompt)
    return found


def _asked_text(question: ImageQuestion) -> str:
    """Write a question with the answers that count."""
    return f"{question.text} Answer with one of: {', '.join(question.answers)}."


def read_text(path: str | Path, title: str) -> str:
    """Read a suite's file.

    Args:
        path: The user's copy.
        title: Of the suite, for messages.

    Raises:
        UserError: It is missing, too large or not UTF-8.
    """
    file = user_path(path)
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UserError(
                f"The file {str(path)!r} of {title} has {size:,} bytes. Allowed are {MAX_FILE_BYTES:,}. Write the path "
                "of the suite's own file."
            )
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"The file {str(path)!r} of {title} cannot be read: {error.strerror or error}. Allowed is your copy of the "
            "suite's file. Write its path."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"The file {str(path)!r} of {title} is not UTF-8 (byte {error.start}). Allowed is the suite's own file. "
            "Copy it again."
        ) from error


def other_form(path: str | Path, title: str, line: int, why: str, wanted: str) -> UserError:
    """Say that a file has another form than a suite's.

    Args:
        path: The user's copy.
        title: Of the suite.
        line: Where it shows, from 1.
        why: What is wrong there.
        wanted: What such a line looks like.
    """
    return UserError(
        f"{str(path)!r} is no file of {title}: line {line} {why}. Allowed is {wanted}. Write the path of the suite's "
        "own file."
    )


def json_of_line(line: str) -> Any:
    """Parse one line; None where it is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
