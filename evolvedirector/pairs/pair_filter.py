"""Measure a pair: is it the subject, does it fit its text, and was the change made?"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.judges.judge import models_of
from evolvedirector.pairs.change_reader import ChangeReader
from evolvedirector.pairs.pair_records import (
    IMAGE,
    MASK,
    REFERENCE,
    REFERENCE_MASK,
    PairReply,
    PairRequest,
    failed,
)
from evolvedirector.pairs.patch_encoder import PatchEncoder, cosine
from evolvedirector.pairs.pictures import cut_square, mask_of, pixels_of
from evolvedirector.records import ImageAndPrompt
from evolvedirector.records.part import close_parts, price_of, requests_in_flight_of, verify_parts
from evolvedirector.rewards.reward import Reward

_KEPT_REFERENCES = 512


class PairFilter:
    """Score pairs by identity in the features of an encoder, by their text, and by a reader of the change.

    `identity` is the cosine of the patch features of reference and picture, each cut out by its mask, scaled to one
    square and taken relative to the empty square; `identity_grey` is the same without colour, for tints, and `shape`
    how far the two outlines cover each other. `text` is a reward (CLIP by name), `change` what the reader says: of
    prepared pairs identity alone prefers those whose change is missing. Toffee filters by DINO and CLIP similarity;
    reading the change is ours.
    """

    def __init__(
        self, identity: PatchEncoder, change: ChangeReader, text: Reward | None = None, side_px: int = 96
    ) -> None:
        """Choose who measures.

        Args:
            identity: Encoder of patches: DINO-type by name (`TransformersPatches`), or offline.
            change: Who reads the change.
            text: How well picture and prompt fit: a CLIP by name (`CLIPScore`). None: no score `text` of its own.
            side_px: Side of the squares that are compared.

        Raises:
            UserError: The side is out of range.
        """
        if not 16 <= side_px <= 2048:
            raise UserError(f"side_px is {side_px}. Allowed are 16 to 2048. Write 224 for a DINO-type encoder.")
        self.identity, self.change, self.text, self.side_px = identity, change, text, side_px
        self._references: OrderedDict[str, np.ndarray] = OrderedDict()
        self._empty: np.ndarray | None = None

    @property
    def fingerprint(self) -> str:
        """Name encoder, reader, reward and side."""
        text = "" if self.text is None else self.text.fingerprint
        return f"pair filter 1 {self.side_px} {self.identity.fingerprint} {self.change.fingerprint} {text}"

    def models(self) -> frozenset[str]:
        """Name every model behind it, so that none of them reads the figures unnoticed."""
        return models_of(self.identity, self.change, self.text) | {self.fingerprint}

    def verify(self) -> None:
        """See that all three would work."""
        verify_parts(self.identity, self.change, self.text)

    def price_usd(self) -> float | None:
        """Return what scoring one pair costs."""
        return price_of(self.change, self.text)

    @property
    def requests_in_flight(self) -> int:
        """Return how many pairs a reader behind a service wants at once; 0 where none is."""
        return requests_in_flight_of(self.change, self.text)

    def score(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield all scores of each pair; one that nobody could read is a failure."""
        requests = list(requests)
        scores = self._identities(requests)
        problems: dict[str, PairReply] = {}
        costs = dict.fromkeys(scores, 0.0)
        for reply in self.change.read(requests):
            if reply.status == "done":
                scores[reply.request_id].update(reply.scores)
            else:
                problems[reply.request_id] = reply
            costs[reply.request_id] += reply.cost_usd
        if self.text is not None:
            items = [ImageAndPrompt(r.request_id, r.files[IMAGE].content or b"", r.prompt) for r in requests]
            for score in self.text.score(items):
                if score.value == score.value:
                    scores[score.item_id]["text"] = float(score.value)
                else:
                    problems.setdefault(score.item_id, PairReply(score.item_id, "failure", reason=score.reason))
        for request in requests:
            key = request.request_id
            problem = problems.get(key)
            if problem is None and "change" not in scores[key]:
                problem = failed(request, "the change was not read")
            yield problem or PairReply(key, scores=scores[key], cost_usd=costs[key])

    def close(self) -> None:
        """Let go of the models and of the remembered references."""
        self._references.clear()
        self._empty = None
        close_parts(self.identity, self.change, self.text)

    def _identities(self, requests: Sequence[PairRequest]) -> dict[str, dict[str, float]]:
        """Encode pictures, and references that are not at hand, in one call."""
        squares: list[np.ndarray] = []
        new: dict[str, int] = {}
        shapes: dict[str, np.ndarray] = {}
        for request in requests:
            name = request.files[REFERENCE].sha256 + request.files[REFERENCE_MASK].sha256
            square, shapes[name] = self._square(request, REFERENCE, REFERENCE_MASK)
            if name not in self._references and name not in new:
                new[name] = len(squares)
                squares += [square, _grey(square)]
        first = len(squares)
        outlines = []
        for request in requests:
            square, outline = self._square(request, IMAGE, MASK)
            squares += [square, _grey(square)]
            outlines.append(outline)
        if self._empty is None:
            self._empty = self.identity.encode([np.full((self.side_px, self.side_px, 3), 255, np.uint8)])
        features = self.identity.encode(squares) - self._empty
        for name, place in new.items():
            self._references[name] = features[place : place + 2]
        found = {}
        for number, request in enumerate(requests):
            name = request.files[REFERENCE].sha256 + request.files[REFERENCE_MASK].sha256
            reference, picture = self._references[name], features[first + 2 * number : first + 2 * number + 2]
            found[request.request_id] = {
                "identity": cosine(reference[0], picture[0]),
                "identity_grey": cosine(reference[1], picture[1]),
                "shape": _overlap(shapes[name], outlines[number]),
            }
        while len(self._references) > _KEPT_REFERENCES:
            self._references.popitem(last=False)
        return found

    def _square(self, request: PairRequest, role: str, mask_role: str) -> tuple[np.ndarray, np.ndarray]:
        pixels, mask = pixels_of(request.files[role]), mask_of(request.files[mask_role])
        return cut_square(pixels, mask, self.side_px)


def _grey(square: np.ndarray) -> np.ndarray:
    light = np.rint(square @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return np.repeat(light[..., None], 3, axis=-1)


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    union = float((first | second).sum())
    return float((first & second).sum()) / union if union else 0.0
