"""A pair builder on tiny drawn subjects: no download, no network, every stage counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from evolvedirector.pairs import (
    AlphaMask,
    DrawnDraft,
    DrawnPrompts,
    DrawnReader,
    DrawnSubjects,
    MatchedPixels,
    PairFilter,
    RawPatches,
    SubjectPairBuilder,
)
from evolvedirector.pairs.pair_records import PairReply, PairRequest
from evolvedirector.store import DatasetStore
from evolvedirector.worlds.shapes.cut_outs import ShapeCutOuts

WORLD = ShapeCutOuts()
THRESHOLDS = {kind: {"identity": -1.0, "change": -1.0} for kind in ("place", "tint", "texture", "style", "view")}
METHODS = {
    "subjects": "load",
    "prompt": "write",
    "draft": "draw",
    "refine": "refine",
    "view": "turn",
    "mask": "mask",
    "filter": "score",
}


def parts() -> dict[str, Any]:
    """Return the stages of a drawn world."""
    encoder = RawPatches(8)
    return {
        "subjects": DrawnSubjects(WORLD, ["flat", "bold"]),
        "prompt": DrawnPrompts(list(WORLD.looks)),
        "draft": DrawnDraft(WORLD),
        "refine": MatchedPixels(encoder),
        "mask": AlphaMask(),
        "filter": PairFilter(encoder, DrawnReader(WORLD, encoder, learned=12, side_px=32), side_px=32),
    }


def builder(stages: dict[str, Any] | None = None, **settings: Any) -> SubjectPairBuilder:
    """Return a builder of few small pairs."""
    given: dict[str, Any] = {
        "thresholds": THRESHOLDS,
        "image_size_px": 32,
        "most_subjects": 4,
        "pairs_per_pass": 8,
        "batch": 4,
        "near_bits": 0,
        **(parts() | (stages or {})),
        **settings,
    }
    return SubjectPairBuilder(**given)


class Counted:
    """Count what a stage makes, by the content of the request, and let something happen at each reply."""

    def __init__(self, stage: Any, method: str, calls: Counter[str], at_reply: Callable[[], None] = lambda: None):
        self._stage, self._calls, self._at_reply = stage, calls, at_reply
        setattr(self, method, self._asked(getattr(stage, method)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def _asked(self, method: Callable[..., Iterator[PairReply]]) -> Callable[..., Iterator[PairReply]]:
        def ask(requests: Sequence[PairRequest]) -> Iterator[PairReply]:
            for reply in method(requests):
                self._calls[reply.request_id] += 1
                yield reply
                self._at_reply()

        return ask


def counted(calls: Counter[str], at_reply: Callable[[], None] = lambda: None, **others: Any) -> dict[str, Any]:
    """Return the stages of a drawn world, each counted in `calls`."""
    return {stage: Counted(part, METHODS[stage], calls, at_reply) for stage, part in (parts() | others).items()}


def built(root: Path, **settings: Any) -> Any:
    """Build into a root; returns the figures."""
    with DatasetStore(root, create=True) as store:
        return builder(**settings).build(store)


def samples_of(root: Path) -> dict[str, Any]:
    """Return the samples of the newest revision by the id of their pair."""
    with DatasetStore(root) as store:
        state = store.state(store.current() or "")
        return {s.variant: s for entry in state.entries.values() for s in entry.samples}
