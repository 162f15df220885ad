"""The seam behind which every gold set stands: images whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from evolvedirector.errors import UserError
from evolvedirector.records import GoldItem


@runtime_checkable
class GoldSource(Protocol):
    """Supply images with prompts and known answers, apart from training and evaluation: what a judge is measured on."""

    def items(self) -> Sequence[GoldItem]:
        """List the items; the same source lists the same items, so that a judge answers each once per run."""
        ...


def check_gold(items: Sequence[GoldItem]) -> None:
    """Refuse a gold set on which a judge that always gives the same answer would be perfect.

    Args:
        items: The whole gold set.

    Raises:
        UserError: It is empty, or all of its items have the same answer.
    """
    shown = sum(item.shows for item in items)
    if not items:
        raise UserError(
            "The gold set is empty. Allowed are one or more items with each answer. Name another file, or write "
            "`gold: null` to check the judge by canaries alone."
        )
    if shown in (0, len(items)):
        raise UserError(
            f"All {len(items)} items of the gold set have `shows: {str(bool(shown)).lower()}`: a judge that always "
            "says so would be perfect. Allowed is a set with both answers, best half and half. Add items with "
            f"`shows: {str(not shown).lower()}`."
        )
