"""Images that are there already, found by their prompt: what folders and shards have in common as teachers."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar, get_args

from evolvedirector.errors import UserError
from evolvedirector.records import ImageReply, ImageRequest, digest, normalise_prompt, prompt_id_of
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import decode_image
from evolvedirector.store.left_out import first_lines

Fit = Literal["crop", "keep"]
"""`crop`: scaled and cropped to the size asked for, as PNG; `keep`: the bytes as they are."""
Place = TypeVar("Place")
UNKNOWN = "no image of this prompt"
_log = logging.getLogger(__name__)


class Given(NamedTuple, Generic[Place]):
    """One picture that is there."""

    name: str
    """Unique within its source."""
    size_bytes: int
    caption: str
    place: Place
    """Where its bytes are."""


class PromptIndex(Generic[Place]):
    """Find the places of pictures by prompt; case, articles and white space make no difference.

    Args:
        pictures: In any order.
    """

    def __init__(self, pictures: Iterable[Given[Place]]) -> None:
        places: dict[str, list[tuple[str, Place]]] = {}
        parts: list[str] = []
        for picture in pictures:
            if normalise_prompt(picture.caption):
                places.setdefault(prompt_id_of(picture.caption), []).append((picture.name, picture.place))
                parts.append(digest(picture.name, picture.size_bytes, picture.caption))
        self._places = {key: [place for _, place in sorted(found, key=_name)] for key, found in places.items()}
        self.images = len(parts)
        """Pictures that can be found."""
        self.content = digest("given", *sorted(parts))
        """Names what is there by names, sizes and captions."""
        self.left_out: Sequence[str] = ()
        """What the source has beside them, with the reason for which it cannot be used."""

    def find(self, prompt: str, seed: int) -> Place | None:
        """Return one of the pictures of a prompt, chosen by the seed; None: there is none.

        Args:
            prompt: What is asked for.
            seed: Counts through the pictures of a prompt, in order of their names.
        """
        found = self._places.get(prompt_id_of(prompt))
        return found[seed % len(found)] if found else None

    def replies(
        self, requests: Sequence[ImageRequest], read: Callable[[Place], bytes], fit: Fit
    ) -> Iterator[ImageReply]:
        """Yield one reply per request, in order.

        An unknown prompt is a refusal, a picture that cannot be used a failure.

        Args:
            requests: What is asked for.
            read: Reads the bytes of a picture.
            fit: What is done with them.
        """
        for request in requests:
            yield self._reply(request, read, fit)

    def _reply(self, request: ImageRequest, read: Callable[[Place], bytes], fit: Fit) -> ImageReply:
        place = self.find(request.prompt, request.seed)
        if place is None:
            return ImageReply(request.request_id, "refusal", reason=UNKNOWN)
        try:
            image = fitted(read(place), request.width_px, request.height_px, fit)
        except (OSError, StoreError) as error:
            return ImageReply(request.request_id, "failure", reason=f"unusable image: {error}")
        return ImageReply(request.request_id, "image", image)


def index_of(pictures: Iterable[Given[Place]], problems: Sequence[str], source: str, what: str) -> PromptIndex[Place]:
    """Index the pictures of a source, and warn of those that cannot be used.

    Args:
        pictures: Listed while they are indexed.
        problems: What the listing says of pictures that it leaves out; it may grow until the listing ends.
        source: Where they lie, for the warning.
        what: What they are called there, in the plural, for the warning.

    Raises:
        UserError: The source cannot be listed.
    """
    try:
        index = PromptIndex(pictures)
    except StoreError as error:
        raise UserError(str(error)) from error
    index.left_out = tuple(problems)
    if problems:
        _log.warning("%s: %d %s cannot be used.\n%s", source, len(problems), what, first_lines(problems))
    return index


def check_fit(fit: str) -> None:
    """Refuse what is no `Fit`.

    Raises:
        UserError: With the words that are.
    """
    if fit not in get_args(Fit):
        raise UserError(f"fit is '{fit}'. Allowed are {', '.join(get_args(Fit))}. Write crop.")


def fitted(image: bytes, width_px: int, height_px: int, fit: Fit) -> bytes:
    """Bring a picture to the size asked for.

    Args:
        image: PNG, JPEG or WebP.
        width_px: Width asked for.
        height_px: Height asked for.
        fit: `crop` scales it to cover that size and cuts off what stands over, at the centre; `keep` only checks it.

    Raises:
        StoreError: It is too large, of another format or damaged.
    """
    pixels = decode_image(image)
    if fit == "keep":
        return image
    from PIL import Image, ImageOps

    buffer = io.BytesIO()
    picture = ImageOps.fit(Image.fromarray(pixels), (width_px, height_px), Image.Resampling.BICUBIC)
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _name(item: tuple[str, object]) -> str:
    return item[0]
