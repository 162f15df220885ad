"""T2I-CompBench: attribute binding, relations, numbers and complex compositions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from evolvedirector.errors import UserError
from evolvedirector.evaluation.intervals import mean_interval
from evolvedirector.evaluation.suite import Figure
from evolvedirector.evaluation.suites.asked_prompts import (
    AskedPrompt,
    AskedPrompts,
    ImageQuestion,
    Reply,
    json_of_line,
    other_form,
    read_text,
)
from evolvedirector.judges.judge import Judge
from evolvedirector.records import Prompt
from evolvedirector.records.prompts import MAX_PROMPT_CHARACTERS
from evolvedirector.records.questions import CHECK_QUESTION, QuestionAnswerer, quoted
from evolvedirector.store.paths import user_path

ATTRIBUTES = ("color", "shape", "texture")
"""Categories whose noun phrases are asked for one by one."""
CATEGORIES = (*ATTRIBUTES, "spatial", "3d_spatial", "numeracy", "non_spatial", "complex")
_PHRASES = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+(?=(?:an?|the|one|two|three|four|five|six|seven|eight)\s)")
_WANTED = "a text file with one prompt per line, named after its category: color_val.txt, spatial_val.txt, ..."


class T2ICompBench(AskedPrompts):
    """Ask for the noun phrases of T2I-CompBench's attribute prompts one by one, and for whole prompts of the others.

    Its rule for colours, shapes and textures (Huang et al. 2023, arXiv 2307.06350, "disentangled BLIP-VQA"): an image's
    score is the product over noun phrases of P(yes) to "is there {phrase}?". Phrases are parted at commas and before
    "and a": where the suite's own parser (spaCy) parts further, ours asks a longer phrase. The suite reads the other
    categories by a detector and by CLIP; here the same reader is asked about the whole prompt, so only the first three
    follow its rule. Figures are means over ten images of each prompt, by category, and comparable under one reader.

    Args:
        file: Your copy of the folder with `color_val.txt`, `spatial_val.txt` and so on, or one of these files.
        reader: Model that answers questions, or any judge.
        images_per_prompt: Seeds of each prompt; the suite takes 10.
        max_prompts: Prompts at most, spread over categories. None: all.
        every_n_epochs: Epochs between further evaluations. None: only when training ends.
        seed: Root of the choice of prompts and of the seeds.
    """

    title = "T2I-CompBench"

    def __init__(
        self,
        file: str | Path,
        reader: QuestionAnswerer | Judge,
        images_per_prompt: int = 10,
        max_prompts: int | None = None,
        every_n_epochs: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(file, reader, images_per_prompt, max_prompts, every_n_epochs, seed)

    def load(self) -> list[AskedPrompt]:
        """Read the prompts of each category.

        Raises:
            UserError: There is no such file, or a line has another form.
        """
        path = user_path(self.file)
        files = [path]
        if path.is_dir():
            files = [path / f"{name}_val.txt" for name in CATEGORIES if (path / f"{name}_val.txt").is_file()]
        if not files:
            raise UserError(
                f"The folder {str(self.file)!r} has no file of T2I-CompBench. Allowed are "
                f"{', '.join(f'{name}_val.txt' for name in CATEGORIES)}. Write the path of your copy of its folder."
            )
        return [asked for file in files for asked in self._of_file(file)]

    def rows(self, scored: Mapping[str, Sequence[Sequence[Reply]]]) -> Mapping[str, Figure]:
        """Return the mean over categories, then the mean of each."""
        by_skill: dict[str, list[float]] = {}
        for prompt_id, images in scored.items():
            skill = self.asked_prompts()[prompt_id].prompt.skill
            scores = [math.prod(reply.probability for reply in replies) for replies in images]
            by_skill.setdefault(skill, []).append(sum(scores) / len(scores))
        rows = {skill: Figure.of_mean(values) for skill, values in sorted(by_skill.items())}
        return {"mean": mean_of_figures(list(by_skill.values()))} | rows

    def _of_file(self, path: Path) -> list[AskedPrompt]:
        category = re.sub(r"_(val|train)(_seen|_unseen)?$", "", path.stem)
        if category not in CATEGORIES:
            raise UserError(
                f"{str(path)!r} is named after no category of T2I-CompBench. Allowed are {', '.join(CATEGORIES)}, with "
                "`_val` behind it. Write the path of the suite's own file."
            )
        found = []
        for number, line in enumerate(read_text(path, self.title).splitlines(), start=1):
            text = line.strip()
            if not text:
                continue
            if isinstance(json_of_line(text), dict | list) or "\t" in text or len(text) > MAX_PROMPT_CHARACTERS:
                why = "is no plain prompt (JSON, a tab, or too long)"
                raise other_form(path, self.title, number, why, _WANTED)
            found.append(AskedPrompt(Prompt.create(text, skill=category), questions_of(text, category)))
        if not found:
            raise other_form(path, self.title, 1, "is empty", _WANTED)
        return found


def questions_of(text: str, category: str) -> tuple[ImageQuestion, ...]:
    """Put one prompt as questions.

    Args:
        text: The prompt.
        category: Of the suite.
    """
    if category not in ATTRIBUTES:
        return (ImageQuestion(CHECK_QUESTION.replace("{prompt}", quoted(text)), statement=text),)
    phrases = [quoted(phrase.strip(" .")) for phrase in _PHRASES.split(text) if phrase.strip(" .")]
    return tuple(ImageQuestion(f"Is there {phrase} in this picture?", statement=phrase) for phrase in phrases)


def mean_of_figures(categories: Sequence[Sequence[float]]) -> Figure:
    """Average over categories, each counting once; the half widths of their intervals add up as squares.

    Args:
        categories: Scores by prompt, of each category.
    """
    if not categories:
        return Figure(None)
    means = [sum(values) / len(values) for values in categories]
    value, ends = sum(means) / len(means), [mean_interval(values) for values in categories]
    count = sum(len(values) for values in categories)
    known = [end for end in ends if end is not None]
    if len(known) < len(ends):
        return Figure(round(value, 6), None, count)
    half = sum(((high - low) / 2) ** 2 for low, high in known) ** 0.5 / len(means)
    return Figure(round(value, 6), (round(value - half, 6), round(value + half, 6)), count)
