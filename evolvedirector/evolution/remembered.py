"""Nothing is done twice: what the ledger holds is taken from there, the rest is asked for and recorded as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar

from evolvedirector.evolution.round_parts import Round
from evolvedirector.execution.executor import Phase
from evolvedirector.records import Look, Score
from evolvedirector.records.part import Part

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def _reserve_nothing(keys: Sequence[str]) -> None:
    """Reserve nothing: what is lost may be asked again for nothing."""


def _settle_nobody(keys: Sequence[str]) -> dict[str, Any]:
    """Leave open what was never answered: it is asked again when the round is repeated."""
    return {}


def remembered(
    round: Round,
    phase: Phase,
    part: Part,
    method: str,
    keys: Sequence[str],
    *,
    recorded: Callable[[Sequence[str]], Mapping[str, Answer]],
    requests: Callable[[Sequence[str]], Sequence[Any]],
    settle: Callable[[Sequence[Any]], Mapping[str, Answer]],
    reserve: Callable[[Sequence[str]], None] = _reserve_nothing,
    silent: Callable[[Sequence[str]], Mapping[str, Answer]] = _settle_nobody,
    within: Callable[[Sequence[str]], Sequence[str]] = lambda missing: missing,
    afford: Callable[[int], int] = lambda number: number,
    group_seconds: float = 0.02,
) -> dict[str, Answer]:
    """Answer questions by key, from the ledger where it holds the answer.

    The rest is asked in units. Each unit is reserved before it is sent, so that a kill can lose an answer but never
    the fact that it was asked for; replies are settled in groups as they finish.

    Args:
        round: The round.
        phase: What it is called in reports.
        part: Who is asked.
        method: What it is asked to do.
        keys: Names of the questions; the same one twice is asked once.
        recorded: Returns what the ledger holds.
        requests: Makes the requests for keys, as late as possible: images are many bytes.
        settle: Records replies and returns the answers they make.
        reserve: Records that these are about to be sent.
        silent: Records that these were never answered, and returns the answers that this makes.
        within: Returns those of the missing keys that a limit allows, in order.
        afford: Returns how many of so many requests can be paid for now; asked again until it says 0.
        group_seconds: How long replies may wait for others before they are settled.

    Returns:
        The answers by key, in the order of the keys; what a limit kept from being asked is left out.
    """
    known = dict(recorded(keys))
    missing = within([key for key in dict.fromkeys(keys) if key not in known])
    executor = round.parts.executor
    for unit in round.units(missing, phase, executor.unit_of(part)):
        left = list(unit)
        while (number := afford(len(left))) > 0:
            asked, left = left[:number], left[number:]
            reserve(asked)
            open_keys = dict.fromkeys(asked, True)
            replies = executor.ask(part, method, requests(asked))
            with closing(in_groups(replies, seconds=group_seconds)) as groups:
                for group in groups:
                    # an answer nobody asked for is none; so is a second one, after a lost replica has given the first
                    known |= settle([reply for reply in group if open_keys.pop(_key_of(reply), False)])
            known |= silent(list(open_keys))
    # in the order of the questions: how answers fell into groups is a matter of time, and a revision's name is not
    return {key: known[key] for key in dict.fromkeys(keys) if key in known}


def whole_chunks(keys: Sequence[str], size: int, held: Mapping[str, Answer]) -> dict[str, Answer]:
    """Return the answers of those chunks of which all are held: the others are asked as a whole, among the same keys.

    Args:
        keys: Of all questions, in order; chunks are cut from them.
        size: Of a chunk.
        held: What the ledger holds.
    """
    chunks = [keys[start : start + size] for start in range(0, len(keys), size)]
    return {key: held[key] for chunk in chunks if all(key in held for key in chunk) for key in chunk}


def _key_of(reply: Any) -> str:
    return reply.item_id if isinstance(reply, Look | Score) else reply.request_id


def in_groups(items: Iterable[Item], rows: int = 256, seconds: float = 0.02) -> Generator[list[Item], None, None]:
    """Group items as they arrive: one commit per group instead of one per item.

    A group is handed on when it has `rows` items, or when `seconds` have passed since the last one was: items that come
    slowly go on one by one, at once. What arrived before the source failed is handed on before the failure. When the
    groups are closed, the source is closed with them.
    """
    group: list[Item] = []
    handed_on = time.monotonic()
    try:
        for item in items:
            group.append(item)
            if len(group) >= rows or time.monotonic() - handed_on >= seconds:
                yield group
                group = []
                handed_on = time.monotonic()
    except Exception:
        if group:
            yield group
        raise
    finally:
        if isinstance(items, Generator):
            items.close()
    if group:
        yield group
