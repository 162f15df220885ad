"""Read the changes of an embedded world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image, ImageFilter

from evolvedirector.pairs.drawn.changes import VIEWS, scene, turned
from evolvedirector.pairs.drawn.cut_outs import CutOuts
from evolvedirector.pairs.drawn.readings import background_score, place_score, texture_score, tint_share
from evolvedirector.pairs.masks import against_border
from evolvedirector.pairs.pair_records import IMAGE, MASK, REFERENCE, REFERENCE_MASK, PairReply, PairRequest
from evolvedirector.pairs.patch_encoder import PatchEncoder, cosine
from evolvedirector.pairs.pictures import cut_square, mask_of, pixels_of
from evolvedirector.records import seed_of
from evolvedirector.records.part import close_parts
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS

_RIDGE = 100.0


class DrawnReader:
    """Measure place, background, tint and texture in the pixels, and an art set by statistics of patch features.

    The art set is read by a linear classifier fitted to `learned` concepts of the world, so it has not seen the
    subjects that it reads where these are others. It learns from pictures as it will read them: on a background, soft
    and noisy, cut out by colour (of five art sets of emoji it then reads .75 right, from clean cut-outs .60). `text`
    says how near the picture is to the mean of its category over the world's art sets but the one that is asked for:
    what a text encoder knows of a word, for a world that CLIP does not know.
    """

    def __init__(
        self,
        world: CutOuts,
        encoder: PatchEncoder,
        style_encoder: PatchEncoder | None = None,
        learned: int = 160,
        side_px: int = 96,
        text: bool = True,
    ) -> None:
        """Choose the world.

        Args:
            world: Draws the cut-outs that art sets and categories are learned from.
            encoder: Of patches.
            style_encoder: A second one, of finer patches, whose statistics tell art sets apart as well. None: no other.
            learned: Concepts, in each art set, that the classifier of art sets is fitted to.
            side_px: Side of the squares that are encoded.
            text: Also give the score `text`.
        """
        self.world, self.encoder, self.style_encoder = world, encoder, style_encoder
        self.learned, self.side_px, self.text = learned, side_px, text
        self._prototype = lru_cache(maxsize=4096)(self._prototype_of)

    @property
    def fingerprint(self) -> str:
        """Name the world, the features and what was learned."""
        finer = "" if self.style_encoder is None else self.style_encoder.fingerprint
        how = f"{self.learned} {self.side_px} {self.text} {finer}"
        return f"drawn reader 2 {self.world.fingerprint} {self.encoder.fingerprint} {how}"

    def read(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield the scores `change` and, for a category of the world, `text`."""
        read = [(pixels_of(r.files[IMAGE]), mask_of(r.files[MASK])) for r in requests]
        squares = [cut_square(pixels, mask, self.side_px)[0] for pixels, mask in read]
        greys = [_grey(square) for square in squares] if self.text else []
        features = self._relative(greys) if greys else np.empty(0)
        for place, (request, (pixels, mask)) in enumerate(zip(requests, read, strict=True)):
            scores = {"change": self._change(request, pixels, mask, squares[place])}
            if self.text and request.subject.group in self._concepts:
                prototype = self._prototype(request.subject.group, request.change.get("style", ""))
                scores["text"] = cosine(features[place], prototype)
            yield PairReply(request.request_id, scores=scores)

    def close(self) -> None:
        """Let go of the encoder's weights."""
        close_parts(self.encoder, self.style_encoder)

    def _change(self, request: PairRequest, pixels: np.ndarray, mask: np.ndarray, square: np.ndarray) -> float:
        change = request.change
        match request.kind:
            case "place":
                background = background_score(pixels, mask, change["background"])
                return min(place_score(mask, change["place"]), background)
            case "tint":
                return tint_share(pixels, mask, change["tint"])
            case "texture":
                return texture_score(pixels, mask, change["texture"])
            case "style":
                return self._style(square, change["style"])
            case _:
                return self._view(request, square, change["view"])

    def _style(self, square: np.ndarray, look: str) -> float:
        """Return the classifier's answer for the art set asked for, less its best one for another."""
        mean, deviation, weights = self._classifier
        statistics = (self._statistics([square]) - mean) / deviation
        answers = dict(zip(self.world.looks, (statistics @ weights[:-1] + weights[-1])[0], strict=True))
        own = answers.pop(look)
        return float(own - max(answers.values(), default=0.0))

    def _view(self, request: PairRequest, square: np.ndarray, view: str) -> float:
        """Return how much nearer the picture is to the reference turned as asked than to any other view of it."""
        pixels, mask = pixels_of(request.files[REFERENCE]), mask_of(request.files[REFERENCE_MASK])
        reference, _ = cut_square(pixels, mask, self.side_px)
        views = {"": reference, **{name: turned(reference, name) for name in VIEWS}}
        features = self._relative([square, *views.values()])
        near = {name: cosine(features[0], other) for name, other in zip(views, features[1:], strict=True)}
        own = near.pop(view)
        return own - max(near.values())

    @cached_property
    def _concepts(self) -> frozenset[str]:
        return frozenset(self.world.concepts())

    @cached_property
    def _empty(self) -> np.ndarray:
        return self.encoder.encode([np.full((self.side_px, self.side_px, 3), 255, np.uint8)])[0]

    def _relative(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        """Encode squares relative to the empty one."""
        return np.asarray(self.encoder.encode(squares) - self._empty)

    def _prototype_of(self, concept: str, without: str) -> np.ndarray:
        looks = [look for look in self.world.looks if look != without]
        features = self._relative([_grey(self._cut(concept, look)) for look in looks])
        return np.asarray(features.mean(axis=0))

    def _cut(self, concept: str, look: str) -> np.ndarray:
        cut = np.asarray(self.world.cut_out(concept, look, self.side_px))
        covered = cut[..., 3] >= 128
        return cut_square(cut[..., :3], covered, self.side_px)[0] if covered.any() else cut[..., :3]

    @cached_property
    def _classifier(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fit one linear answer per art set by ridge regression: W = (Z'Z + r I)^-1 Z'Y on standardised statistics.

        Returns:
            Mean and deviation of the statistics, and W with the constants in its last row.
        """
        names = learned_concepts(self.world, self.learned)
        rows = [(concept, number) for concept in names for number in range(len(self.world.looks))]
        x = self._statistics([self._seen(concept, self.world.looks[number]) for concept, number in rows])
        mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
        z = np.concatenate([(x - mean) / deviation, np.ones((len(x), 1))], axis=1)
        y = np.eye(len(self.world.looks))[[number for _, number in rows]]
        return mean, deviation, np.linalg.solve(z.T @ z + _RIDGE * np.eye(z.shape[1]), z.T @ y)

    def _seen(self, concept: str, look: str) -> np.ndarray:
        """Show a concept as pictures show it: on a background, a little soft and noisy, cut out by its colour."""
        lot = np.random.default_rng(seed_of("learned picture", concept, look))
        cut = np.asarray(self.world.cut_out(concept, look, self.side_px))
        background = list(BACKGROUNDS.values())[int(lot.integers(len(BACKGROUNDS)))]
        picture, _ = scene(cut, (0.5, 0.5), background, round(1.25 * self.side_px))
        soft = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(float(lot.uniform(0, 0.8))))
        noisy = np.asarray(soft, float) + lot.normal(0, 3, picture.shape)
        pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        mask = against_border(pixels, 24)
        return cut_square(pixels, mask, self.side_px)[0] if mask.any() else self._cut(concept, look)

    def _statistics(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        """Describe how pictures are drawn, not what: moments of features, lightness and its steps; [n, statistics]."""
        pixels = np.stack(squares).astype(float) / 255
        light = pixels @ np.array([0.299, 0.587, 0.114])
        inside = (pixels < 0.995).any(axis=-1)
        share = inside.sum(axis=(1, 2)) + 1.0
        steps = np.abs(np.diff(light, axis=2))[:, :-1] + np.abs(np.diff(light, axis=1))[:, :, :-1]
        drawn = [
            *(((light < level) & inside).sum(axis=(1, 2)) / share for level in (0.08, 0.15, 0.3)),
            *((steps > level).mean(axis=(1, 2)) for level in (0.01, 0.03, 0.1, 0.3)),
            np.ptp(pixels, axis=-1).mean(axis=(1, 2)),
            np.array([_colours(square) for square in squares]),
        ]
        moments = []
        for encoder in (self.encoder, self.style_encoder):
            if encoder is not None:
                features = encoder.encode(squares)
                flat = features.reshape(len(squares), -1, features.shape[-1])
                moments += [flat.mean(axis=1), flat.std(axis=1)]
        return np.concatenate([*moments, np.stack(drawn, axis=1)], axis=1)


def learned_concepts(world: CutOuts, number: int) -> list[str]:
    """Name the concepts that a reader's classifier is fitted to: by lot, always the same.

    Args:
        world: Of the reader.
        number: Its `learned`.
    """
    return sorted(world.concepts(), key=lambda name: seed_of("learned", name))[:number]


def _grey(square: np.ndarray) -> np.ndarray:
    light = np.rint(square @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return np.repeat(light[..., None], 3, axis=-1)


def _colours(square: np.ndarray) -> float:
    """Return how many coarse colours a picture has, as a share of 64."""
    return len(np.unique((square // 32).reshape(-1, 3), axis=0)) / 64
