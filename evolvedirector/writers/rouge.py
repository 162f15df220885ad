"""How much of one text returns in another, in order: what tells a near copy from a variation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

# Chinese and Japanese put no space between words: there a sign counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


def words_of(text: str) -> tuple[str, ...]:
    """Split a text into words, case and punctuation ignored.

    Args:
        text: Any text.
    """
    return tuple(_WORD.findall(text.casefold()))


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence of two word lists.

    Bit-parallel: one bit of an integer per word of `first`, one addition per word of `second` (Crochemore et al., "A
    fast and practical bit-vector algorithm for the longest common subsequence problem", 2001).

    Args:
        first: Words.
        second: Words.
    """
    places: dict[str, int] = {}
    for position, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << position
    every = (1 << len(first)) - 1
    row = every  # a zero bit: the subsequence grows at this word
    for word in second:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & every
    return len(first) - row.bit_count()


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """Return ROUGE-L as F1: 2 LCS / (n + m), from 0 (no word in common) to 1 (the same words in the same order).

    Lin, "ROUGE: a package for automatic evaluation of summaries", 2004; equations 2 to 4 with beta = 1.

    Args:
        first: Words.
        second: Words.
    """
    both = len(first) + len(second)
    return 2 * longest_common_subsequence(first, second) / both if both else 0.0


def nearest_copy(text: str, others: Iterable[Sequence[str]], limit: float) -> float:
    """Return the first ROUGE-L over `limit` of a text with any of the others; 0 where it copies none.

    The common words, order ignored, bound the subsequence from above, so most pairs are never aligned.

    Args:
        text: The text in question.
        others: Word lists it may copy.
        limit: Allowed similarity, 0 to 1.
    """
    words = words_of(text)
    counts = Counter(words)
    for other in others:
        both = len(words) + len(other)
        if not both or 2 * min(len(words), len(other)) <= limit * both:
            continue
        left = counts.copy()
        common = 0
        for word in other:
            if left[word] > 0:
                left[word] -= 1
                common += 1
        if 2 * common > limit * both and (similarity := rouge_l(words, other)) > limit:
            return similarity
    return 0.0
