"""DSG: yes-or-no questions about a prompt that depend on each other."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from evolvedirector.evaluation.suite import Figure
from evolvedirector.evaluation.suites.asked_prompts import (
    AskedPrompt,
    AskedPrompts,
    ImageQuestion,
    Reply,
    other_form,
    read_text,
)
from evolvedirector.records import Prompt
from evolvedirector.records.questions import quoted

_COLUMNS = ("item_id", "text", "proposition_id", "dependency", "category_broad", "question_natural_language")
_WANTED = f"a CSV with the columns {', '.join(_COLUMNS)}"


class DSG(AskedPrompts):
    """Ask the questions of a Davidsonian scene graph; one whose parent is answered by no counts as no.

    Its rule (Cho et al. 2023, arXiv 2310.18235): a prompt's score is the share of its questions answered by yes, after
    those that depend on a question answered by no are set to no (the colour of a cat that is not there); the headline
    is the mean over prompts, then the mean of each source of prompts. A reader that answers questions is needed.

    Args:
        file: Your copy of `dsg-1k-anns.csv`, or one of the same form.
        reader: Model that answers questions.
        images_per_prompt: Seeds of each prompt; DSG takes 1.
        max_prompts: Prompts at most, spread over sources. None: all 1060.
        every_n_epochs: Epochs between further evaluations. None: only when training ends.
        seed: Root of the choice of prompts and of the seeds.
    """

    title = "DSG"

    def load(self) -> list[AskedPrompt]:
        """Read prompts, questions and what they depend on.

        Raises:
            UserError: A row has another form.
        """
        reader = csv.DictReader(io.StringIO(read_text(self.file, self.title)), strict=True)
        items: dict[str, list[tuple[int, dict[str, str]]]] = {}
        try:
            if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
                raise other_form(self.file, self.title, 1, f"lacks the columns {', '.join(missing)}", _WANTED)
            for row in reader:
                why = next((f"has nothing under {name}" for name in _COLUMNS if not (row[name] or "").strip()), None)
                if why is not None:
                    raise other_form(self.file, self.title, reader.line_num, why, _WANTED)
                items.setdefault(row["item_id"], []).append((reader.line_num, row))
        except csv.Error as error:
            raise other_form(self.file, self.title, reader.line_num + 1, f"is no CSV ({error})", _WANTED) from error
        if not items:
            raise other_form(self.file, self.title, 2, "is missing: there are no questions", _WANTED)
        return [self._asked_prompt(rows) for rows in items.values()]

    def rows(self, scored: Mapping[str, Sequence[Sequence[Reply]]]) -> Mapping[str, Figure]:
        """Return the mean over prompts, then the mean of each source."""
        by_skill: dict[str, list[float]] = {}
        for prompt_id, images in scored.items():
            asked = self.asked_prompts()[prompt_id]
            scores = [score_with_parents(asked.questions, replies) for replies in images]
            by_skill.setdefault(asked.prompt.skill, []).append(sum(scores) / len(scores))
        everything = [value for values in by_skill.values() for value in values]
        return {"dsg": Figure.of_mean(everything)} | {
            skill: Figure.of_mean(by_skill[skill]) for skill in sorted(by_skill)
        }

    def _asked_prompt(self, rows: Sequence[tuple[int, Mapping[str, str]]]) -> AskedPrompt:
        places = {row["proposition_id"].strip(): place for place, (_, row) in enumerate(rows)}
        questions = []
        for line, row in rows:
            named = [name.strip() for name in row["dependency"].split(",")]
            if unknown := [name for name in named if name not in places and name != "0"]:
                raise other_form(
                    self.file, self.title, line, f"depends on {unknown[0]!r}, which its item does not have", _WANTED
                )
            parents = tuple(places[name] for name in named if name != "0")
            question = quoted(row["question_natural_language"])
            questions.append(ImageQuestion(question, kind=row["category_broad"], parents=parents))
        first = rows[0][1]
        source = first["item_id"].rpartition("_")[0] or first["item_id"]
        return AskedPrompt(Prompt.create(first["text"], skill=source), tuple(questions))


def score_with_parents(questions: Sequence[ImageQuestion], replies: Sequence[Reply]) -> float:
    """Return the share of questions answered by yes whose parents were all answered by yes.

    Args:
        questions: Of one prompt.
        replies: In the same order.
    """
    right = [
        reply.is_right and all(replies[parent].is_right for parent in question.parents)
        for question, reply in zip(questions, replies, strict=True)
    ]
    return sum(right) / len(right)
