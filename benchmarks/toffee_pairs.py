"""Measure the pair builder on real artwork: is what its filter keeps right, and does a subject cost always the same?

1. Filter. 600 pairs of emoji, 150 of each kind of change, of which 45 % are given a fault by lot: another subject,
   another one of the same group, the change missing, another change, half of the subject gone. Pictures are drawn in
   the subject's own art set, then blurred and made noisy; masks are found by colour, not taken from the drawing.
   Thresholds are fitted per kind to pairs of other concepts; the classifier of art sets has seen a third set. Bars: at
   least 93 % of what is kept is right, at least 40 % is kept, no kind loses more than half of its right pairs.
   Identity alone, at the same share kept, stands beside it.
2. Cost. 5,000 subjects (760 concepts in five art sets, then in tints), one pair each: draft in another art set, matched
   pixels, mask, filter, deduplication, record. Bar: the last 500 subjects cost at most 1.1 times the first 100, in
   processor time. Loading and rasterising are done before and stated.

Needs `pip install evolvedirector[emoji]` and `evolvedirector assets emoji`.

Run: python -m benchmarks.toffee_pairs filter [--seeds 0 1 2] [--out FILE]
     python -m benchmarks.toffee_pairs cost [--subjects 5000]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from evolvedirector.pairs import (
    BorderMask,
    DrawnDraft,
    DrawnPrompts,
    DrawnReader,
    DrawnSubjects,
    MatchedPixels,
    PairFilter,
    RawPatches,
    SubjectPairBuilder,
)
from evolvedirector.pairs.drawn.changes import values_of
from evolvedirector.pairs.drawn.drawn_draft import drawn
from evolvedirector.pairs.drawn.drawn_reader import learned_concepts
from evolvedirector.pairs.pair_book import PairBook, PairRow
from evolvedirector.pairs.pair_records import IMAGE, PairReply, PairRequest, Subject
from evolvedirector.pairs.pictures import box_of, picture_file
from evolvedirector.pairs.thresholds import fitted_thresholds
from evolvedirector.records import seed_of
from evolvedirector.store import DatasetStore
from evolvedirector.worlds.emoji.cut_outs import EmojiCutOuts
from evolvedirector.worlds.emoji.efficientnet_patches import EfficientNetPatches

KINDS = ["place", "tint", "texture", "style"]
FAULT_SHARE = 0.45
FAULTS = ("other subject", "other of its group", "change missing", "other change", "half gone")
SIZE_PX = 96
LEARNED = 160
PRECISION = 0.96
"""Least share of right pairs to which thresholds are fitted: three points above the bar, which fitting takes back."""
SCORES = ("identity", "identity_grey", "shape", "change", "text")


def fault_of(seed: int) -> str:
    """Return what is planted into the pair of a seed; empty for a right one."""
    lot = np.random.default_rng(seed_of("planted", seed))
    return FAULTS[int(lot.integers(len(FAULTS)))] if lot.random() < FAULT_SHARE else ""


class Planted:
    """Draw the exact target, or one with a fault; blurred and noisy, so that no equality of pixels decides."""

    def __init__(self, world: EmojiCutOuts) -> None:
        self.world = world
        self._groups: dict[str, list[str]] = {}
        for concept in world.vocabulary.concepts:
            self._groups.setdefault(concept.skill, []).append(concept.label)

    @property
    def fingerprint(self) -> str:
        """Name the world."""
        return f"planted {self.world.fingerprint}"

    def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield one picture per pair."""
        for request in requests:
            lot = np.random.default_rng(seed_of("planted picture", request.seed))
            pixels = self._picture(request, fault_of(request.seed), lot)
            soft = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(float(lot.uniform(0.2, 0.7))))
            noisy = np.asarray(soft, float) + lot.normal(0, 3, pixels.shape)
            picture = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
            yield PairReply(request.request_id, files={IMAGE: picture_file(picture)})

    def _picture(self, request: PairRequest, fault: str, lot: np.random.Generator) -> np.ndarray:
        subject, change = request.subject, dict(request.change)
        if fault.startswith("other ") and fault != "other change":
            names = self._groups[self.world.vocabulary[subject.group].skill]
            names = list(self.world.concepts()) if fault == "other subject" else names
            other = [name for name in names if name != subject.group]
            subject = replace(subject, name="", group=other[int(lot.integers(len(other)))])
        if fault in ("change missing", "other change"):
            kind = request.kind or "place"
            values = [v for v in values_of(kind, self.world.looks) if v != change[kind]]
            values = [v for v in values if kind != "style" or v != subject.look] or values
            other_value = values[int(lot.integers(len(values)))]
            if fault == "other change" or kind == "place":  # every picture has some place
                change[kind] = other_value
            else:
                del change[kind]
        look = change.get("style", subject.look)
        pixels, mask = drawn(self.world, replace(request, subject=subject, change=change), look)
        if fault == "half gone":
            left, top, right, bottom = box_of(mask)
            ground = pixels[0, 0].copy()
            pixels[(top + bottom) // 2 : bottom, left:right] = ground
        return pixels


class Chosen:
    """Take some concepts of a world as subjects, each in one art set by lot."""

    def __init__(self, world: EmojiCutOuts, concepts: Sequence[str]) -> None:
        self._source, self._concepts = DrawnSubjects(world), list(concepts)

    @property
    def fingerprint(self) -> str:
        """Name the concepts."""
        return f"chosen {seed_of(*self._concepts)} {self._source.fingerprint}"

    def subjects(self) -> Sequence[Subject]:
        """List one subject per concept."""
        by_concept: dict[str, list[Subject]] = {}
        for subject in self._source.subjects():
            by_concept.setdefault(subject.group, []).append(subject)
        return [by_concept[c][seed_of("art set", c) % len(by_concept[c])] for c in self._concepts]

    def load(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield the subjects."""
        yield from self._source.load(requests)


def planted_pairs(
    root: Path, world: EmojiCutOuts, concepts: Sequence[str], seed: int, thresholds: dict[str, dict[str, float]]
) -> list[PairRow]:
    """Build the pairs of some concepts, one of each kind, with faults; returns their rows."""
    encoder = EfficientNetPatches(pool=2)
    builder = SubjectPairBuilder(
        subjects=Chosen(world, concepts),
        prompt=DrawnPrompts(list(world.looks)),
        draft=Planted(world),
        mask=BorderMask(),
        filter=PairFilter(encoder, DrawnReader(world, encoder, EfficientNetPatches(3, pool=4), LEARNED)),
        thresholds=thresholds,
        kinds=list(KINDS),
        image_size_px=SIZE_PX,
        seed=seed,
        near_bits=0,
        several_share=None,
    )
    with DatasetStore(root, create=True) as store:
        builder.build(store)
    with PairBook.for_reading(root) as book:
        return book.pairs()


def scores_of(row: PairRow) -> dict[str, float]:
    """Return the scores of a pair that thresholds are fitted to."""
    return {name: row.body["scores"].get(name, float("nan")) for name in SCORES}


def right(row: PairRow) -> bool:
    """Say whether nothing was planted into a pair."""
    return not fault_of(row.body["seed"])


def measure_filter(seed: int, folder: Path) -> dict[str, Any]:
    """Fit thresholds to the pairs of some concepts, and judge those of others."""
    world = EmojiCutOuts()
    learned = set(learned_concepts(world, LEARNED))
    free = sorted((c for c in world.concepts() if c not in learned), key=lambda c: seed_of("split", seed, c))
    open_to_all = {kind: {"change": -10.0} for kind in KINDS}
    began = time.process_time()
    known = planted_pairs(folder / "fit", world, free[:160], seed, open_to_all)
    thresholds, alone = {}, {}
    for kind in KINDS:
        of_kind = [row for row in known if row.kind == kind and row.body["scores"]]
        scores, truth = [scores_of(row) for row in of_kind], [right(row) for row in of_kind]
        thresholds[kind] = fitted_thresholds(scores, truth, PRECISION, steps=8)
        alone[kind] = fitted_thresholds([{"identity": s["identity"]} for s in scores], truth, PRECISION)
    rows = planted_pairs(folder / "test", world, free[160:310], seed + 1000, thresholds)
    figures = judged(rows, [row.status == "kept" for row in rows])
    only = [row.body["scores"].get("identity", -1) >= alone[row.kind].get("identity", -1) for row in rows]
    return {
        "seed": seed,
        **figures,
        "identity_alone": judged(rows, only),
        "thresholds": thresholds,
        "auc": {kind: {name: auc(rows, kind, name) for name in SCORES} for kind in KINDS},
        "processor_s": round(time.process_time() - began, 1),
    }


def judged(rows: Sequence[PairRow], kept: Sequence[bool]) -> dict[str, Any]:
    """Say how far what was kept is right, by kind and by planted fault."""
    good = [right(row) for row in rows]
    kinds = {
        kind: sum(k and g for k, g, r in zip(kept, good, rows, strict=True) if r.kind == kind)
        / max(1, sum(g for g, r in zip(good, rows, strict=True) if r.kind == kind))
        for kind in KINDS
    }
    passed: Counter[str] = Counter()
    planted: Counter[str] = Counter()
    for row, keep in zip(rows, kept, strict=True):
        fault = fault_of(row.body["seed"])
        planted[fault] += 1
        passed[fault] += keep
    return {
        "pairs": len(rows),
        "right_before": round(sum(good) / len(rows), 3),
        "kept": round(sum(kept) / len(rows), 3),
        "right_of_kept": round(sum(k and g for k, g in zip(kept, good, strict=True)) / max(1, sum(kept)), 3),
        "right_kept_by_kind": {kind: round(share, 3) for kind, share in kinds.items()},
        "passed_by_fault": {fault or "none": f"{passed[fault]}/{planted[fault]}" for fault in sorted(planted)},
        "causes": dict(Counter(row.cause for row in rows if row.cause).most_common()),
    }


def auc(rows: Sequence[PairRow], kind: str, name: str) -> float:
    """Return how often a score ranks a right pair above a wrong one."""
    of_kind = [row for row in rows if row.kind == kind and name in row.body["scores"]]
    first = np.array([row.body["scores"][name] for row in of_kind if right(row)])
    second = np.array([row.body["scores"][name] for row in of_kind if not right(row)])
    wins = (first[:, None] > second).mean() + 0.5 * (first[:, None] == second).mean()
    return round(float(wins), 3)


def measure_cost(subjects: int, folder: Path) -> dict[str, Any]:
    """Build one pair of each subject, and compare the first with the last."""
    began = time.process_time()
    known = EmojiCutOuts()
    world = EmojiCutOuts(concepts=sorted(known.concepts(), key=lambda c: seed_of("cost", c))[:760])
    for concept in world.concepts():
        for look in world.looks:
            world.cut_out(concept, look, 128)
    rasters_s = time.process_time() - began
    encoder = EfficientNetPatches(pool=2)

    def builder(number: int, seed: int) -> SubjectPairBuilder:
        return SubjectPairBuilder(
            subjects=DrawnSubjects(world, tints=2),
            prompt=DrawnPrompts(list(world.looks)),
            draft=DrawnDraft(world),
            refine=MatchedPixels(RawPatches()),
            mask=BorderMask(),
            filter=PairFilter(encoder, DrawnReader(world, encoder, learned=20, text=False)),
            thresholds={"tint": {"identity_grey": 0.3, "change": 0.5}},
            kinds=["tint"],
            image_size_px=SIZE_PX,
            seed=seed,
            most_subjects=number,
            pairs_per_pass=100,
            several_share=None,
        )

    began = time.process_time()
    with DatasetStore(folder / "warm", create=True) as store:
        builder(20, 1).build(store)  # weights are read and the classifier is fitted: once, for any number of subjects
    loading_s = time.process_time() - began
    marks: list[tuple[float, float]] = [(time.process_time(), time.perf_counter())]
    with DatasetStore(folder / "root", create=True) as store:
        figures = builder(subjects, 0).build(
            store, note=lambda line: marks.append((time.process_time(), time.perf_counter()))
        )
        ended = time.process_time(), time.perf_counter()
    spans = np.diff(np.array([*marks, ended]), axis=0)  # [passes + publishing, (processor, clock)]
    first, last, end = spans[0], spans[-6:-1].mean(axis=0), spans[-1]
    return {
        "subjects": subjects,
        "kept": sum(figures.kept.values()),
        "rejected": dict(figures.rejected),
        "rasters_s": round(rasters_s, 1),
        "loading_s": round(loading_s, 1),
        "first_100_ms_a_subject": round(first[0] * 10, 2),
        "last_500_ms_a_subject": round(last[0] * 10, 2),
        "ratio_processor": round(float(last[0] / first[0]), 3),
        "ratio_clock": round(float(last[1] / first[1]), 3),
        "publishing_s": round(float(end[0]), 1),
        "ratio_with_publishing": round(float((last[0] + end[0] / len(spans)) / first[0]), 3),
        "all_s": round(float(spans[:, 0].sum()), 1),
    }


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=("filter", "cost"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--subjects", type=int, default=5000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = []
    for seed in options.seeds if options.part == "filter" else [0]:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            place = Path(folder)
            found = measure_filter(seed, place) if options.part == "filter" else measure_cost(options.subjects, place)
            results.append(found)
            print(json.dumps(found, indent=2), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
