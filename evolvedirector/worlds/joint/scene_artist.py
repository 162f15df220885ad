"""The artist of the joint world: pictures with what their text does not say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.worlds.joint.picture import SIZE_PX, picture
from evolvedirector.worlds.joint.world import JOINT_WORLD
from evolvedirector.worlds.shapes.artist import to_png
from evolvedirector.worlds.shapes.grammar import parse


class SceneArtist:
    """Draw prompts of the joint world at 32 px, each seed in another place, size, tint, shading and stain: a teacher.

    Exact: what it draws is what the prompt says. Prompts of other words are refused.
    """

    @property
    def fingerprint(self) -> str:
        """Name the artist."""
        return "joint-artist-1"

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one reply per request, in order.

        Args:
            requests: Of 32 px.
        """
        for request in requests:
            yield _reply(request)

    def price_usd(self) -> float:
        """Return the price of an image: nothing."""
        return 0.0

    def close(self) -> None:
        """Do nothing: there is no memory to free."""


def _reply(request: ImageRequest) -> ImageReply:
    if (request.width_px, request.height_px) != (SIZE_PX, SIZE_PX):
        return ImageReply(request.request_id, "failure", reason=f"this artist draws {SIZE_PX} px images only")
    try:
        scene = parse(request.prompt)
    except ValueError as error:
        return ImageReply(request.request_id, "refusal", reason=str(error))
    if not JOINT_WORLD.contains(scene):
        return ImageReply(request.request_id, "refusal", reason=f"{request.prompt!r} is outside of this world")
    return ImageReply(request.request_id, "image", to_png(picture(scene, request.seed)))
