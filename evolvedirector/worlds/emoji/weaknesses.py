"""What an emoji teacher gets wrong, so that choosing among teachers matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from evolvedirector.worlds.emoji.concept import EmojiConcept
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS
from evolvedirector.worlds.emoji.scene import EmojiScene, EmojiThing
from evolvedirector.worlds.shapes.weaknesses import check_probabilities, miscount, other_relation


@dataclass(frozen=True, slots=True)
class EmojiWeaknesses:
    """Probabilities with which an artist draws something else than asked.

    Args:
        miscount: One object too few or too many, for things that come in numbers.
        confuse_relations: Another of the four relations.
        wrong_concept: One thing as another concept, of the same group where there is one.
        drop_object: One of several things is left out.
        wrong_background: Another background than the one that is named.

    Raises:
        ValueError: A probability outside of 0 to 1.
    """

    miscount: float = 0.0
    confuse_relations: float = 0.0
    wrong_concept: float = 0.0
    drop_object: float = 0.0
    wrong_background: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        check_probabilities(asdict(self))

    def distort(self, scene: EmojiScene, concepts: Sequence[EmojiConcept], draw: np.random.Generator) -> EmojiScene:
        """Return the scene that is drawn instead of the one asked for.

        Args:
            scene: What was asked for.
            concepts: Where other concepts come from.
            draw: Source of the draws; always the same number of them, so that weaknesses do not disturb each other.
        """
        draws = draw.random(5)
        if draws[0] < self.miscount and (slip := miscount([thing.count for thing in scene.things], draw)):
            index, count = slip
            scene = _with(scene, index, replace(scene.things[index], count=count))
        if draws[1] < self.confuse_relations and scene.relation is not None:
            scene = replace(scene, relation=other_relation(scene.relation, draw))
        if draws[2] < self.wrong_concept:
            scene = _mistaken(scene, concepts, draw)
        if draws[3] < self.drop_object and len(scene.things) > 1:
            lost = int(draw.integers(len(scene.things)))
            things = (*scene.things[:lost], *scene.things[lost + 1 :])
            scene = EmojiScene(things, None, scene.background)
        if draws[4] < self.wrong_background and scene.background is not None:
            backgrounds = [name for name in BACKGROUNDS if name != scene.background]
            scene = replace(scene, background=backgrounds[draw.integers(len(backgrounds))])
        return scene


def _with(scene: EmojiScene, index: int, thing: EmojiThing) -> EmojiScene:
    return replace(scene, things=(*scene.things[:index], thing, *scene.things[index + 1 :]))


def _mistaken(scene: EmojiScene, concepts: Sequence[EmojiConcept], draw: np.random.Generator) -> EmojiScene:
    index = int(draw.integers(len(scene.things)))
    group = next((c.skill for c in concepts if c.label == scene.things[index].label), "")
    free = [c for c in concepts if c.label not in scene.objects]
    options = [c for c in free if c.skill == group] or free
    if not options:
        return scene
    return _with(scene, index, replace(scene.things[index], label=options[draw.integers(len(options))].label))
