"""What the nets on newly made things hold: small networks, a small root, a short run, and the figures they give.

Weights, pictures and texts follow from names alone (`draw_of`), so the figures depend on no random state. Everything of
the package that is used here is used through its public names; whoever moves or renames one of them changes the lines
that name it, and none of the recorded values.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from evolvedirector.callbacks import EMA
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.lightning_modules import (
    Autoencoder,
    DDPMEpsilon,
    FlowMatching,
    PixArt,
    RandomTextEncoder,
    TextToImage,
    WarmupDecayLR,
)
from evolvedirector.records import ImageRequest, Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore, EvolvingDataset

RECORDED = Path(__file__).parent / "recorded"
SIDE_PX = 8
TEXTS = ("a red circle", "two blue squares", "", "a green star left of a yellow moon", "sky")
"""Of different lengths, so that the text mask matters; the longest is cut."""
ORDER_ROWS = 200


def draw_of(*name: str | int) -> np.random.Generator:
    """Return the generator of a name: the same draws on every machine, whatever ran before."""
    digest = hashlib.sha256("/".join(map(str, name)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


# ---- networks


def perturb(parameters: Iterable[tuple[str, nn.Parameter]], scale: float = 0.12) -> None:
    """Add a draw of its own to every parameter: a fresh network is silent, and would hide what is wrong in it.

    Args:
        parameters: By name, without the name of the attribute that holds the network.
        scale: Standard deviation of what is added.
    """
    with torch.no_grad():
        for name, parameter in parameters:
            noise = draw_of("weights", name).standard_normal(tuple(parameter.shape), dtype=np.float32)
            parameter.add_(torch.from_numpy(noise), alpha=scale)


def tiny_autoencoder(folder: Path) -> Path:
    """Save a diffusers autoencoder that halves the side; returns its folder."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
    )
    perturb(model.named_parameters(), 0.02)
    model.save_pretrained(folder)
    return folder


OBJECTIVES: dict[str, Callable[[], Any]] = {
    "velocity": FlowMatching,
    "x0": partial(FlowMatching, prediction="x0", time_mean=1.2, time_deviation=1.2, smallest_time=0.3, shift=4.0),
    "epsilon": DDPMEpsilon,
    "epsilon ddim": partial(DDPMEpsilon, sampler="ddim"),
}
CASES = {
    "velocity": ("velocity", "pixels"),
    "x0": ("x0", "pixels"),
    "epsilon": ("epsilon", "pixels"),
    "velocity, latent": ("velocity", "latent"),
    "epsilon, latent": ("epsilon ddim", "latent"),
    "velocity, QK-norm": ("velocity", "QK-norm"),
    "epsilon, QK-norm, latent": ("epsilon", "QK-norm, latent"),
}
"""Case to (objective, space)."""


def student(case: str, autoencoder: Path, **settings: Any) -> TextToImage:
    """Build a perturbed student; in latent space its images have twice the side.

    Args:
        case: One of `CASES`.
        autoencoder: Folder of `tiny_autoencoder`.
        settings: Further arguments of the module.
    """
    objective, space = CASES[case]
    latent = "latent" in space
    family = PixArt(
        RandomTextEncoder(16),
        SIDE_PX,
        Autoencoder(str(autoencoder), downscaling=2) if latent else None,
        text_length=6,
        out_channels=8 if latent else None,  # with learned variance, as Edgen has it
        patch_size=2,
        layers=2,
        heads=2,
        head_dim=8,
        qk_norm="QK-norm" in space,
    )
    settings.setdefault("optimizer", partial(torch.optim.SGD, lr=0.0))
    module = TextToImage(
        family,
        OBJECTIVES[objective](),
        2 * SIDE_PX if latent else SIDE_PX,
        condition_dropout=0.25,
        guidance_scale=2.5,
        sampling_steps=5,
        generation_chunk_size=2,
        **settings,
    )
    module.configure_model()
    perturb((name.partition(".")[2], parameter) for name, parameter in module.named_parameters())
    return module


def picture(*name: str | int, width_px: int = SIDE_PX, height_px: int = SIDE_PX) -> np.ndarray:
    """Return a picture of coarse patches with some noise, uint8 [height, width, 3]."""
    draw = draw_of("picture", *name)
    coarse = draw.integers(0, 256, (height_px // 4, width_px // 4, 3)).repeat(4, 0).repeat(4, 1)
    return np.clip(coarse + draw.integers(-20, 21, coarse.shape), 0, 255).astype(np.uint8)


def batch(number: int, side_px: int) -> dict[str, Any]:
    """Return a training batch of five samples."""
    pictures = np.stack([picture("batch", number, text, width_px=side_px, height_px=side_px) for text in TEXTS])
    return {
        "image": torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))),
        "prompt": list(TEXTS),
        "key": [f"key-{row}" for row in range(len(TEXTS))],
        "skill": ["any"] * len(TEXTS),
        "sample_seed": torch.from_numpy(draw_of("sample seeds", number).integers(0, 2**62, len(TEXTS))),
    }


class Losses(pl.Callback):
    """Note the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))


def trainer(steps: int, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    """Make a trainer that only trains."""
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **settings,
    )


def losses_of_batches(case: str, autoencoder: Path) -> list[float]:
    """Return the losses of three batches under unchanging weights."""
    module = student(case, autoencoder)
    batches: Any = [batch(number, module.image_size_px) for number in range(3)]
    noted = Losses()
    trainer(len(batches), noted).fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    return noted.losses


def drawn(module: TextToImage) -> np.ndarray:
    """Let a student draw two prompts side by side, uint8 [height, 2 x width, 3]."""
    side_px = module.image_size_px
    requests = [ImageRequest(f"r{seed}", TEXTS[seed], seed, side_px, side_px) for seed in (1, 3)]
    images: list[Tensor] = module.generate(requests)
    return torch.cat(images, dim=2).permute(1, 2, 0).numpy()


DRAWN = ("x0", "velocity", "velocity, latent", "epsilon, latent", "epsilon, QK-norm, latent")
"""Cases of which an image is held."""


# ---- a root


def png(pixels: np.ndarray) -> bytes:
    """Encode without compression: the bytes, and with them every sha, depend on no version of an encoder."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height_px, width_px, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")


def make_root(root: Path) -> tuple[str, str]:
    """Publish two revisions: three skills, two aspect ratios; the second has mastered and retired prompts, weights and
    a replay share.

    Returns:
        The shas of both.
    """
    skills = ("colour", "count", "place")
    seeds = [Prompt.create(f"thing number {number}", skill=skills[number % 3]) for number in range(18)]
    children = [Prompt.create(f"child of {parent.text}", "expansion", parent.skill, parent) for parent in seeds[:9]]
    ideas = [Prompt.create(f"idea {number}", "mutation", "place") for number in range(2)]
    unbought = Prompt.create("never bought", skill="count")
    with DatasetStore(root, create=True) as store:

        def bought(prompts: list[Prompt], teacher: str) -> tuple[Sample, ...]:
            samples = []
            for place, prompt in enumerate(prompts):
                wide = 2 if place % 7 == 3 else 1
                sha256 = store.blobs.put(png(picture(prompt.text, width_px=wide * SIDE_PX)))
                samples.append(Sample.create(prompt, sha256, teacher))
            return tuple(samples)

        first = store.publish(None, "seeds", RevisionChange(samples=bought(seeds, "one"), prompts=(unbought,)))
        second = store.publish(
            first,
            "round 0",
            RevisionChange(
                samples=bought([*children, *ideas], "other"),
                states={
                    **{prompt.id: "mastered" for prompt in seeds[:5]},
                    seeds[6].id: "retired",
                    unbought.id: "retired",
                },
                skill_weights={"colour": 1.0, "count": 0.35, "place": 0.7},
                replay_share=0.25,
            ),
        )
    return first, second


def rows_of(root: Path, revision_sha: str, global_batch_size: int = 8, seed: int = 0) -> list[int]:
    """Return the first rows of a revision's order, as a loader of a foreign project gets them."""
    batches = ORDER_ROWS // global_batch_size
    sampler = EvolvingDataset(root, revision_sha).batch_sampler(global_batch_size, seed=seed, batches=batches)
    return [row for batch in sampler for row in batch]


def keys_of(root: Path, revision_sha: str) -> list[str]:
    """Return the key of every row."""
    dataset = EvolvingDataset(root, revision_sha)
    return [str(dataset[row]["key"]) for row in range(len(dataset))]


def order_of_root(root: Path) -> list[dict[str, Any]]:
    """Describe the revisions of `make_root`: sha, keys by row, and rows in order for one batch size and another."""
    return [
        {
            "sha": sha,
            "keys": keys_of(root, sha),
            "rows": rows_of(root, sha),
            "rows of batches of 5, seed 7": rows_of(root, sha, 5, 7),
        }
        for sha in make_root(root)
    ]


# ---- a run


class NextRevision(pl.Callback):
    """Let the second epoch read another revision, as a round would."""

    def __init__(self, revision_sha: str) -> None:
        self.revision_sha = revision_sha

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.datamodule.open_revision(self.revision_sha)


def run_of_20_steps(root: Path) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Train 20 steps in two epochs over two revisions, set up as configs/model/tiny.yaml and its recipes are.

    Returns:
        The losses, an image drawn with the averaged weights, and one with the trained ones.
    """
    first, second = make_root(root)
    module = TextToImage(
        PixArt(RandomTextEncoder(16), SIDE_PX, text_length=6, patch_size=2, layers=2, heads=2, head_dim=8),
        OBJECTIVES["x0"](),
        SIDE_PX,
        optimizer=partial(torch.optim.AdamW, lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01),
        lr_scheduler=partial(WarmupDecayLR, total_steps=20, warmup_steps=4, decay_share=0.3),
        guidance_scale=2.0,
        sampling_steps=5,
        generation_chunk_size=2,
    )
    module.configure_model()
    perturb((name.partition(".")[2], parameter) for name, parameter in module.named_parameters())
    data = EvolvingDataModule(root, global_batch_size=8, batches_per_epoch=10, image_size_px=SIDE_PX, revision=first)
    ema, noted = EMA(decay=0.9), Losses()
    training = trainer(
        20,
        ema,
        noted,
        NextRevision(second),
        gradient_clip_val=0.5,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
    )
    training.fit(module, datamodule=data)
    with ema.averaged(module):
        averaged = drawn(module)
    return noted.losses, averaged, drawn(module)


# ---- all of it


def figures(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield every held value by the name of its file in `recorded/`: JSON values, and images as uint8 arrays.

    Args:
        folder: For roots and weights.
    """
    autoencoder = tiny_autoencoder(folder / "autoencoder")
    yield "losses.json", {case: losses_of_batches(case, autoencoder) for case in CASES}
    for case in DRAWN:
        yield image_name(case), drawn(student(case, autoencoder))
    yield "order.json", order_of_root(folder / "root")
    losses, averaged, trained = run_of_20_steps(folder / "root of the run")
    yield "run.json", losses
    yield image_name("run, averaged"), averaged
    yield image_name("run, trained"), trained


def image_name(case: str) -> str:
    """Name the file of a held image."""
    return f"{case.replace(', ', '_').replace(' ', '_')}.png"
