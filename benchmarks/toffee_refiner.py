"""Measure refiners of subject pairs: is the true subject found in a draft once its patch features are matched into it?

A draft shows the subject's concept in another art set, with the change of its prompt. 60 subjects that no training
picture shows (a fifth of the emoji concepts is held out whole), each drawn with a place, a tint and a texture. A
refined draft counts as found where the exact target of its own subject is nearer by pixels (48 px) than those of the 59
others, drawn in the same scene (R60). Arms: the draft unchanged, copied pixels (`MatchedPixels`) over pixels and over
EfficientNet features, and the trained refiner, with and without the term of position. Style is handed on unchanged by
all of them, so it is left out.

Gate: where drafts are found, or resemble the exact target, more than half-way between another subject and the exact
target, no figure is printed: there would be nothing to bring in. A text-to-image draft from category and colour alone
is not measured here: no model of that kind is trained yet.

Intervals are those of the mean over the 60 subjects; differences are paired by subject. Needs
`pip install evolvedirector[emoji]` and `evolvedirector assets emoji`. Killed, it goes on where it was.

Run: python -m benchmarks.toffee_refiner --folder runs/toffee-refiner-bench [--seeds 0 1 2] [--steps 2000]
     [--out benchmarks/results/toffee_refiner.json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evolvedirector.callbacks.checkpoint import latest_committed
from evolvedirector.cli import main as evolvedirector
from evolvedirector.evaluation.intervals import mean_interval
from evolvedirector.pairs import DrawnDraft, DrawnPrompts, DrawnSubjects, MatchedPixels, RawPatches, TrainedRefiner
from evolvedirector.pairs.drawn.drawn_draft import drawn
from evolvedirector.pairs.drawn.drawn_subjects import concepts_of
from evolvedirector.pairs.pair_records import DRAFT, DRAFT_MASK, IMAGE, MASK, ChangeKind, PairRequest, Subject
from evolvedirector.pairs.pictures import cut_square, mask_of, pixels_of
from evolvedirector.pairs.stages import RefineStage
from evolvedirector.pairs.unchanged import Unchanged
from evolvedirector.records import seed_of
from evolvedirector.worlds.emoji.cut_outs import EmojiCutOuts
from evolvedirector.worlds.emoji.efficientnet_patches import EfficientNetPatches

KINDS: tuple[ChangeKind, ...] = ("place", "tint", "texture")
SUBJECTS = 60
DRAFT_PX = 96
COMPARED_PX = 48
RECIPE = ("configs/method/toffee_refiner.yaml", "configs/experiment/toffee_refiner_emoji.yaml")


def arms(export: Path) -> dict[str, RefineStage]:
    """Return the refiners that are compared, by name."""
    fine = EfficientNetPatches(3, side_px=96)
    return {
        "unchanged": Unchanged(),
        "copied pixels": MatchedPixels(RawPatches()),
        "copied pixels, no position": MatchedPixels(RawPatches(), position_weight=0.0),
        "copied pixels by EfficientNet": MatchedPixels(fine),
        "trained": TrainedRefiner(str(export)),
        "trained, no position": TrainedRefiner(str(export), position_weight=0.0),
    }


def trained(seed: int, folder: Path, steps: int) -> tuple[Path, float | None]:
    """Train a refiner with the shipped recipe and export it, where that is not done yet.

    Args:
        seed: Of its weights and pictures.
        folder: Of the run.
        steps: Of training.

    Returns:
        The exported folder, and the processor time of the training in seconds; None where it was done in pieces.
    """
    began = time.process_time()
    export, run = folder / "export", folder / "run"
    is_new = not run.exists()
    if not (export / "student.yaml").exists():
        words = [word for recipe in RECIPE for word in ("-c", recipe)]
        numbers = {
            "seed_everything": seed,
            "model.init_args.seed": seed,
            "data.init_args.seed": seed,
            "data.init_args.seeds.init_args.seed": seed,
            "data.init_args.root": run / "data",
            "trainer.default_root_dir": run,
            "trainer.max_steps": steps,
            "model.init_args.lr_scheduler.init_args.total_steps": steps,
        }
        again = ["--ckpt_path=last"] if run.exists() and latest_committed(run) is not None else []
        for command in (
            ["fit", *words, *(f"--{name}={value}" for name, value in numbers.items()), *again],
            ["export", str(run), str(export), "--samples", "0"],
        ):
            if evolvedirector(command):
                raise SystemExit(f"`evolvedirector {' '.join(command)}` failed: see above.")
    return export, time.process_time() - began if is_new else None


def chosen(world: EmojiCutOuts, seed: int) -> list[Subject]:
    """Return held-out subjects, each concept in one art set."""
    names = sorted(concepts_of(world, "held_out"), key=lambda concept: seed_of("refined", seed, concept))[:SUBJECTS]
    looks = [world.looks[seed_of("refined look", seed, name) % len(world.looks)] for name in names]
    return [Subject(f"{name}|{look}", name, name, look) for name, look in zip(names, looks, strict=True)]


def drafts(world: EmojiCutOuts, subjects: Sequence[Subject], kind: ChangeKind, seed: int) -> list[PairRequest]:
    """Return what a refiner is handed for pairs of one kind."""
    source, prompt, draft = DrawnSubjects(world), DrawnPrompts(list(world.looks)), DrawnDraft(world)
    requests = []
    for subject in subjects:
        own = seed_of("refined pair", seed, kind, subject.name)
        request = PairRequest(subject.name, subject, own, DRAFT_PX, DRAFT_PX, kind)
        request = replace(request, files=next(iter(source.load([request]))).files)
        words = next(iter(prompt.write([request]))).words
        request = replace(request, change={name: word for name, word in words.items() if name != "prompt"})
        made = next(iter(draft.draw([request]))).files
        requests.append(
            replace(
                request, files={**request.files, DRAFT: made[IMAGE], DRAFT_MASK: made[MASK]}, prompt=words["prompt"]
            )
        )
    return requests


def small(pixels: np.ndarray) -> np.ndarray:
    """Scale a picture to the side at which pixels are compared; float [side^2 * 3]."""
    image = Image.fromarray(pixels).resize((COMPARED_PX, COMPARED_PX), Image.Resampling.BOX)
    return np.asarray(image, np.float32).ravel() / 255


class Targets:
    """The exact targets of the pairs of one kind: of each scene, that of every subject."""

    def __init__(self, world: EmojiCutOuts, requests: Sequence[PairRequest], encoder: EfficientNetPatches) -> None:
        self._encoder = encoder
        self.pixels = np.stack(
            [
                np.stack([small(drawn(world, replace(r, subject=o.subject), o.subject.look)[0]) for o in requests])
                for r in requests
            ]
        )  # [scene, subject, values]
        exact = [drawn(world, r, r.subject.look) for r in requests]
        features = encoder.encode([cut_square(*picture, DRAFT_PX)[0] for picture in exact]).reshape(len(exact), -1)
        self._mean = features.mean(axis=0)
        self.features = features - self._mean

    def judged(self, requests: Sequence[PairRequest], pictures: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Say of each picture whether its subject is found, how far its pixels are off, and its cosine to the target.

        Args:
            requests: In the order of the targets.
            pictures: One of each.
        """
        seen = np.stack([small(picture) for picture in pictures])
        far = np.abs(self.pixels - seen[:, None]) ** 2
        rows = np.arange(len(pictures))
        outlines = [mask_of(request.files[DRAFT_MASK]) for request in requests]
        cuts = [cut_square(p, m, DRAFT_PX)[0] for p, m in zip(pictures, outlines, strict=True)]
        own = self._encoder.encode(cuts).reshape(len(cuts), -1) - self._mean
        norms = np.linalg.norm(own, axis=1) * np.linalg.norm(self.features, axis=1)
        return {
            "found": (far.sum(axis=-1).argmin(axis=1) == rows).astype(float),
            "error": np.abs(self.pixels[rows, rows] - seen).mean(axis=1) * 255,
            "cosine": (own * self.features).sum(axis=1) / np.maximum(norms, 1e-8),
        }

    def of_others(self) -> dict[str, float]:
        """Return the lower end: the next subject's exact target in place of the own one."""
        shifted = np.roll(self.features, -1, axis=0)
        norms = np.linalg.norm(shifted, axis=1) * np.linalg.norm(self.features, axis=1)
        return {"found": 0.0, "cosine": float(((shifted * self.features).sum(axis=1) / norms).mean())}


def measure(seed: int, folder: Path, steps: int) -> dict[str, Any]:
    """Train a refiner, refine all drafts with each arm, and compare."""
    export, training_s = trained(seed, folder, steps)
    world, encoder = EmojiCutOuts(), EfficientNetPatches(pool=2)
    subjects = chosen(world, seed)
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    lower: dict[str, list[float]] = {"found": [], "cosine": []}
    seconds: dict[str, float] = {}
    for kind in KINDS:
        requests = drafts(world, subjects, kind, seed)
        targets = Targets(world, requests, encoder)
        for name, value in targets.of_others().items():
            lower[name].append(value)
        for arm, stage in arms(export).items():
            began = time.process_time()
            replies = {reply.request_id: reply for reply in stage.refine(requests)}
            seconds[arm] = seconds.get(arm, 0.0) + time.process_time() - began
            pictures = [pixels_of(replies[r.request_id].files[IMAGE]) for r in requests]
            save_grid(folder / f"{kind} {arm}.png", requests, pictures, world)
            found.setdefault(arm, {})[kind] = targets.judged(requests, pictures)
    result: dict[str, Any] = {"seed": seed, "steps": steps}
    result["training_processor_s"] = None if training_s is None else round(training_s, 1)
    low = {name: float(np.mean(values)) for name, values in lower.items()}
    drafted = {name: float(np.mean([found["unchanged"][k][name] for k in KINDS])) for name in low}
    result["gate"] = {
        name: {"draft": round(drafted[name], 3), "half_way": round((low[name] + 1) / 2, 3)} for name in low
    }
    if any(drafted[name] >= (low[name] + 1) / 2 for name in low):
        return {**result, "refused": "Drafts are more than half-way to the exact target: nothing is left to bring in."}
    result["arms"] = {arm: figures(found[arm]) for arm in found}
    result["gains"] = {
        f"{arm} - {base}": gains(found[arm], found[base])
        for arm in ("trained", "trained, no position", "copied pixels", "copied pixels by EfficientNet")
        for base in ("unchanged", "copied pixels")
        if arm != base
    }
    result["ms_a_picture"] = {arm: round(1000 * s / len(KINDS) / SUBJECTS, 1) for arm, s in seconds.items()}
    return result


def by_subject(kinds: dict[str, dict[str, np.ndarray]], name: str) -> np.ndarray:
    """Return the mean over kinds of each subject."""
    return np.asarray(np.mean([kinds[kind][name] for kind in KINDS], axis=0))


def figures(kinds: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Return the mean of each figure with its interval, and what is found by kind."""
    result: dict[str, Any] = {name: spread(by_subject(kinds, name)) for name in ("found", "error", "cosine")}
    return result | {"found_by_kind": {kind: round(float(kinds[kind]["found"].mean()), 3) for kind in KINDS}}


def gains(first: dict[str, dict[str, np.ndarray]], second: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Return differences, paired by subject."""
    return {name: spread(by_subject(first, name) - by_subject(second, name)) for name in ("found", "error", "cosine")}


def spread(values: np.ndarray) -> dict[str, Any]:
    """Return a mean with its 95 % interval."""
    low, high = mean_interval(values.tolist()) or (0.0, 0.0)
    return {"mean": round(float(values.mean()), 3), "from": round(low, 3), "to": round(high, 3)}


def save_grid(
    path: Path, requests: Sequence[PairRequest], pictures: Sequence[np.ndarray], world: EmojiCutOuts, rows: int = 12
) -> None:
    """Save reference, draft, result and exact target of the first pairs side by side."""
    lines = []
    for request, picture in list(zip(requests, pictures, strict=True))[:rows]:
        parts = [pixels_of(request.files[role]) for role in ("reference", DRAFT)]
        lines.append(np.concatenate([*parts, picture, drawn(world, request, request.subject.look)[0]], axis=1))
    Image.fromarray(np.concatenate(lines)).save(path)


def main() -> None:
    """Measure, and print JSON; seeds that are in the file already are left."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/toffee-refiner-bench"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out or options.folder / "toffee_refiner.json"
    results = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    for seed in options.seeds:
        if not any(row["seed"] == seed and row["steps"] == options.steps for row in results):
            folder = options.folder / f"{seed}-{options.steps}"
            folder.mkdir(parents=True, exist_ok=True)
            results.append(measure(seed, folder, options.steps))
            out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(json.dumps([row for row in results if row["seed"] == seed], indent=2), flush=True)


if __name__ == "__main__":
    main()
