"""A teacher whose images cost nothing and whose mistakes are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np

from evolvedirector.records import ImageReply, ImageRequest, digest, seed_of
from evolvedirector.worlds.shapes.artist import draw, to_png
from evolvedirector.worlds.shapes.grammar import parse
from evolvedirector.worlds.shapes.weaknesses import Weaknesses
from evolvedirector.worlds.shapes.world import World

Layout = Literal["free", "tidy"]


class MiniatureTeacher:
    """Draw prompts of the miniature world, with stated strengths and weaknesses.

    A stand-in for an image API: the same seam, deterministic in (prompt, seed), refusing what it does not understand.

    Args:
        world: which words it knows.
        name: shown in reports; part of the fingerprint.
        miscount: probability of one object too few or too many, where a number is asked for.
        swap_colours: probability that two things exchange their colours.
        confuse_relations: probability of another relation.
        wrong_shape: probability that one thing has another shape.
        refuse_probability: probability that a prompt is refused, drawn once per prompt and not per seed, as a
            content filter would.
        cost_usd_per_image: price of one image in US dollars, for budgets.
        seed: another seed makes another artist of the same kind.
        layout: `free` puts objects anywhere; `tidy` on a lattice in reading order, large, with little play. A tidy
            artist has less to teach about placement, so a small student reaches the words sooner; let the teachers
            of one student share a layout.

    Raises:
        ValueError: a probability outside of 0 to 1, a negative price, or an unknown layout.
    """

    def __init__(
        self,
        world: World = World(),  # noqa: B008 - frozen
        name: str = "exact",
        miscount: float = 0.0,
        swap_colours: float = 0.0,
        confuse_relations: float = 0.0,
        wrong_shape: float = 0.0,
        refuse_probability: float = 0.0,
        cost_usd_per_image: float = 0.0,
        seed: int = 0,
        layout: Layout = "free",
    ) -> None:
        if not 0.0 <= refuse_probability <= 1.0:
            raise ValueError(f"refuse_probability={refuse_probability}. Allowed is 0 to 1. Write 0 for never.")
        if not cost_usd_per_image >= 0.0:
            raise ValueError(
                f"cost_usd_per_image={cost_usd_per_image}. Allowed is 0 or more. Write 0 for a free teacher."
            )
        if layout not in get_args(Layout):
            raise ValueError(f"layout={layout!r}. Allowed are {', '.join(get_args(Layout))}. Write 'free'.")
        self.world = world
        self.name = name
        self.weaknesses = Weaknesses(miscount, swap_colours, confuse_relations, wrong_shape)
        self.refuse_probability = refuse_probability
        self.cost_usd_per_image = cost_usd_per_image
        self.seed = seed
        self.layout = layout

    @property
    def fingerprint(self) -> str:
        """Name the artist and every parameter that changes its images."""
        parameters = digest(repr(self.world), repr(self.weaknesses), repr(self.refuse_probability), self.seed)
        # Free adds nothing: images that were bought before there was a choice stay found in the cache.
        layout = "" if self.layout == "free" else f"/{self.layout}"
        return f"miniature-1/{self.name}/{parameters}{layout}"

    def _reply(self, request: ImageRequest) -> ImageReply:
        try:
            scene = parse(request.prompt)
        except ValueError as error:
            return ImageReply(request.request_id, "refusal", reason=str(error))
        if not self.world.contains(scene):
            return ImageReply(request.request_id, "refusal", reason=f"{request.prompt!r} is outside of this world")
        if np.random.default_rng(seed_of("refuse", self.fingerprint, repr(scene))).random() < self.refuse_probability:
            return ImageReply(request.request_id, "refusal", reason="refused by the artist")
        rng = np.random.default_rng(seed_of("weakness", self.fingerprint, repr(scene), request.seed))
        drawn = self.weaknesses.distort(scene, self.world, rng)
        try:
            seed = seed_of(self.seed, request.seed)
            image = draw(drawn, request.width_px, request.height_px, seed, tidy=self.layout == "tidy")
        except ValueError as error:
            return ImageReply(request.request_id, "failure", reason=str(error))
        return ImageReply(request.request_id, "image", to_png(image), cost_usd=self.cost_usd_per_image)

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one reply per request, in order.

        Args:
            requests: any prompts; those outside of the grammar or the world are refused.
        """
        for request in requests:
            yield self._reply(request)

    def price_usd(self) -> float:
        """Return the price of an image, in USD."""
        return self.cost_usd_per_image

    def close(self) -> None:
        """Do nothing: there is no memory to free."""
