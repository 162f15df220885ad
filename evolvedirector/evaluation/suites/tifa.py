"""TIFA: questions about a prompt, each with choices and an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

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

_WANTED = 'a JSON list of {"id": "...", "caption": "...", "question": "...", "choices": [...], "answer": "..."}'


class TIFA(AskedPrompts):
    """Ask the questions of a TIFA file, each with its choices, of the image of its caption.

    Its rule (Hu et al. 2023, arXiv 2303.11897): a caption's score is the share of its questions answered as in the
    file, the headline the mean over captions; then by type of element, over questions. The choice is the likeliest of
    the closed set, so no second model maps free answers to choices. A reader that answers questions is needed.

    Args:
        file: Your copy of `tifa_v1.0_question_answers.json`, or one of the same form.
        reader: Model that answers questions.
        images_per_prompt: Seeds of each caption; TIFA takes 1.
        max_prompts: Captions at most, spread over skills. None: all.
        every_n_epochs: Epochs between further evaluations. None: only when training ends.
        seed: Root of the choice of prompts and of the seeds.
    """

    title = "TIFA"

    def load(self) -> list[AskedPrompt]:
        """Read captions and questions.

        Raises:
            UserError: An entry has another form.
        """
        text = read_text(self.file, self.title)
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError) as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
            raise other_form(self.file, self.title, line, "is no JSON", _WANTED) from error
        if not isinstance(entries, list) or not entries:
            raise other_form(self.file, self.title, 1, "begins no list with entries", _WANTED)
        texts: dict[str, str] = {}
        questions: dict[str, list[ImageQuestion]] = {}
        for place, entry in enumerate(entries):
            if (why := _mistake(entry)) is not None:
                raise other_form(self.file, self.title, _line_of(text, place), f"(entry {place + 1}) {why}", _WANTED)
            texts.setdefault(str(entry["id"]), entry["caption"])
            questions.setdefault(str(entry["id"]), []).append(_question(entry))
        return [
            AskedPrompt(Prompt.create(texts[key], skill=key.rpartition("_")[0] or key), tuple(of))
            for key, of in questions.items()
        ]

    def rows(self, scored: Mapping[str, Sequence[Sequence[Reply]]]) -> Mapping[str, Figure]:
        """Return the mean over captions, then the share of questions of each type of element."""
        captions: list[float] = []
        kinds: dict[str, list[float]] = {}
        for prompt_id, images in scored.items():
            right = [[float(reply.is_right) for reply in replies] for replies in images]
            captions.append(sum(sum(of) / len(of) for of in right) / len(right))
            for of in right:
                for question, value in zip(self.asked_prompts()[prompt_id].questions, of, strict=True):
                    kinds.setdefault(question.kind, []).append(value)
        by_kind = {kind: Figure(round(sum(of) / len(of), 6), None, len(of), "questions") for kind, of in kinds.items()}
        return {"tifa": Figure.of_mean(captions)} | dict(sorted(by_kind.items()))


def _question(entry: Mapping[str, Any]) -> ImageQuestion:
    choices = tuple(dict.fromkeys(quoted(choice) for choice in entry["choices"]))
    return ImageQuestion(quoted(entry["question"]), choices, quoted(entry["answer"]), "", entry["element_type"])


def _mistake(entry: Any) -> str | None:
    """Say what is wrong with one entry; None where it is of the suite's form."""
    if not isinstance(entry, dict):
        return "is no object"
    for key in ("caption", "question", "answer", "element_type"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            return f"has no text under {key!r}"
    if not isinstance(entry.get("id"), str | int):
        return "has no 'id'"
    choices = entry.get("choices")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        return "has no list of two or more texts under 'choices'"
    return None if entry["answer"] in choices else f"has an answer {entry['answer']!r} that is none of its choices"


def _line_of(text: str, place: int) -> int:
    """Find the line in which the n-th entry of a list begins: a decoder reads one after the other."""
    decoder, position = json.JSONDecoder(), text.index("[") + 1
    for _ in range(place + 1):
        while text[position] in " \t\r\n,":
            position += 1
        start = position
        position = decoder.raw_decode(text, position)[1]
    return text.count("\n", 0, start) + 1
