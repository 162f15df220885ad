"""Read the changes of an embedded world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache

import numpy as np

from evolvedirector.pairs.drawn.changes import VIEWS, turned
from evolvedirector.pairs.drawn.cut_outs import CutOuts
from evolvedirector.pairs.drawn.readings import background_score, place_score, texture_score, tint_share
from evolvedirector.pairs.pair_records import IMAGE, MASK, REFERENCE, REFERENCE_MASK, PairReply, PairRequest
from evolvedirector.pairs.patch_encoder import PatchEncoder, cosine
from evolvedirector.pairs.pictures import cut_square, mask_of, pixels_of
from evolvedirector.records import seed_of
from evolvedirector.records.part import close_parts

_RIDGE = 30.0


class DrawnReader:
    """Measure place, background, tint and texture in the pixels, and an art set by statistics of patch features.

    The art set is read by a linear classifier fitted to `learned` concepts of the world, so it has not seen the
    subjects that it reads where these are others. `text` says how near the picture is to the mean of its category over
    the world's art sets but the one that is asked for: what a text encoder knows of a word, for a world that CLIP does
    not know.
    """

    def __init__(self, world: CutOuts, encoder: PatchEncoder, learned: int = 160, side_px: int = 96) -> None:
        """Choose the world.

        Args:
            world: Draws the cut-outs that art sets and categories are learned from.
            encoder: Of patches.
            learned: Concepts, in each art set, that the classifier of art sets is fitted to.
            side_px: Side of the squares that are encoded.
        """
        self.world, self.encoder, self.learned, self.side_px = world, encoder, learned, side_px
        self._prototype = lru_cache(maxsize=4096)(self._prototype_of)

    @property
    def fingerprint(self) -> str:
        """Name the world, the features and what was learned."""
        return f"drawn reader 1 {self.world.fingerprint} {self.encoder.fingerprint} {self.learned} {self.side_px}"

    def read(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield the scores `change` and, for a category of the world, `text`."""
        for request in requests:
            pixels, mask = pixels_of(request.files[IMAGE]), mask_of(request.files[MASK])
            square, _ = cut_square(pixels, mask, self.side_px)
            scores = {"change": self._change(request, pixels, mask, square)}
            if request.subject.group in self._concepts:
                prototype = self._prototype(request.subject.group, request.change.get("style", ""))
                scores["text"] = cosine(self._relative([_grey(square)])[0], prototype)
            yield PairReply(request.request_id, scores=scores)

    def close(self) -> None:
        """Let go of the encoder's weights."""
        close_parts(self.encoder)

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
        answers = dict(zip(self.world.looks, (self._statistics([square]) @ self._weights)[0], strict=True))
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
    def _weights(self) -> np.ndarray:
        """Fit one linear answer per art set by ridge regression: W = (X'X + r I)^-1 X'Y, [statistics, looks]."""
        names = sorted(self.world.concepts(), key=lambda name: seed_of("learned", name))[: self.learned]
        rows = [(concept, number) for concept in names for number in range(len(self.world.looks))]
        x = self._statistics([self._cut(concept, self.world.looks[number]) for concept, number in rows])
        y = np.eye(len(self.world.looks))[[number for _, number in rows]]
        return np.asarray(np.linalg.solve(x.T @ x + _RIDGE * np.eye(x.shape[1]), x.T @ y))

    def _statistics(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        """Describe how pictures are drawn, not what: moments of features, lightness and its steps; [n, statistics]."""
        features = self.encoder.encode(squares).reshape(len(squares), -1, self._empty.shape[-1])
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
        moments = [features.mean(axis=1), features.std(axis=1)]
        scaled = np.concatenate([*moments, 4 * np.stack(drawn, axis=1), np.ones((len(squares), 1))], axis=1)
        return np.asarray(scaled)


def _grey(square: np.ndarray) -> np.ndarray:
    light = np.rint(square @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return np.repeat(light[..., None], 3, axis=-1)


def _colours(square: np.ndarray) -> float:
    """Return how many coarse colours a picture has, as a share of 64."""
    return len(np.unique((square // 32).reshape(-1, 3), axis=0)) / 64
