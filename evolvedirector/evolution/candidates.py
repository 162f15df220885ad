"""What becomes of the texts a writer returns: valid new prompts, and refusals counted by cause."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from evolvedirector.records import (
    MAX_PROMPT_CHARACTERS,
    UNLABELLED,
    Prompt,
    WriteReply,
    WriteRequest,
    normalise_prompt,
    prompt_id_of,
)

NOT_REACHED = "writer not reached"
"""Cause of texts that an outage kept from being written: it says nothing about the writer."""


@dataclass(slots=True)
class Written:
    """New prompts and, by cause, how many texts were refused."""

    prompts: list[Prompt] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


def refusal_cause(text: str, known_ids: Collection[str], held_out_ids: Collection[str]) -> str | None:
    """Say why a text cannot become a new prompt; None when it can. Writers are models: nothing they say is trusted."""
    if not normalise_prompt(text):
        return "empty"
    if len(text) > MAX_PROMPT_CHARACTERS:
        return "too long"
    if any(unicodedata.category(character) in ("Cc", "Cs", "Co") and character not in "\n\t" for character in text):
        return "control characters"
    prompt_id = prompt_id_of(text)
    if prompt_id in held_out_ids:
        return "held out"
    if prompt_id in known_ids:
        return "duplicate"
    return None


def accept_texts(
    requests: Sequence[tuple[WriteRequest, Prompt | None]],
    replies: dict[str, WriteReply],
    known_ids: Collection[str],
    held_out_ids: Collection[str],
) -> Written:
    """Turn replies into prompts, in the order of the requests, so that arrival order decides nothing.

    Args:
        requests: Each request with the parent whose lineage its texts join (None: each text founds one).
        replies: Replies by request id; a missing one counts as a refusal of the writer.
        known_ids: Prompts the dataset ever held.
        held_out_ids: Prompts that may never enter.
    """
    written = Written()
    taken = set(known_ids)
    for request, parent in requests:
        reply = replies.get(request.request_id, WriteReply(request.request_id, refusal="no reply"))
        missing = request.count - len(reply.texts)
        if missing > 0:
            written.refused["writer" if reply.answered else NOT_REACHED] += missing
        for position, text in enumerate(reply.texts[: request.count]):
            text = text.strip()
            cause = refusal_cause(text, taken, held_out_ids)
            if cause:
                written.refused[cause] += 1
                continue
            skill = reply.skills[position] if position < len(reply.skills) else request.skill or UNLABELLED
            prompt = Prompt.create(text, request.operation, skill, parent)
            taken.add(prompt.id)
            written.prompts.append(prompt)
    return written
