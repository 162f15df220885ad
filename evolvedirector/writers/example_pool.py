"""Texts shown to a writer model as examples: a few to begin with, and everything good it wrote since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from evolvedirector.records import UNLABELLED, digest, normalise_prompt
from evolvedirector.writers.rouge import words_of

Words = tuple[str, ...]


class ExamplePool:
    """Keep texts by skill and draw some of them as examples.

    The pool grows with what was written, so that later texts are shown other examples than the first (SELMA, section
    3.1: three examples, drawn from the seeds and everything generated so far). A draw depends on the texts in the pool
    and the seed alone, not on the order in which they came. What was added is kept in this process only: after a
    resume the pool begins again with what it was given; texts written before are kept by the ledger, not here.

    Args:
        examples: Texts by skill to begin with; they are always kept. None: none.
        most_per_skill: Texts per skill; a full pool keeps what it has.
    """

    def __init__(self, examples: Mapping[str, Sequence[str]] | None = None, most_per_skill: int = 1000) -> None:
        self.most_per_skill = most_per_skill
        self._texts: dict[str, dict[str, Words]] = {}
        self._names: dict[str, set[str]] = {}
        for skill, texts in (examples or {}).items():
            self._extend(skill, texts, len(texts))

    def draw(self, skill: str | None, count: int, seed: int) -> tuple[str, ...]:
        """Draw texts of one skill, the same for the same seed and content.

        Args:
            skill: Whose texts; None for those without a skill.
            count: Texts at most.
            seed: Another seed draws others.
        """
        texts = self._texts.get(skill or UNLABELLED, {})
        return tuple(sorted(texts, key=lambda text: digest("example", seed, text))[:count])

    def add(self, skill: str | None, texts: Iterable[str]) -> None:
        """Take texts in, as far as there is room; a text that is there already changes nothing.

        Args:
            skill: What they exercise; None for no skill in particular.
            texts: Accepted texts.
        """
        self._extend(skill or UNLABELLED, texts, self.most_per_skill)

    def words(self, skill: str | None) -> list[Words]:
        """List the texts of one skill as word lists, for finding near copies.

        Args:
            skill: Whose texts; None for those without a skill.
        """
        return list(self._texts.get(skill or UNLABELLED, {}).values())

    def _extend(self, skill: str, texts: Iterable[str], most: int) -> None:
        kept = self._texts.setdefault(skill, {})
        names = self._names.setdefault(skill, set())
        for text in texts:
            name = normalise_prompt(text)
            if len(kept) < most and name not in names:
                names.add(name)
                kept[text] = words_of(text)
