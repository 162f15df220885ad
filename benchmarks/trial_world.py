"""The world of the policy trial: the miniature grammar with images of nine pixels that spell out a layout."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache

from evolvedirector.records import (
    GoldItem,
    ImageAndPrompt,
    ImageReply,
    ImageRequest,
    Look,
    OrderedPair,
    Prompt,
    digest,
    seed_of,
)
from evolvedirector.worlds.shapes import HeldOutPrompts, World, parse, phrase
from evolvedirector.worlds.shapes.grammar import shuffled
from evolvedirector.worlds.shapes.prompts import apportion, repetition
from evolvedirector.worlds.shapes.scene import RELATIONS, Scene

WORLD = World(
    shapes=("circle", "square", "triangle", "star"), colours=("red", "green", "blue", "yellow", "purple", "orange")
)
SLOTS = 3
"""Most things that one prompt names."""
IMAGE_SIZE_PX = 3
"""Nine pixels: three things, their arrangement, and five that follow from the seed: images of one prompt differ."""

EASY_SHARES: Mapping[str, float] = {
    "single_object": 0.5,
    "counting": 0.225,
    "colours": 0.225,
    "two_objects": 0.05 / 3,
    "position": 0.05 / 3,
    "colour_binding": 0.05 / 3,
}
"""What users ask first: 95 % easy prompts. As many single objects as a small world has, then counting and colours."""
EVEN_SHARES: Mapping[str, float] = dict.fromkeys(WORLD.skills, 1.0)

Layout = tuple[int, ...]
"""Kind (shape and colour) of each thing the prompt names, 0 for none, then how they are arranged."""
_KINDS = {
    (shape, colour): 1 + index
    for index, (shape, colour) in enumerate((s, c) for s in WORLD.shapes for c in WORLD.colours)
}
_ARRANGEMENTS = ("", *RELATIONS, *range(2, WORLD.max_count + 1))
CLASSES = (*[1 + len(_KINDS)] * SLOTS, len(_ARRANGEMENTS))
"""Classes of each pixel of a layout. A kind is one class: each must be seen in each slot, which makes data scarce."""


@cache
def layout_of(prompt: str) -> Layout:
    """Return what a faithful picture of a prompt holds."""
    scene = parse(prompt)
    kinds = [_KINDS[thing.kind] for thing in scene.things]
    arrangement = scene.relation or (scene.total if len(kinds) == 1 and scene.total > 1 else "")
    return (*kinds, *[0] * (SLOTS - len(kinds)), _ARRANGEMENTS.index(arrangement))


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


_HEADER = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", IMAGE_SIZE_PX, IMAGE_SIZE_PX, 8, 0, 0, 0, 0))


def encode(layout: Sequence[int], seed: int) -> bytes:
    """Write a layout as a grey PNG of 3 x 3 pixels."""
    pixels = bytes(layout) + (seed % 2**40).to_bytes(5, "big")
    rows = b"".join(b"\0" + pixels[start : start + IMAGE_SIZE_PX] for start in range(0, len(pixels), IMAGE_SIZE_PX))
    return _HEADER + _chunk(b"IDAT", zlib.compress(rows, 0)) + _chunk(b"IEND", b"")


def decode(image: bytes) -> Layout:
    """Read the layout back from a picture that `encode` wrote; any other picture shows nothing."""
    if not image.startswith(_HEADER):
        return ()
    (size,) = struct.unpack_from(">I", image, len(_HEADER))
    start = len(_HEADER) + 8
    rows = zlib.decompress(image[start : start + size])
    pixels = b"".join(rows[row * (IMAGE_SIZE_PX + 1) + 1 :][:IMAGE_SIZE_PX] for row in range(IMAGE_SIZE_PX))
    return tuple(pixels[: len(CLASSES)])


class TrialTeacher:
    """Draw every prompt as it asks."""

    fingerprint = "trial-teacher-1"

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one faithful picture per request."""
        for request in requests:
            yield ImageReply(request.request_id, "image", encode(layout_of(request.prompt), request.seed))

    def close(self) -> None:
        """Do nothing: there is no memory to free."""


class TrialJudge:
    """Compare pictures with the truth, with knobs that simulate a noisy model.

    Args:
        error_rate: Probability that an answer is turned into its opposite.
        always_first: Answer "the first" to every pair, and "yes" to every single image.
        unreadable_rate: Probability of a reply that cannot be read.
    """

    def __init__(self, error_rate: float = 0.0, always_first: bool = False, unreadable_rate: float = 0.0) -> None:
        self.error_rate = error_rate
        self.always_first = always_first
        self.unreadable_rate = unreadable_rate

    @property
    def fingerprint(self) -> str:
        """Name every knob that changes the answers."""
        return f"trial-judge-1/{self.error_rate}/{self.always_first}/{self.unreadable_rate}"

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield the probability that the first picture fits better; between equals a coin, for one must be named."""
        for pair in pairs:
            truth = layout_of(pair.prompt)
            margin = 0.45 * ((decode(pair.first) == truth) - (decode(pair.second) == truth))
            content = (pair.prompt, pair.first, pair.second)
            margin = margin or (0.01 if seed_of("coin", *content) % 2 else -0.01)
            yield self._look(pair.item_id, 0.5 + margin, *content)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield the probability that the picture shows its prompt."""
        for item in items:
            shows = decode(item.image) == layout_of(item.prompt)
            yield self._look(item.item_id, 0.95 if shows else 0.05, item.prompt, item.image)

    def _look(self, item_id: str, probability: float, *content: str | bytes) -> Look:
        draw = seed_of("judge", *content) / 2**63
        if seed_of("unreadable", *content) / 2**63 < self.unreadable_rate:
            return Look(item_id, 0.5, 0.0, "reply could not be read")
        if self.always_first:
            return Look(item_id, 0.98)
        return Look(item_id, 1.0 - probability if draw < self.error_rate else probability)

    def close(self) -> None:
        """Do nothing: there is no memory to free."""


@lru_cache(maxsize=32)
def _free_scenes(skill: str, held_out: HeldOutPrompts, seed: int) -> list[Scene]:
    """List the scenes of a skill that may be trained on, in an order drawn by seed."""
    return [scene for scene in shuffled(WORLD, skill, seed) if not held_out.holds(scene)]


class TrialPrompts:
    """List any number of prompts in stated shares of the skills; a text that is used up comes again as another prompt.

    The images of such copies differ by their seed, as when users ask for the same thing twice.

    Args:
        count: How many; a longer list begins with the skills' prompts of a shorter one.
        shares: Weight per skill.
        held_out: Prompts never listed.
        seed: Which prompts.
    """

    def __init__(self, count: int, shares: Mapping[str, float], held_out: HeldOutPrompts, seed: int) -> None:
        self.count = count
        self.shares = shares
        self.held_out = held_out
        self.seed = seed

    def prompts(self) -> Sequence[Prompt]:
        """List the prompts, skill after skill."""
        parts = apportion(self.count, list(self.shares.values()), [self.count] * len(self.shares))
        listed: list[Prompt] = []
        for skill, part in zip(self.shares, parts, strict=True):
            free = _free_scenes(skill, self.held_out, self.seed)
            for index in range(part):
                copy, position = divmod(index, len(free))
                listed.append(repetition(Prompt.create(phrase(free[position]), skill=skill), copy))
        return listed


class TrialGold:
    """List pictures with known answers: half show their prompt, half show another one, of the same skill as a rule.

    Args:
        count: How many, evenly over the skills.
        held_out: Prompts never listed.
        seed: Which prompts.
    """

    def __init__(self, count: int, held_out: HeldOutPrompts, seed: int) -> None:
        self.count = count
        self.held_out = held_out
        self.seed = seed

    def items(self) -> Sequence[GoldItem]:
        """List the items."""
        prompts = TrialPrompts(self.count, EVEN_SHARES, self.held_out, seed_of("gold", self.seed)).prompts()
        listed = []
        for index, prompt in enumerate(prompts):
            shown = prompt if index % 2 else prompts[index - 1]
            image = encode(layout_of(shown.text), seed_of("gold", self.seed, index))
            listed.append(GoldItem(digest("gold", self.seed, index), image, prompt.text, shown.text == prompt.text))
        return listed
