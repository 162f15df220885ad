"""Reading what a language model wrote: one JSON list of texts, every one of them distrusted."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from evolvedirector.records import MAX_PROMPT_CHARACTERS, WriteRequest, normalise_prompt
from evolvedirector.writers.rouge import nearest_copy, words_of

ROUGE_LIMIT = 0.8
"""ROUGE-L over which a text is a near copy (SELMA, section 3.1)."""
MAX_REPLY_CHARACTERS = 131_072
_MAX_BRACKETS = 64
"""Opening brackets looked at in search of the list: a reply of nothing but brackets must not cost time."""
_MIN_LETTERS = 2

_ADDRESS = re.compile(r"://|\bwww\.|\b[\w-]+\.(?:com|org|net|io|ai|cn|dev)\b", re.IGNORECASE)
_NUMBERING = re.compile(r"^\d{1,3}[.)]\s+")
_LEAKS = re.compile(
    r"<\||\|>|```|[{}]|\bJSON\b|\bnew descriptions?\b|\bdescription \d|\breply with\b"
    r"|\bas an ai\b|\bI (?:cannot|can't|am unable)\b|^(?:sure|certainly|of course)[,.:!]|^here (?:is|are)\b",
    re.IGNORECASE,
)
"""Signs of a template, of our own instruction, or of a model that speaks to us rather than of a picture."""


class _NoList(ValueError):
    pass


def list_in(reply: str) -> list[object]:
    """Find the one JSON list of a reply; a code fence or words around it do not matter.

    Args:
        reply: What the model said. What it thought aloud before `</think>` is no part of the reply.

    Raises:
        ValueError: No list, or more than one: which is meant would be a guess.
    """
    if len(reply) > MAX_REPLY_CHARACTERS:
        raise _NoList(f"reply of {len(reply)} characters")
    text = reply.rpartition("</think>")[2]
    decoder = json.JSONDecoder()
    found: list[list[object]] = []
    position = text.find("[")
    for _ in range(_MAX_BRACKETS):
        if position < 0:
            break
        try:
            value, end = decoder.raw_decode(text, position)
            found.append(value)
        except (ValueError, RecursionError):
            end = position + 1
        position = text.find("[", end)
    if len(found) != 1 or position >= 0:
        raise _NoList("no JSON list" if not found else "more than one JSON list")
    return found[0]


def tidy(text: str) -> str:
    """Strip what surrounds a text without changing it: spaces of any kind become one space, numbering goes.

    Args:
        text: One text of a reply. Line breaks stay, and are refused later.
    """
    plain = "".join(" " if unicodedata.category(sign) == "Zs" else sign for sign in text)
    return _NUMBERING.sub("", re.sub(r" {2,}", " ", plain).strip())


def refused_because(text: str, request: WriteRequest, others: Iterable[Sequence[str]], rouge_limit: float) -> str:
    """Say why a text is no prompt; empty where it is one.

    Args:
        text: A tidy text.
        request: What was asked.
        others: Word lists of the texts it must not copy.
        rouge_limit: ROUGE-L over which it copies them.
    """
    if sum(sign.isalpha() for sign in text) < _MIN_LETTERS:
        return "empty"
    if len(text) > MAX_PROMPT_CHARACTERS:
        return "too long"
    if not text.isprintable():  # control, direction and zero-width signs, lone surrogates, line breaks
        return "unprintable signs"
    if _ADDRESS.search(text):
        return "web address"
    if _LEAKS.search(text):
        return "instruction or template"
    if request.parent is not None and normalise_prompt(text) == normalise_prompt(request.parent):
        return "equal to the parent"
    if nearest_copy(text, others, rouge_limit):
        return "near copy"
    return ""


def read_texts(
    reply: str, request: WriteRequest, known: Iterable[Sequence[str]] = (), rouge_limit: float = ROUGE_LIMIT
) -> tuple[list[str], Counter[str]]:
    """Find the texts of a reply and count by cause what was refused; never an exception, whatever it is.

    A text is data: it may become a prompt and nothing else. Skills come from the request, never from the reply.

    Args:
        reply: The model's reply: one JSON list of strings, alone, in a code fence or among other words.
        request: What was asked; a text like its parent, or like an earlier one of the same reply, is refused.
        known: Word lists (`words_of`) of further texts that must not be copied, such as the examples shown.
        rouge_limit: ROUGE-L over which a text is a near copy, 0 to 1; 1 refuses none for it.

    Returns:
        At most `request.count` texts, and what was refused by cause.
    """
    refused: Counter[str] = Counter()
    try:
        listed = list_in(reply)
    except ValueError as error:
        return [], Counter({str(error): 1})
    parent = [] if request.parent is None else [words_of(request.parent)]
    others = [*parent, *known]
    texts: list[str] = []
    for item in listed:
        if len(texts) == request.count:
            break
        text = tidy(item) if isinstance(item, str) else ""
        if not isinstance(item, str):
            cause = "no string"
        elif text and normalise_prompt(text) in map(normalise_prompt, texts):
            cause = "repeated"
        else:
            cause = refused_because(text, request, others, rouge_limit)
        if cause:
            refused[cause] += 1
            continue
        texts.append(text)
        others.append(words_of(text))
    return texts, refused


def refusal_of(refused: Counter[str], accepted: int, asked: int) -> str:
    """Put what was refused into one line; empty where nothing was.

    Args:
        refused: Texts by cause.
        accepted: Texts that were not.
        asked: Texts asked for.
    """
    if refused:
        return "refused: " + ", ".join(f"{cause} {number}" for cause, number in sorted(refused.items()))
    return "empty list" if asked and not accepted else ""
