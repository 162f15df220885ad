"""Which samples of a revision a stage trains on: some skills, some variants, or all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evolvedirector.errors import UserError


@dataclass(frozen=True)
class Subset:
    """Choose samples by the skill of their prompt and by their variant; both must fit.

    Args:
        skills: Of the prompts. None: any.
        variants: Of the samples; the only or first one of a prompt has the empty variant. None: any.

    Raises:
        UserError: A list is empty, or no list.
    """

    skills: Sequence[str] | None = None
    variants: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, given in (("skills", self.skills), ("variants", self.variants)):
            if given is None:
                continue
            if isinstance(given, str) or not given or len(set(given)) < len(given):
                raise UserError(
                    f"{name} of a subset is {given!r}. It lists names, each once, at least one. Write {name}: "
                    "[counting], say, or null for all."
                )
            object.__setattr__(self, name, tuple(given))  # frozen; lists of YAML compare unlike tuples

    @property
    def is_everything(self) -> bool:
        """Whether it leaves no sample out."""
        return self.skills is None and self.variants is None

    def takes(self, skill: str, variant: str) -> bool:
        """Say whether a sample belongs to it.

        Args:
            skill: Of its prompt.
            variant: Of the sample.
        """
        return (self.skills is None or skill in self.skills) and (self.variants is None or variant in self.variants)

    def named(self) -> str:
        """Name it as YAML does; everything is `all`."""
        parts = [f"{name}: [{', '.join(given)}]" for name, given in self.plain().items()]
        return "{" + ", ".join(parts) + "}" if parts else "all"

    def plain(self) -> dict[str, list[str]]:
        """Return it as plain values, for a checkpoint; everything is empty."""
        given = {"skills": self.skills, "variants": self.variants}
        return {name: list(names) for name, names in given.items() if names is not None}


EVERYTHING = Subset()
"""Leaves no sample out."""
