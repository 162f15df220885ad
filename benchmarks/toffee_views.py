"""Measure the trained view generator on subjects that it never saw.

The recipe `configs/method/toffee_views.yaml` is run as a user would: `evolvedirector fit`, `evolvedirector export`, and
the exported folder as the view stage of the pair builder. 60 objects of those that are validated on are drawn in
the four views of `DrawnPrompts`. Beside it stand the reference as it is (the lower end) and `TurnedView`, which turns
the very pixels (the upper end).

Per view: the mean difference of pixels to the exact view, of 255, both on white; the cosine of their raw patches; the
overlap of the outlines (intersection over union); and retrieval: is the exact view of the true subject, of those of
all 60, the one with the nearest pixels? Of the 240 views of 60 subjects intervals are over subjects.

Run: python -m benchmarks.toffee_views views [--seed 0] [--world shapes|emoji] [--out FOLDER] [options of `fit`]
Each seed, world and set of options has a folder of its own below FOLDER.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evolvedirector.datamodules import ViewDataModule
from evolvedirector.evaluation.intervals import mean_interval
from evolvedirector.pairs import DrawnSubjects, DrawnViews, RawPatches, TrainedView, TurnedView, Unchanged
from evolvedirector.pairs.drawn.changes import VIEWS
from evolvedirector.pairs.key_ground import on_ground
from evolvedirector.pairs.pair_records import IMAGE, MASK, REFERENCE, REFERENCE_MASK, PairRequest, Subject
from evolvedirector.pairs.patch_encoder import cosine
from evolvedirector.pairs.pictures import MASK_LEVEL, mask_file, mask_of, picture_file, pixels_of
from evolvedirector.pairs.stages import ViewStage
from evolvedirector.pairs.view_source import ViewedObject
from evolvedirector.records import digest, seed_of
from evolvedirector.worlds.emoji.cut_outs import EmojiCutOuts
from evolvedirector.worlds.shapes.cut_outs import ShapeCutOuts

RECIPE = "configs/method/toffee_views.yaml"
SUBJECTS, SIDE_PX = 60, 48
WHITE = (255, 255, 255)
EMOJI = "evolvedirector.worlds.emoji.cut_outs.EmojiCutOuts"
Figures = dict[str, list[float]]


def train(out: Path, seed: int, world: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the recipe and export what it trained; returns how long each took.

    Args:
        out: Gets `run` and `export`.
        seed: Of weights and data.
        world: `shapes` or `emoji`.
        overrides: As `fit` takes them.
    """
    words = [f"--seed_everything={seed}", f"--model.init_args.seed={seed}", f"--data.init_args.seed={seed}"]
    words += [f"--trainer.default_root_dir={out / 'run'}", *overrides]
    if world == "emoji":
        words += [f"--data.init_args.views.init_args.subjects.init_args.world={EMOJI}"]
    command = [sys.executable, "-m", "evolvedirector"]
    clock = time.monotonic(), time.process_time()
    subprocess.run([*command, "fit", "-c", RECIPE, *words], check=True)
    trained = time.monotonic()
    subprocess.run([*command, "export", str(out / "run"), str(out / "export"), "--samples=0"], check=True)
    return {"fit_s": round(trained - clock[0]), "export_s": round(time.monotonic() - trained)}


def request(views: DrawnViews, viewed: ViewedObject, view: str, seed: int) -> PairRequest:
    """Ask for a view of an object, as the pair builder does; its picture so far is the reference."""
    cut = views.view(viewed, 0, SIDE_PX)
    shown = picture_file(on_ground(cut, WHITE))
    files = {REFERENCE: shown, REFERENCE_MASK: mask_file(cut[..., 3] >= MASK_LEVEL), IMAGE: shown}
    subject = Subject(viewed.name, viewed.category, viewed.group)
    name = f"{viewed.name}|{view}"
    return PairRequest(name, subject, seed_of("views", seed, name), SIDE_PX, SIDE_PX, "view", "", {"view": view}, files)


def drawn_by(stage: ViewStage, requests: Sequence[PairRequest]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return picture and outline of each request, by its name.

    Raises:
        RuntimeError: One was refused.
    """
    found = {}
    asked = {request.request_id: request for request in requests}
    for reply in stage.turn(requests):
        if reply.status != "done":
            raise RuntimeError(f"{reply.request_id}: {reply.reason}")
        mask = reply.files.get(MASK, asked[reply.request_id].files[REFERENCE_MASK])
        found[reply.request_id] = (pixels_of(reply.files[IMAGE]), mask_of(mask))
    return found


def measured(
    found: Mapping[str, tuple[np.ndarray, np.ndarray]], exact: Mapping[str, np.ndarray], names: Sequence[str]
) -> Figures:
    """Return the figures of each subject, means over its views.

    Args:
        found: Pictures and outlines.
        exact: uint8 RGBA of each view.
        names: Of the subjects.
    """
    encoder = RawPatches(6)
    figures: Figures = {"pixel_error": [], "cosine": [], "overlap": [], "retrieved": []}
    targets = {name: on_ground(cut, WHITE).astype(float) for name, cut in exact.items()}
    for name in names:
        rows: list[tuple[float, float, float, float]] = []
        for view in VIEWS:
            picture, mask = found[f"{name}|{view}"]
            target, outline = targets[f"{name}|{view}"], exact[f"{name}|{view}"][..., 3] >= MASK_LEVEL
            apart = {other: float(np.abs(picture - targets[f"{other}|{view}"]).mean()) for other in names}
            features = encoder.encode([picture, target.astype(np.uint8)])
            overlap = (mask & outline).sum() / max(1, (mask | outline).sum())
            hit = min(apart, key=lambda other: apart[other]) == name
            rows.append((apart[name], cosine(features[0], features[1]), float(overlap), float(hit)))
        for figure, values in zip(figures, zip(*rows, strict=True), strict=True):
            figures[figure].append(float(np.mean(values)))
    return figures


def picture_of(
    requests: Sequence[PairRequest],
    exact: Mapping[str, np.ndarray],
    found: Mapping[str, tuple[np.ndarray, np.ndarray]],
    rows: int,
) -> Image.Image:
    """Show subjects below each other: the reference, then for each view what was drawn, its outline, and the exact one.

    Args:
        requests: Of all views, one subject after the other.
        exact: uint8 RGBA of each view.
        found: Pictures and outlines of the view generator.
        rows: Subjects that are shown.
    """
    lines = []
    for start in range(0, rows * len(VIEWS), len(VIEWS)):
        tiles = [pixels_of(requests[start].files[REFERENCE])]
        for asked in requests[start : start + len(VIEWS)]:
            picture, mask = found[asked.request_id]
            shown = np.repeat(np.where(mask, 255, 0)[..., None], 3, axis=-1)
            tiles += [picture, shown, on_ground(exact[asked.request_id], WHITE)]
        lines.append(np.concatenate([np.pad(t, [(2, 2), (2, 2), (0, 0)], constant_values=128) for t in tiles], axis=1))
    whole = Image.fromarray(np.concatenate(lines, axis=0).astype(np.uint8))
    return whole.resize((whole.width * 2, whole.height * 2), Image.Resampling.NEAREST)


def measure(out: Path, seed: int, world: str) -> dict[str, Any]:
    """Draw the held-out subjects with each arm and measure; writes `views.png`.

    Args:
        out: With `export`.
        seed: Of the data, as it was trained.
        world: `shapes` or `emoji`.
    """
    views = DrawnViews(DrawnSubjects(EmojiCutOuts() if world == "emoji" else ShapeCutOuts(), split="train"))
    held_out = ViewDataModule(views, seed=seed).held_out_objects()
    chosen = sorted(held_out, key=lambda viewed: seed_of("measured", seed, viewed.name))[:SUBJECTS]
    names = [viewed.name for viewed in chosen]
    requests = [request(views, viewed, view, seed) for viewed in chosen for view in VIEWS]
    exact = {
        f"{viewed.name}|{view}": views.view(viewed, number, SIDE_PX)
        for viewed in chosen
        for number, view in enumerate(VIEWS, 1)
    }
    arms: dict[str, ViewStage] = {
        "reference as it is": Unchanged(),
        "ViewGenerator": TrainedView(str(out / "export")),
        "TurnedView, exact": TurnedView(),
    }
    table: dict[str, Any] = {}
    for name, stage in arms.items():
        began = time.process_time()
        found = drawn_by(stage, requests)
        figures = measured(found, exact, names)
        table[name] = {
            figure: (round(float(np.mean(values)), 4), *(round(end, 4) for end in mean_interval(values) or ()))
            for figure, values in figures.items()
        }
        table[name]["cpu_ms_per_view"] = round(1000 * (time.process_time() - began) / len(requests), 1)
        if name == "ViewGenerator":
            picture_of(requests, exact, found, 12).save(out / "views.png")
    return {"world": world, "seed": seed, "held_out": len(held_out), "subjects": len(names), "arms": table}


def main() -> None:
    """Train where there is no export yet, measure, and write `views.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = parser.add_subparsers(dest="word", required=True)
    word = words.add_parser("views")
    word.add_argument("--seed", type=int, default=0)
    word.add_argument("--world", choices=("shapes", "emoji"), default="shapes")
    word.add_argument("--out", type=Path, default=Path("runs/toffee-views-measured"))
    options, overrides = parser.parse_known_args()
    # what was trained otherwise is another model, and other objects may be held out from it
    told = [digest(*overrides, length=8)] if overrides else []
    out = options.out / "-".join([options.world, str(options.seed), *told])
    out.mkdir(parents=True, exist_ok=True)
    times = {} if (out / "export").exists() else train(out, options.seed, options.world, overrides)
    result = {**measure(out, options.seed, options.world), "overrides": overrides, **times}
    (out / "views.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
