"""Build, train and measure the tiny vision-language model that judges the miniature world: one command, no download.

A SigLIP tower of 32 px pictures in patches of 4 px, four patches joined to one token, and a Llama of five layers: 1.9
million parameters, a model like any other to transformers. It learns to answer "does this picture show exactly this?",
questions about parts, and "which of two pictures fits better?", for the four shapes and six colours of the miniature
recipe. Combinations that the recipe holds out are neither shown nor named; on them it is measured.

    python -m benchmarks.tiny_vlm --out runs/tiny_vlm
    python -m benchmarks.tiny_vlm --out runs/tiny_vlm --measure    # an existing model only

A training that was cut off goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AyaVisionForConditionalGeneration
from transformers.utils import logging

from benchmarks.tiny_vlm_measure import measure
from benchmarks.tiny_vlm_model import build_model, build_processor, build_tokenizer
from benchmarks.tiny_vlm_pictures import HeldOut, Picture, make_picture, random_scene
from benchmarks.tiny_vlm_questions import near_miss
from benchmarks.tiny_vlm_train import Pair, QuestionTraining, Schedule, new_heads, train_eyes
from evolvedirector.judges.transformers_judge import TransformersJudge

CHUNK = 1000


def draw_pictures(chunk: int) -> list[Picture]:
    """Draw a thousand pictures; the same number draws the same ones."""
    rng, held_out = np.random.default_rng([7, chunk]), HeldOut()
    return [make_picture(held_out, rng) for _ in range(CHUNK)]


def draw_pairs(chunk: int) -> list[Pair]:
    """Draw a thousand pairs: two pictures of one scene (a fifth), of two, or of one and a near miss (half)."""
    rng, held_out = np.random.default_rng([8, chunk]), HeldOut()
    pairs: list[Pair] = []
    while len(pairs) < CHUNK:
        scene = random_scene(held_out, rng)
        kind = rng.random()
        other = scene if kind < 0.2 else random_scene(held_out, rng) if kind < 0.5 else near_miss(scene, rng)
        if other is not None and not held_out.holds(other):
            pairs.append((make_picture(held_out, rng, scene), make_picture(held_out, rng, other)))
    return pairs


def save_model(model: AyaVisionForConditionalGeneration, folder: Path) -> None:
    """Write the model as transformers reads it: weights stored in half precision, computed with in full.

    Args:
        model: trained.
        folder: where to.
    """
    model.config.dtype = "float32"
    model.save_pretrained(folder)
    build_processor(build_tokenizer()).save_pretrained(folder)
    weights = folder / "model.safetensors"
    halves = {name: tensor.half().contiguous() for name, tensor in load_file(weights).items()}
    save_file(halves, weights, metadata={"format": "pt"})
    (folder / "generation_config.json").unlink(missing_ok=True)


def train(out: Path, schedule: Schedule, pictures: int, pairs: int, processes: int) -> None:
    """Draw, train and save.

    Args:
        out: folder of the model, with `work/` for checkpoints.
        schedule: how long.
        pictures: drawn to ask about, in thousands.
        pairs: drawn, in thousands.
        processes: that draw side by side.
    """
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with ProcessPoolExecutor(processes) as pool:
        drawn = [picture for chunk in pool.map(draw_pictures, range(pictures)) for picture in chunk]
        paired = [pair for chunk in pool.map(draw_pairs, range(pairs)) for pair in chunk]
    print(f"{len(drawn)} pictures and {len(paired)} pairs in {time.monotonic() - start:.0f} s", flush=True)
    torch.manual_seed(schedule.seed)
    tokenizer = build_tokenizer()
    model, heads = build_model(tokenizer), new_heads()
    training = QuestionTraining(model, tokenizer, heads, schedule, work / "checkpoint.pt")
    if training.step == 0:
        train_eyes(model.model.vision_tower, heads, drawn, schedule)
    training.run(drawn, paired)
    save_model(model, out)
    print(f"trained in {time.monotonic() - start:.0f} s", flush=True)


def main() -> None:
    """Parse the command line, train, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--measure", action="store_true", help="measure the model in the folder, do not train")
    parser.add_argument("--per-skill", type=int, default=200, help="held-out cases of each skill, clean and spoilt")
    parser.add_argument("--pictures", type=int, default=24, help="pictures to draw, in thousands")
    parser.add_argument("--pairs", type=int, default=9, help="pairs to draw, in thousands")
    parser.add_argument("--eye-steps", type=int, default=Schedule.eye_steps)
    parser.add_argument("--steps", type=int, default=Schedule.steps)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    if not options.measure:
        schedule = Schedule(eye_steps=options.eye_steps, steps=options.steps)
        train(options.out, schedule, options.pictures, options.pairs, options.threads)
    judge = TransformersJudge(str(options.out), image_size_px=32, batch_size=32)
    found = measure(judge, options.per_skill)
    print(json.dumps(found, indent=1))
    (options.out / "measured.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
