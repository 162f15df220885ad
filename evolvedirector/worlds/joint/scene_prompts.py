"""Prompts of one split of the joint world: what a prior is trained, tuned or tested on."""

from __future__ import annotations

from collections.abc import Sequence

from evolvedirector.errors import UserError
from evolvedirector.records import Prompt
from evolvedirector.worlds.joint.world import Split, drawn_scenes
from evolvedirector.worlds.shapes.grammar import phrase, skill_of
from evolvedirector.worlds.shapes.prompts import repetition


class ScenePrompts:
    """List prompts of one split, in turn from each skill.

    Four kinds of 24 (a shape in a colour) occur in `test` alone and four in `validation` alone, in every skill; each
    shape and each colour is known from other kinds. A text that is drawn again comes as a prompt of its own, with an
    image of its own, as pairs of a corpus do.

    Args:
        split: `train`, `validation` or `test`.
        count: How many.
        seed: Which ones.
        repeats: Off: each text once, and fewer prompts where there are no more.

    Raises:
        UserError: A count below 1.
    """

    def __init__(self, split: Split = "train", count: int = 200, seed: int = 0, repeats: bool = True) -> None:
        if count < 1:
            raise UserError(f"count={count}. Allowed is 1 or more. Write 200.")
        self.split: Split = split
        self.count = count
        self.seed = seed
        self.repeats = repeats

    def prompts(self) -> Sequence[Prompt]:
        """List them; the same arguments list the same prompts."""
        listed: list[Prompt] = []
        times: dict[str, int] = {}
        for scene, _ in drawn_scenes(self.split, self.count, self.seed):
            text = phrase(scene)
            number = times.get(text, 0)
            times[text] = number + 1
            if number == 0 or self.repeats:
                listed.append(repetition(Prompt.create(text, skill=skill_of(scene)), number))
        return listed
