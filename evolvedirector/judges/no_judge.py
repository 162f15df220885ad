"""The judge of a run in which nobody judges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from evolvedirector.errors import RunError
from evolvedirector.records import ImageAndPrompt, Look, OrderedPair


class NoJudge:
    """Stand where a run takes a judge and its policy asks none, as `BestOfN` and `SkillCycle` do.

    `EvolutionCallback` refuses it beside a policy that may ask for looks.
    """

    @property
    def fingerprint(self) -> str:
        """Name that nobody judges."""
        return "no-judge"

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Refuse.

        Args:
            pairs: What should have been compared.

        Raises:
            RunError: Always.
        """
        raise RunError(_asked(len(pairs)))

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Refuse.

        Args:
            items: What should have been looked at.

        Raises:
            RunError: Always.
        """
        raise RunError(_asked(len(items)))

    def close(self) -> Any:
        """Do nothing: nothing is held."""


def _asked(count: int) -> str:
    return (
        f"{count} looks are asked of NoJudge, who takes none. Allowed is a run that asks for no look. Write `judge: "
        "{class_path: evolvedirector.judges.TransformersJudge}`, say, in EvolutionCallback."
    )
