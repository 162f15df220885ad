"""Compare images per second with diffusers' own: training with its documented recipe, drawing with its pipeline.

One tiny PixArt pipeline whose parts keep PixArt-XL's shares of computing (text, codec, step), fp32, one thread, one
batch size, the same pictures. Our module and datamodule run in a Trainer.

1. training without caches: at least 1.0 times the recipe; every text and image is encoded in every step, as there;
2. training with text and latent caches, which are filled before the first step: at least 1.5 times;
3. `generate`: at least 0.95 times the stock pipeline, which gives tensors, at equal batch, steps and guidance.

Each figure is the median of the ratios of adjacent pairs (a step of ours, a step of theirs), with its 95 % interval by
bootstrap over pairs. Time is processor time of this process, which other work on the machine disturbs least; --wall
takes that of the clock.

Run: python -m benchmarks.train_throughput [--pairs 60] [--batch 16] [--draws 12] [--wall] [--write FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.diffusers_recipe import DiffusersRecipe
from benchmarks.interleaved import Clock, median_interval, take_turns
from benchmarks.tiny_pixart import PUBLISHED, SIDE_PX, TEXT_TOKENS, Shares, count_shares, save_pipeline
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.lightning_modules import Autoencoder, DDPMEpsilon, PixArt, T5Encoder, TextToImage
from evolvedirector.records import ImageRequest, RevisionChange, Sample
from evolvedirector.store import DatasetStore
from evolvedirector.worlds.shapes import MiniaturePrompts, MiniatureTeacher

SAMPLES = 256
WARM_UP = 3
BARS = {"train": 1.0, "train_cached": 1.5, "generate": 0.95}
NO_CACHES: dict[str, Any] = {"text_cache_mib": 0, "text_cache_gib": 0.0, "latent_cache_gib": 0.0}


def make_data(folder: Path) -> tuple[list[Path], list[str]]:
    """Draw scenes into a dataset root `data` and, for the recipe, into `pictures`; return files and captions."""
    prompts = MiniaturePrompts(count=SAMPLES).prompts()
    requests = [ImageRequest(prompt.id, prompt.text, row, SIDE_PX, SIDE_PX) for row, prompt in enumerate(prompts)]
    images = {reply.request_id: reply.image or b"" for reply in MiniatureTeacher().generate(requests)}
    with DatasetStore(folder / "data", create=True) as store:
        names = store.blobs.put_many([images[prompt.id] for prompt in prompts])
        samples = [Sample.create(prompt, name, "given") for prompt, name in zip(prompts, names, strict=True)]
        store.publish(None, "import", RevisionChange(samples=tuple(samples)))
    (folder / "pictures").mkdir()
    files = [folder / "pictures" / f"{row}.png" for row in range(len(prompts))]
    for file, prompt in zip(files, prompts, strict=True):
        file.write_bytes(images[prompt.id])
    return files, [prompt.text for prompt in prompts]


def student(folder: Path, **settings: Any) -> TextToImage:
    """Describe the student that starts from a pipeline.

    Args:
        folder: The pipeline.
        settings: Of the module.
    """
    family = PixArt(
        T5Encoder(str(folder), None, 256, "float32", "text_encoder", "tokenizer"),
        SIDE_PX // 8,
        Autoencoder(str(folder), subfolder="vae"),
        **{"text_length": TEXT_TOKENS, "patch_size": 1, "layers": 6, "heads": 4, "head_dim": 48, "out_channels": 8},
        **{"pretrained": str(folder), "pretrained_subfolder": "transformer"},
    )
    return TextToImage(family, DDPMEpsilon(), SIDE_PX, **settings)


def compare_training(
    folder: Path, recipe: DiffusersRecipe, batch: int, pairs: int, clock: Clock, caches: bool
) -> dict[str, Any]:
    """Train ours and the recipe in turns; return the figures.

    Args:
        folder: With `pipeline` and `data`.
        recipe: The rival.
        batch: Images per step.
        pairs: Steps of each.
        clock: Seconds.
        caches: Whether ours keeps text states and latents.
    """
    data = EvolvingDataModule(
        folder / "data", global_batch_size=batch, batches_per_epoch=pairs + WARM_UP, image_size_px=SIDE_PX
    )
    module = student(folder / "pipeline", **({} if caches else NO_CACHES))
    turns = take_turns(module, data, lambda _: recipe.step(), clock, WARM_UP)
    figures = compared("train_cached" if caches else "train", turns.seconds, batch)
    return {**figures, "before_first_step_s": round(turns.before_s, 2)}


def compare_drawing(
    folder: Path, pipeline: Any, captions: Sequence[str], batch: int, pairs: int, clock: Clock
) -> dict[str, Any]:
    """Draw the same prompts with ours and the stock pipeline in turns, new ones in each pair; return the figures.

    Args:
        folder: With `pipeline`.
        pipeline: The stock one.
        captions: Prompts.
        batch: Images drawn at once.
        pairs: Draws of each.
        clock: Seconds.
    """
    steps, guidance = 10, 4.5
    module = student(
        folder / "pipeline", generation_chunk_size=batch, sampling_steps=steps, guidance_scale=guidance
    ).eval()
    seconds = []
    for pair in range(pairs + 1):
        prompts = [captions[(pair * batch + row) % len(captions)] for row in range(batch)]
        start = clock()
        module.generate([ImageRequest(str(row), text, row, SIDE_PX, SIDE_PX) for row, text in enumerate(prompts)])
        ours = clock() - start
        start = clock()
        pipeline(
            prompts,
            **{"num_inference_steps": steps, "guidance_scale": guidance, "height": SIDE_PX, "width": SIDE_PX},
            **{"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": TEXT_TOKENS},
            **{"output_type": "pt", "generator": [torch.Generator().manual_seed(row) for row in range(batch)]},
        )
        seconds.append((ours, clock() - start))
    return compared("generate", seconds[1:], batch)


def compared(name: str, seconds: Sequence[tuple[float, float]], batch: int) -> dict[str, Any]:
    """Return images per second of both and the ratio with its interval, and print them.

    Args:
        name: Of the figure, in BARS.
        seconds: Of ours and theirs, by pair.
        batch: Images in each.
    """
    ours, theirs = (statistics.median(side) for side in zip(*seconds, strict=True))
    ratio = median_interval([their / our for our, their in seconds])
    held = "held" if ratio.low >= BARS[name] else "missed" if ratio.high < BARS[name] else "open"
    print(
        f"{name}: {batch / ours:.1f} images/s against {batch / theirs:.1f}; ratio {ratio.median:.3f} "
        f"({ratio.low:.3f} to {ratio.high:.3f}, {len(seconds)} pairs), bar {BARS[name]}: {held}",
        flush=True,
    )
    return {
        "images_per_s": round(batch / ours, 2),
        "their_images_per_s": round(batch / theirs, 2),
        "ratio": round(ratio.median, 4),
        "interval_95": [round(ratio.low, 4), round(ratio.high, 4)],
        "pairs": len(seconds),
        "bar": BARS[name],
        "bar_is": held,
    }


def tell_shares(shares: Shares) -> None:
    """Print the parts' counts beside the published ones."""
    scaled = [part / shares.step * PUBLISHED[2] for part in shares]
    print(f"GFLOP an image: text {shares.text / 1e9:.3f}, codec {shares.codec / 1e9:.3f}, step {shares.step / 1e9:.3f}")
    print(
        f"text : codec : step = {scaled[0]:.2f} : {scaled[1]:.2f} : {scaled[2]:.2f} (PixArt-XL at 512 px "
        f"{PUBLISHED[0]} : {PUBLISHED[1]} : {PUBLISHED[2]}), ceiling of the caches {shares.ceiling:.2f}",
        flush=True,
    )


def main() -> None:
    """Measure, print and, where asked to, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60, help="pairs of training steps")
    parser.add_argument("--batch", type=int, default=16, help="images per step")
    parser.add_argument("--draws", type=int, default=12, help="pairs of draws")
    parser.add_argument("--wall", action="store_true", help="measure wall time instead of processor time")
    parser.add_argument("--write", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    clock = time.perf_counter if options.wall else time.process_time
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, captions = make_data(folder)
        save_pipeline(folder / "pipeline", captions)
        recipe = DiffusersRecipe(folder / "pipeline", files, captions, options.batch)
        recipe.pipeline.set_progress_bar_config(disable=True)
        shares = count_shares(recipe.pipeline)
        tell_shares(shares)
        figures: dict[str, Any] = {"clock": "wall" if options.wall else "processor", "batch": options.batch}
        figures["gflop_per_image"] = {part: round(flop / 1e9, 4) for part, flop in shares._asdict().items()}
        settings = (options.batch, options.pairs, clock)
        figures["train"] = compare_training(folder, recipe, *settings, caches=False)
        figures["train_cached"] = compare_training(folder, recipe, *settings, caches=True)
        recipe.network.eval()
        figures["generate"] = compare_drawing(folder, recipe.pipeline, captions, options.batch, options.draws, clock)
    if options.write:
        options.write.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
