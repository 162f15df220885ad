"""A judge that really sees what is in a picture, and can be made as unreliable as a vision-language model."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from evolvedirector.judges.faithfulness import look_of
from evolvedirector.records import (
    AtomAnswer,
    FaithfulnessLook,
    ImageAndPrompt,
    Look,
    OrderedPair,
    digest,
    seed_of,
)
from evolvedirector.worlds.shapes.atoms import Atom, answer, atoms_of, faithfulness
from evolvedirector.worlds.shapes.grammar import parse
from evolvedirector.worlds.shapes.reader import read
from evolvedirector.worlds.shapes.reading import SeenScene
from evolvedirector.worlds.shapes.scene import Scene
from evolvedirector.worlds.shapes.weaknesses import check_probabilities
from evolvedirector.worlds.shapes.world import World

MAX_BYTES = 16 * 2**20
MAX_SIDE_PX = 4096
_STEEPNESS = 12.0
"""Of the comparison: two faithful images that differ a little in sharpness stay near one half."""


def decode(image: bytes) -> Image.Image:
    """Decode an encoded image within the limits of this judge.

    Args:
        image: PNG, JPEG or WebP bytes.

    Raises:
        ValueError: too many bytes or pixels, or no image at all.
    """
    if len(image) > MAX_BYTES:
        raise ValueError(f"Image of {len(image)} bytes. Allowed are {MAX_BYTES}.")
    try:
        opened = Image.open(io.BytesIO(image), formats=("PNG", "JPEG", "WEBP"))
        if max(opened.size) > MAX_SIDE_PX:
            raise ValueError(f"Image of {opened.size} px. Allowed are sides of up to {MAX_SIDE_PX} px.")
        # Pillow warns of a palette with transparency unless it is resolved first.
        resolved = opened.convert("RGBA") if opened.mode == "P" else opened
        return resolved.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{len(image)} bytes are no image: {type(error).__name__}.") from error


class MiniatureJudge:
    """Judge pictures of the miniature world by reading them, with knobs that simulate a noisy model.

    Every draw depends on the content of the question alone: the same question has the same answer after a resume,
    and the two orders of a pair are two independent looks.

    Args:
        world: which words it knows.
        error_rate: probability that an answer is turned into its opposite; per question when asked by atoms.
        position_bias: probability that a pair is answered "the first", whatever it shows; 1 is always-first.
        invalid_rate: probability of a reply that cannot be read (covered mass 0); per question when asked by atoms.
        refusal_rate: probability of a refusal (covered mass 0).
        seed: another seed errs elsewhere.
        by_atoms: ask `check` question by question (each object, colour, count and relation) and combine the answers,
            rather than once about the whole image: some four to ten questions an image.
        expected_error: share of wrong answers that the combining reckons with; 0 takes every answer for true, so one
            no fails the image. Used with `by_atoms` only.
        asks_per_atom: how often each question is asked, with independent errors: more is dearer and more accurate.

    Raises:
        ValueError: a rate outside of 0 to 1, an expected error of 0.5 or more, or questions asked less than once.
    """

    def __init__(
        self,
        world: World = World(),  # noqa: B008 - frozen
        error_rate: float = 0.0,
        position_bias: float = 0.0,
        invalid_rate: float = 0.0,
        refusal_rate: float = 0.0,
        seed: int = 0,
        by_atoms: bool = False,
        expected_error: float = 0.0,
        asks_per_atom: int = 1,
    ) -> None:
        rates = {
            "error_rate": error_rate,
            "position_bias": position_bias,
            "invalid_rate": invalid_rate,
            "refusal_rate": refusal_rate,
        }
        check_probabilities(rates)
        if not 0.0 <= expected_error < 0.5:
            raise ValueError(f"expected_error={expected_error}. Allowed is 0 to under 0.5. Write 0.1.")
        if asks_per_atom < 1:
            raise ValueError(f"asks_per_atom={asks_per_atom}. Allowed is 1 or more. Write 1.")
        self.world = world
        self.error_rate = error_rate
        self.position_bias = position_bias
        self.invalid_rate = invalid_rate
        self.refusal_rate = refusal_rate
        self.seed = seed
        self.by_atoms = by_atoms
        self.expected_error = expected_error
        self.asks_per_atom = asks_per_atom

    @property
    def fingerprint(self) -> str:
        """Name the reader and every rate that changes its answers."""
        rates = (self.error_rate, self.position_bias, self.invalid_rate, self.refusal_rate)
        atoms = f"/atoms-{self.expected_error}-{self.asks_per_atom}" if self.by_atoms else ""
        return f"miniature-reader-1/{digest(repr(self.world), repr(rates), self.seed)}{atoms}"

    def _see(self, image: bytes, prompt: str) -> tuple[Scene, SeenScene]:
        """Read a prompt and its image; everything that cannot be judged is a ValueError."""
        scene = parse(prompt)
        for thing in scene.things:
            # The reader looks for the world's words only: a no to any other word would be a guess.
            if thing.shape not in self.world.shapes or thing.colour not in self.world.colours:
                raise ValueError(f"{thing.colour} {thing.shape} is outside of this judge's world.")
        return scene, read(decode(image), self.world)

    def _grade(self, image: bytes, prompt: str) -> float:
        return faithfulness(*self._see(image, prompt))

    def _spoil(self, item_id: str, probability: float, content: tuple[str | bytes, ...], is_pair: bool) -> Look:
        """Turn what was seen into what is answered."""
        draws = np.random.default_rng(seed_of("look", self.fingerprint, *content)).random(4)
        if draws[0] < self.refusal_rate:
            return Look(item_id, 0.5, 0.0, "refused to answer")
        if draws[1] < self.invalid_rate:
            return Look(item_id, 0.5, 0.0, "reply could not be read")
        if is_pair and draws[2] < self.position_bias:
            return Look(item_id, 0.98)
        if draws[3] < self.error_rate:
            probability = 1.0 - probability
        return Look(item_id, probability)

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield, per pair in its one order, the probability that the first image fits better.

        Args:
            pairs: encoded images; faithfulness decides first, sharpness between equals.
        """
        for pair in pairs:
            try:
                margin = self._grade(pair.first, pair.prompt) - self._grade(pair.second, pair.prompt)
            except ValueError as error:
                yield Look(pair.item_id, 0.5, 0.0, str(error))
                continue
            probability = float(1.0 / (1.0 + np.exp(-_STEEPNESS * margin)))
            yield self._spoil(pair.item_id, probability, ("pair", pair.first, pair.second, pair.prompt), True)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield, per item, the probability that the image shows the prompt; over 0.5 exactly where it does.

        Args:
            items: encoded images with their prompts.
        """
        if self.by_atoms:
            yield from (look_of(answers, self.expected_error) for answers in self.ask_atoms(items))
            return
        for item in items:
            try:
                probability = self._grade(item.image, item.prompt)
            except ValueError as error:
                yield Look(item.item_id, 0.5, 0.0, str(error))
                continue
            yield self._spoil(item.item_id, probability, ("check", item.image, item.prompt), False)

    def _answer(self, item: ImageAndPrompt, atom: Atom, reading: SeenScene, ask: int) -> AtomAnswer:
        content = ("atom", item.image, item.prompt, atom.question, ask)
        draws = np.random.default_rng(seed_of("look", self.fingerprint, *content)).random(2)
        if draws[0] < self.invalid_rate:
            return AtomAnswer(atom.kind, atom.question, 0.5, 0.0)
        probability = answer(atom, reading)
        return AtomAnswer(atom.kind, atom.question, 1.0 - probability if draws[1] < self.error_rate else probability)

    def ask_atoms(self, items: Sequence[ImageAndPrompt]) -> Iterator[FaithfulnessLook]:
        """Yield, per item, one answer per object, colour, count and relation of its prompt.

        Errors and unreadable replies are drawn per question, a refusal per image: then there are no answers.

        Args:
            items: encoded images with their prompts.
        """
        for item in items:
            try:
                scene, reading = self._see(item.image, item.prompt)
            except ValueError as error:
                yield FaithfulnessLook(item.item_id, (), str(error))
                continue
            refusal = seed_of("refusal", self.fingerprint, item.image, item.prompt)
            if np.random.default_rng(refusal).random() < self.refusal_rate:
                yield FaithfulnessLook(item.item_id, (), "refused to answer")
                continue
            asks = range(self.asks_per_atom)
            answers = tuple(self._answer(item, atom, reading, ask) for atom in atoms_of(scene) for ask in asks)
            yield FaithfulnessLook(item.item_id, answers)

    def close(self) -> None:
        """Do nothing: there is no memory to free."""
