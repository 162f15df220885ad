"""Pictures of an embedded world's subjects, as training images: what they are to show, and who draws them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.pairs.drawn.changes import TEXTURES, TINTS, named_background, scene, textured, tinted
from evolvedirector.pairs.drawn.cut_outs import CutOuts
from evolvedirector.pairs.drawn.drawn_subjects import concepts_of
from evolvedirector.pairs.pictures import picture_file
from evolvedirector.records import ImageReply, ImageRequest, Prompt, digest, seed_of
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS

Part = Literal["train", "held_out"]
_IN = " in the style of "
_CHANGED_SHARE = 0.4
"""Of the pictures that have a tint or a texture: a refiner is shown drafts that have one."""


class SubjectPrompts:
    """List pictures of a world's concepts in its art sets, some of them tinted or textured; a fifth is held out whole.

    Seeds of a dataset whose images `SubjectArtist` draws.
    """

    def __init__(self, world: CutOuts, count: int, part: Part = "train", seed: int = 0) -> None:
        """Choose how many.

        Args:
            world: Names concepts and art sets.
            count: Pictures.
            part: `train`, or the concepts that are held out from it: those that `DrawnSubjects` holds out, so that no
                subject of a held-out question is trained on.
            seed: Which of them.

        Raises:
            UserError: The part has fewer.
        """
        names = concepts_of(world, part)
        most = len(names) * len(world.looks)
        if not 1 <= count <= most:
            raise UserError(
                f"count is {count}. Allowed are 1 to {most}: {len(names)} concepts in {len(world.looks)} art sets. "
                f"Write `count: {most}`."
            )
        lot = np.random.default_rng(seed_of("subject pictures", seed, part))
        rows = [(concept, look) for concept in names for look in world.looks]
        chosen = [rows[row] for row in lot.permutation(most)[:count]]
        self._prompts = tuple(Prompt.create(_text(concept, look, lot), skill=look) for concept, look in chosen)

    def prompts(self) -> Sequence[Prompt]:
        """List them, each once."""
        return self._prompts


class SubjectArtist:
    """Draw the pictures that `SubjectPrompts` lists: one subject that fills most of a plain background."""

    def __init__(self, world: CutOuts) -> None:
        """Choose the world.

        Args:
            world: Draws the cut-outs.
        """
        self.world = world
        self._concepts: frozenset[str] | None = None

    @property
    def fingerprint(self) -> str:
        """Name the world and how its subjects are shown."""
        return f"subject artist 1 {digest(self.world.fingerprint)}"

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one PNG per request, or a refusal of a prompt that is none of `SubjectPrompts`."""
        for request in requests:
            found = self._read(request.prompt)
            if found is None:
                yield ImageReply(
                    request.request_id, "refusal", reason=f"The world draws nothing called {request.prompt!r}."
                )
                continue
            file = picture_file(subject_picture(self.world, *found, request.seed, request.width_px))
            yield ImageReply(request.request_id, "image", file.content)

    def price_usd(self) -> float:
        """Return the price of an image, in USD: none."""
        return 0.0

    def close(self) -> None:
        """Do nothing: the pictures in memory are small and shared."""

    def _read(self, text: str) -> tuple[str, str, str] | None:
        """Return concept, art set and change of a prompt."""
        if self._concepts is None:
            self._concepts = frozenset(self.world.concepts())
        name, _, look = text.rpartition(_IN)
        if look not in self.world.looks:
            return None
        first, _, rest = name.partition(" ")
        if rest in self._concepts and first in (*TINTS, *TEXTURES):
            return rest, look, first
        return (name, look, "") if name in self._concepts else None


def subject_picture(world: CutOuts, concept: str, look: str, change: str, seed: int, side_px: int) -> np.ndarray:
    """Draw one subject that fills most of the canvas, on a background by lot; uint8 [side, side, 3].

    Args:
        world: Draws the cut-out.
        concept: Of the world.
        look: Its art set.
        change: A tint, a texture, or nothing.
        seed: Of size, place and background.
        side_px: Of the picture.
    """
    lot = np.random.default_rng(seed_of("subject picture", concept, look, change, seed))
    cut = np.asarray(world.cut_out(concept, look, max(4, round(float(lot.uniform(0.8, 1.0)) * side_px))))
    if change:
        cut = tinted(cut, change) if change in TINTS else textured(cut, change)
    names = list(BACKGROUNDS)
    background = named_background(names[int(lot.integers(len(names)))])
    return scene(cut, (float(lot.uniform(0.4, 0.6)), float(lot.uniform(0.4, 0.6))), background, side_px)[0]


def _text(concept: str, look: str, lot: np.random.Generator) -> str:
    changes = (*TINTS, *TEXTURES)
    changed = lot.random() < _CHANGED_SHARE
    change = changes[int(lot.integers(len(changes)))] if changed else ""
    return f"{change} {concept}{_IN}{look}".strip()
