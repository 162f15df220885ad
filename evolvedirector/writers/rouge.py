"""How much of one text returns in another, in order: what tells a near copy from a variation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rapidfuzz.distance import Indel

# Chinese and Japanese put no space between words: there a sign counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


def words_of(text: str) -> tuple[str, ...]:
    """Split a text into words, case and punctuation ignored.

    Args:
        text: Any text.
    """
    return tuple(_WORD.findall(text.casefold()))


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """Return ROUGE-L as F1: 2 LCS / (n + m), from 0 (no word in common) to 1 (the same words in the same order).

    Lin, "ROUGE: a package for automatic evaluation of summaries", 2004; equations 2 to 4 with beta = 1. Without
    substitutions an alignment deletes and inserts n + m - 2 LCS words, so the indel similarity is 2 LCS.

    Args:
        first: Words.
        second: Words.
    """
    both = len(first) + len(second)
    # not `normalized_similarity`: that is 1 - distance / (n + m), which can round to the other side of a limit
    return Indel.similarity(first, second) / both if both else 0.0


def nearest_copy(text: str, others: Iterable[Sequence[str]], limit: float) -> float:
    """Return the first ROUGE-L over `limit` of a text with any of the others; 0 where it copies none.

    Args:
        text: The text in question.
        others: Word lists it may copy.
        limit: Allowed similarity, 0 to 1.
    """
    words = words_of(text)
    return next((similarity for other in others if (similarity := rouge_l(words, other)) > limit), 0.0)
