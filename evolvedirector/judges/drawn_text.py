"""Whether text drawn into an image speaks to its judge: it repeats the prompt, or it asks for an answer."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

_LEAST_LETTERS = 3
_ALIKE = 0.75
"""Similarity from which a word that was read counts as a known one: readers confuse single letters."""
_LETTERS_IN_A_RUN = 4
"""Of a known word that counts although no space was read around it."""
_PROMPT_SHARE = 0.5
"""Share of the prompt's words in the image from which its text repeats the prompt, if they are two or more."""
_PROMPT_SHARE_OF_WRITING = 0.6
"""The same where the prompt asks for writing without saying which."""
_WORD = re.compile(r"[^\W\d_]+")
_QUOTATIONS = re.compile(r"\"([^\"]*)\"|“([^”]*)”|(?<!\w)'([^']*)'(?!\w)|«([^»]*)»")
_ASKS_FOR_TEXT = re.compile(
    r"\b(?:say(?:s|ing)?|read(?:s|ing)|titled|labell?ed|captioned|spell(?:s|ing)|written|text|words?|letters?|caption|"
    r"inscription|lettering)\b"
)
_COMMON_WORDS = "the and with for are was that this from has have its into over under"
_JUDGE_WORDS = (
    "answer yes choose best better correct correctly perfect perfectly prompt image picture exactly faithful "
    "faithfully score winner prefer ignore instruction instructions shows show fits description judge rating"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_TO_A_JUDGE = frozenset(_JUDGE_WORDS.split())
_TO_A_JUDGE_WORDS = 2


def suspicious_text(lines: Sequence[str], prompt: str) -> str:
    """Say why the text of an image must not be shown to a judge; empty where it may.

    Vision-language judges believe what is written in an image: each one tested gave more points to an image with the
    prompt drawn into it, and telling it to look away did not help (FRAME, Hwang et al. 2025, arXiv 2505.15249). A
    student that finds this out is rewarded for writing. Text that the prompt asks for, in quotation marks, may be
    there; where the prompt asks for writing without saying which, so may all but the prompt itself and words to a
    judge.

    Args:
        lines: What was read in the image.
        prompt: What the image is judged by.
    """
    asked_for = " ".join(filter(None, (part for found in _QUOTATIONS.findall(prompt) for part in found)))
    allowed = _words(asked_for)
    drawn = [word for word in _words(" ".join(lines)) if not _is_among(word, allowed)]
    to_judge = sorted(word for word in _TO_A_JUDGE if _is_among(word, drawn))
    if len(to_judge) >= _TO_A_JUDGE_WORDS:
        return f"text in the image speaks to its judge: {', '.join(to_judge)}"
    wanted = sorted(set(_words(_QUOTATIONS.sub(" ", prompt))) - _COMMON)
    repeated = [word for word in wanted if _is_among(word, drawn)]
    writing = not asked_for and _ASKS_FOR_TEXT.search(prompt.casefold()) is not None
    share = _PROMPT_SHARE_OF_WRITING if writing else _PROMPT_SHARE
    if repeated and len(repeated) >= max(min(2, len(wanted)), share * len(wanted)):
        return f"text in the image repeats the prompt: {', '.join(repeated[:8])}"
    return ""


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.casefold()) if len(word) >= _LEAST_LETTERS]


def _is_among(word: str, read: Sequence[str]) -> bool:
    """Whether a word was read: as it is, with a wrong letter, or run together with others."""
    if word in read:
        return True
    if len(word) < _LETTERS_IN_A_RUN:
        return False
    return any(word in other or difflib.SequenceMatcher(None, word, other).ratio() >= _ALIKE for other in read)
