"""Prompts as people write them: text and skill of a record, decoded and checked, whatever file they stand in."""

from __future__ import annotations

import codecs
import reprlib
import unicodedata
from collections.abc import Mapping
from typing import Any

from evolvedirector.records import MAX_PROMPT_CHARACTERS, UNLABELLED, Prompt
from evolvedirector.store.errors import StoreError

PROMPT_WORDS = ("prompt", "text", "caption")
"""Fields of a record that may hold the prompt; the first that is a text counts."""
MAX_SKILL_CHARACTERS = 200
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_REPR = reprlib.Repr()  # of bounded depth: a value of a foreign file may be nested without end
_REPR.maxstring = 80


def checked_prompt(text: str, skill: str = UNLABELLED) -> Prompt:
    """Make a seed prompt, refusing a text or skill that cannot be stored, shown and sent as it is.

    White space of any kind and length becomes one space, as in the id of a prompt.

    Args:
        text: At most `MAX_PROMPT_CHARACTERS`.
        skill: Its skill; empty for none.

    Raises:
        StoreError: If the text is empty or too long, or either holds a control sign or half a character.
    """
    text, skill = " ".join(text.lstrip("\ufeff").split()), " ".join(skill.split()) or UNLABELLED
    if not text:
        raise StoreError("The prompt is empty.")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise StoreError(f"The prompt has {len(text)} characters. At most {MAX_PROMPT_CHARACTERS} are allowed.")
    if len(skill) > MAX_SKILL_CHARACTERS:
        raise StoreError(f"The skill has {len(skill)} characters. At most {MAX_SKILL_CHARACTERS} are allowed.")
    for name, value in (("prompt", text), ("skill", skill)):
        if sign := next((sign for sign in value if unicodedata.category(sign) in ("Cc", "Cs")), ""):
            what = "half a character (a lone surrogate)" if "\ud800" <= sign <= "\udfff" else "a control sign"
            raise StoreError(f"The {name} holds {what}, U+{ord(sign):04X}. It cannot be stored or sent. Remove it.")
    return Prompt.create(text, skill=skill)


def decoded_text(data: bytes) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Args:
        data: Content of a file or member that people wrote.

    Raises:
        StoreError: If it is in another encoding; the message names it, or the first byte that is wrong.
    """
    mark = next((name for start, name in _BYTE_ORDER_MARKS.items() if data.startswith(start)), None)
    if mark is None and data[:64].count(0) > len(data[:64]) // 3:
        mark = "UTF-16 or binary"
    if mark is not None:
        raise StoreError(f"it is {mark}, not UTF-8; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise StoreError(
            f"byte 0x{data[error.start]:02X} in line {line} is not UTF-8; it may be Latin-1 or Windows-1252, save it as"
            " UTF-8"
        ) from error


def record_text(record: Mapping[str, Any]) -> str:
    """Return the prompt or caption of a record: the first of `PROMPT_WORDS` that is a text and not empty.

    Args:
        record: Its fields, whose names count in any case.

    Raises:
        ValueError: It has none; what stands there instead is quoted.
    """
    found = _fields(record)
    texts = (found[word] for word in PROMPT_WORDS if isinstance(found.get(word), str))
    if text := next((text for text in texts if text.strip()), ""):
        return text
    odd = next((f", `{word}` is {shown(found[word])}" for word in PROMPT_WORDS if found.get(word) is not None), "")
    raise ValueError(f"it has no text under {', '.join(PROMPT_WORDS)}{odd}")


def record_skill(record: Mapping[str, Any]) -> str:
    """Return the skill of a record; `unlabelled` where it names none.

    Raises:
        ValueError: It is no text.
    """
    skill = _fields(record).get("skill")
    if not isinstance(skill, str | None):
        raise ValueError(f"the skill {shown(skill)} is no text")
    return skill or UNLABELLED


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name).strip().lower(): value for name, value in record.items()}


def shown(value: Any) -> str:
    """Quote a value of a foreign file, cut short."""
    return _REPR.repr(value)
