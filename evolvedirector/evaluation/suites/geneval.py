"""GenEval: single objects, two objects, counting, colours, positions, colour binding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolvedirector.evaluation.shares import mean_of_shares, share_of_prompts
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
from evolvedirector.records.questions import QuestionAnswerer, quoted

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WANTED = 'one JSON object per line: {"tag": "counting", "include": [{"class": "bench", "count": 3}], "prompt": "..."}'


class GenEval(AskedPrompts):
    """Ask whether every object that a GenEval prompt includes is there, in its number, colour and place.

    Its rule (Ghosh et al. 2023, arXiv 2310.11513): an image is right where every clause of `include` holds and none of
    `exclude`; a task's score is the share of right images over four per prompt, the headline the mean over tasks.
    Published figures come from an object detector and CLIP; here the clauses are put as questions to a reader, so
    figures are comparable between students under one reader, not with the published table.

    Args:
        file: Your copy of GenEval's `evaluation_metadata.jsonl`.
        reader: Model that answers questions, or any judge.
        images_per_prompt: Seeds of each prompt; GenEval takes 4.
        max_prompts: Prompts at most, spread over tasks. None: all 553.
        every_n_epochs: Epochs between further evaluations. None: only when training ends.
        seed: Root of the choice of prompts and of the seeds.
    """

    title = "GenEval"

    def __init__(
        self,
        file: str | Path,
        reader: QuestionAnswerer | Judge,
        images_per_prompt: int = 4,
        max_prompts: int | None = None,
        every_n_epochs: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(file, reader, images_per_prompt, max_prompts, every_n_epochs, seed)

    def load(self) -> list[AskedPrompt]:
        """Read prompts and clauses.

        Raises:
            UserError: A line has another form.
        """
        found = []
        for number, line in enumerate(read_text(self.file, self.title).splitlines(), start=1):
            if not line.strip():
                continue
            entry = json_of_line(line)
            if (why := _mistake(entry)) is not None:
                raise other_form(self.file, self.title, number, why, _WANTED)
            found.append(AskedPrompt(Prompt.create(entry["prompt"], skill=entry["tag"]), questions_of(entry)))
        if not found:
            raise other_form(self.file, self.title, 1, "is empty", _WANTED)
        return found

    def rows(self, scored: Mapping[str, Sequence[Sequence[Reply]]]) -> Mapping[str, Figure]:
        """Return the share of right images by task, and the mean over tasks first."""
        tries: dict[str, list[list[float]]] = {}
        for prompt_id, images in scored.items():
            skill = self.asked_prompts()[prompt_id].prompt.skill
            right = [float(all(reply.is_right for reply in replies)) for replies in images]
            tries.setdefault(skill, []).append(right)
        shares = {skill: share for skill, of in sorted(tries.items()) if (share := share_of_prompts(of)) is not None}
        mean = Figure.of_share(mean_of_shares(shares))
        return {"mean": mean} | {skill: Figure.of_share(share) for skill, share in shares.items()}


def questions_of(entry: Mapping[str, Any]) -> tuple[ImageQuestion, ...]:
    """Put the clauses of one prompt as questions.

    `include` asks for at least `count` objects, `exclude` for fewer than one more of them: together "exactly".

    Args:
        entry: One line of the file.
    """
    limits = {clause["class"]: clause["count"] for clause in entry.get("exclude", [])}
    questions: list[ImageQuestion] = []
    for clause in entry["include"]:
        things = _things(clause)
        exact = limits.get(clause["class"]) == clause["count"] + 1
        if clause["count"] == 1 and not exact:
            text = f"Is there {things} in this picture?"
        else:
            text = f"Are there {'exactly' if exact else 'at least'} {things} in this picture?"
        questions.append(ImageQuestion(text, statement=things))
        if "position" in clause:
            where, other = clause["position"][0], entry["include"][clause["position"][1]]
            relation = f"{things} {quoted(where)} {_things(other)}"
            questions.append(ImageQuestion(f"Does this picture show {relation}?", statement=relation))
    return tuple(questions)


def _things(clause: Mapping[str, Any]) -> str:
    """Name what a clause asks for, as GenEval's own prompts do: `a red bench`, `three benches`."""
    name = quoted(" ".join(part for part in (clause.get("color"), clause["class"]) if part))
    if clause["count"] == 1:
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    count = clause["count"]
    return f"{_NUMBERS[count] if count < len(_NUMBERS) else count} {plural(name)}"


def plural(name: str) -> str:
    """Return the plural of one of COCO's classes.

    Args:
        name: Such as `bench` or `red wine glass`.
    """
    before, _, last = name.rpartition(" ")
    if last in ("skis", "scissors", "sheep"):
        return name
    known = {"person": "people", "mouse": "mice", "knife": "knives"}
    several = known.get(last) or f"{last}{'es' if last.endswith(('s', 'x', 'ch', 'sh')) else 's'}"
    return f"{before} {several}".strip()


def _mistake(entry: Any) -> str | None:
    """Say what is wrong with one line; None where it is of the suite's form."""
    if not isinstance(entry, dict):
        return "is no JSON object"
    for key in ("prompt", "tag"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            return f"has no text under {key!r}"
    include, exclude = entry.get("include"), entry.get("exclude", [])
    if not isinstance(include, list) or not include or not isinstance(exclude, list):
        return "has no list under 'include'"
    for place, clause in enumerate([*include, *exclude]):
        if not isinstance(clause, dict) or not isinstance(clause.get("class"), str) or not clause["class"].strip():
            return "has a clause without 'class'"
        if not isinstance(clause.get("count"), int) or clause["count"] < 1:
            return f"has a clause of {clause['class']!r} without a 'count' of 1 or more"
        if not isinstance(clause.get("color", ""), str):
            return f"has a 'color' of {clause['class']!r} that is no text"
        position = clause.get("position")
        known = isinstance(position, list) and len(position) == 2 and isinstance(position[0], str)
        if position is not None and not (known and isinstance(position[1], int) and 0 <= position[1] < place):
            return f"has a 'position' of {clause['class']!r} that names no earlier clause"
    bounds = {(clause["class"], clause["count"] + 1) for clause in include}
    for clause in exclude:
        if (clause["class"], clause["count"]) not in bounds:
            return f"has an 'exclude' of {clause['class']!r} that is not one more than it includes"
    return None
