"""A small rule for plain English: objects, colours, numbers and places of a prompt as yes-or-no questions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evolvedirector.errors import UserError
from evolvedirector.judges.questions.prompt_questions import MAX_QUESTIONS, PromptQuestion
from evolvedirector.records.questions import quoted

_COLOUR_WORDS = (
    "red orange yellow green blue purple pink brown black white grey gray golden silver violet turquoise cyan magenta "
    "beige teal"
)
_NUMBER_WORDS = "two three four five six seven eight nine ten eleven twelve"
_STOP_WORDS = (
    "with without in at on into onto near by from for to that which who whose where while as is are was made like over "
    "around through across between against during wearing holding"
)
"""They end a noun phrase; what comes after is asked about as a whole."""
COLOURS = frozenset(_COLOUR_WORDS.split())
NUMBERS = frozenset([*_NUMBER_WORDS.split(), *map(str, range(2, 100))])
_STOPS = frozenset(_STOP_WORDS.split())
_PLACES = (
    "to the left of|to the right of|on the left of|on the right of|left of|right of|on top of|in front of|next to|"
    "underneath|beneath|below|under|above|behind|beside"
)
_PLACE = re.compile(rf"\s+({_PLACES})\s+")
_JOINT = re.compile(r"\s*[,;]\s*(?:and\s+)?|\s+and\s+")
_SAYS = r"(?:(?:that|which) (?:says|reads)|saying|reading|labell?ed|with the (?:text|words?)) "
_QUOTATION = re.compile(rf"(?:\b{_SAYS})?(?<!\w)'([^']{{1,80}})'(?!\w)", re.IGNORECASE)
_PICTURE = re.compile(r"^(?:an? |the )?(?:photo|photograph|picture|image|shot|view) of\s+")
_STYLE = re.compile(r"^(?:an? |the )?((?:\w+ )?(?:painting|drawing|illustration|sketch|cartoon|watercolou?r)) of\s+")
_ARTICLES = ("a", "an", "the", "some", "one")
_MOST_NOUN_WORDS = 4


@dataclass(frozen=True, slots=True)
class _Things:
    """A noun phrase: `noun` without its colours and number."""

    noun: str
    colours: tuple[str, ...]
    number: str
    plural: bool
    article: bool

    @property
    def named(self) -> str:
        return f"{' and '.join(self.colours)} {self.noun}".strip()


class EnglishQuestions:
    """Split plain English prompts into questions by rule, without any model: `english_questions` behind the seam.

    It costs nothing and is the same on every machine. For long or figurative prompts take `ModelQuestions`.

    Args:
        most: Questions per prompt at most.

    Raises:
        UserError: Less than one question.
    """

    def __init__(self, most: int = MAX_QUESTIONS) -> None:
        if most < 1:
            raise UserError(f"most is {most}. Allowed: 1 or more. Write `most: {MAX_QUESTIONS}`.")
        self.most = most

    @property
    def fingerprint(self) -> str:
        """Name the rules."""
        return f"english-questions-1/{self.most}"

    def questions(self, prompts: Sequence[str]) -> Iterator[tuple[PromptQuestion, ...]]:
        """Yield, per prompt in order, one question or more.

        Args:
            prompts: Any texts.
        """
        for prompt in prompts:
            yield english_questions(prompt, self.most)

    def close(self) -> None:
        """Do nothing: there is no memory to free."""


def english_questions(prompt: str, most: int = MAX_QUESTIONS) -> tuple[PromptQuestion, ...]:
    """Split a plain English prompt into yes-or-no questions by rule.

    It knows noun phrases with an article or number, common colours, and places ("left of", "on top of", "behind", ...),
    joined by commas and `and`. What it does not understand (verbs, clothes, moods, long phrases) is asked about as a
    whole phrase, so no part of a prompt goes unasked; a writer model splits such prompts better.

    Args:
        prompt: One prompt.
        most: Questions at most; a longer list is cut and one question about the whole prompt put last.
    """
    text = quoted(prompt).rstrip(" .!")
    found = [PromptQuestion("text", f"Is '{words}' written in the picture?") for words in _QUOTATION.findall(text)]
    body = " ".join(_QUOTATION.sub(" ", text).casefold().split())
    if style := _STYLE.match(body):
        found.append(PromptQuestion("style", f"Is the picture {_article(style[1])} {style[1]}?"))
    body = _STYLE.sub("", _PICTURE.sub("", body))
    for clause in _clauses(body):
        found += _of_clause(clause)
    questions = tuple(dict.fromkeys(found)) or (_detail(text),)
    if len(questions) > most:
        return (*questions[: most - 1], _detail(text))
    return questions


def _clauses(body: str) -> list[str]:
    """Cut at commas and `and`; a piece that is only colours belongs to the next ("a black and white cat")."""
    clauses: list[str] = []
    open_piece = ""
    for piece in filter(None, _JOINT.split(body)):
        joined = f"{open_piece} {piece}".strip()
        words = [word for word in piece.split() if word not in _ARTICLES and word not in NUMBERS]
        if all(word in COLOURS for word in words):
            open_piece = joined
        else:
            clauses.append(joined)
            open_piece = ""
    return [*clauses, open_piece] if open_piece else clauses


def _of_clause(clause: str) -> list[PromptQuestion]:
    pieces = _PLACE.split(clause)
    things = [_things(piece) for piece in pieces[::2]]
    found: list[PromptQuestion] = []
    for piece, thing in zip(pieces[::2], things, strict=True):
        found += [_detail(piece)] if thing is None else _of_things(thing)
        if thing is not None and not _is_all(piece, thing):
            found.append(_detail(piece))
    for index, place in enumerate(pieces[1::2]):
        first, second = things[index], things[index + 1]
        if first is None or second is None:
            found.append(_detail(f"{pieces[2 * index]} {place} {pieces[2 * index + 2]}"))
        else:
            verb = "Are" if first.plural else "Is"
            found.append(PromptQuestion("relation", f"{verb} the {first.named} {place} the {second.named}?"))
    return found


def _things(piece: str) -> _Things | None:
    """Read a noun phrase up to the first word that ends it; None where there is no noun or too many words."""
    words = piece.split()
    article = bool(words) and words[0] in _ARTICLES
    words = words[1:] if article else words
    number = words[0] if words and words[0] in NUMBERS else ""
    words = words[1:] if number else words
    end = next((place for place, word in enumerate(words) if place and _ends_noun(word)), len(words))
    colours = tuple(word for word in words[:end] if word in COLOURS)
    nouns = [word for word in words[:end] if word not in COLOURS and word != "and"]
    if not nouns or len(nouns) > _MOST_NOUN_WORDS or nouns[0] in _STOPS:
        return None
    plural = bool(number) or (not article and nouns[-1].endswith("s") and not nouns[-1].endswith("ss"))
    if not (article or plural or colours):  # "8k", "soft light": hardly a thing that can be pointed at
        return None
    return _Things(" ".join(nouns), colours, number, plural, article)


def _ends_noun(word: str) -> bool:
    return word in _STOPS or (word.endswith("ing") and word not in ("ring", "king", "string", "wing", "building"))


def _is_all(piece: str, thing: _Things) -> bool:
    """Whether the noun phrase is the whole piece: nothing of it is left to be asked about."""
    known = {*thing.noun.split(), *thing.colours, thing.number, *_ARTICLES, "and"}
    return all(word in known for word in piece.split())


def _of_things(thing: _Things) -> list[PromptQuestion]:
    if thing.plural:
        found = [PromptQuestion("object", f"Are there {thing.noun} in the picture?")]
    else:
        article = f"{_article(thing.noun)} " if thing.article or thing.colours else ""
        found = [PromptQuestion("object", f"Is there {article}{thing.noun} in the picture?")]
    if thing.colours:
        verb = "Are" if thing.plural else "Is"
        found.append(PromptQuestion("colour", f"{verb} the {thing.noun} {' and '.join(thing.colours)}?"))
    if thing.number:
        found.append(PromptQuestion("count", f"Is the number of {thing.named} exactly {thing.number}?"))
    return found


def _article(noun: str) -> str:
    return "an" if noun[:1] in "aeiou" else "a"


def _detail(phrase: str) -> PromptQuestion:
    return PromptQuestion("detail", f"Does the picture show this: '{phrase}'?")
