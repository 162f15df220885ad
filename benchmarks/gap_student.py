"""The student of the gap benchmark: made, trained, and measured on held-out prompts of the gap and of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from benchmarks.gap_world import GapWorld
from evolvedirector.callbacks import EMA
from evolvedirector.callbacks._run.drawing import encode_png, eval_mode
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.lightning_modules import FlowMatching, MiniLMEncoder, PixArt, TextToImage, WarmupDecayLR
from evolvedirector.records import ImageAndPrompt, ImageRequest, LossRequest, Prompt, seed_of

BATCH = 32
GAP_IMAGES, KNOWN_IMAGES = 96, 288
LOSS_LEVELS = 8


def student_of(world: GapWorld, seed: int, steps: int, learning_rate: float) -> TextToImage:
    """Make the student of configs/quickstart.yaml, for the world's images.

    Args:
        world: Sizes images and patches.
        seed: Of the weights.
        steps: Batches it will be trained for.
        learning_rate: Of AdamW, before its decay.
    """
    torch.manual_seed(seed)
    size_px = world.image_size_px
    return TextToImage(
        PixArt(
            MiniLMEncoder(layer=2), size_px, text_length=20, patch_size=world.patch_size, layers=4, heads=4, head_dim=48
        ),
        FlowMatching(prediction="x0", time_mean=1.2, time_deviation=1.2, smallest_time=0.3, shift=4.0),
        image_size_px=size_px,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, learning_rate, betas=(0.9, 0.99), weight_decay=0.01),
        lr_scheduler=lambda optimizer: WarmupDecayLR(optimizer, total_steps=steps, warmup_steps=50),
        guidance_scale=1.0,
        sampling_steps=8,
        generation_chunk_size=32,
        seed=seed,
    )


def data_of(world: GapWorld, root: Path, seed: int, batches_per_epoch: int) -> EvolvingDataModule:
    """Read a dataset root as a run does; what is measured on is never trained on.

    Args:
        world: Names the held-out prompts and sizes the images.
        root: The dataset root.
        seed: Of the draws.
        batches_per_epoch: Between two rounds.
    """
    return EvolvingDataModule(
        root,
        held_out=world.held_out(),
        global_batch_size=BATCH,
        batches_per_epoch=batches_per_epoch,
        image_size_px=world.image_size_px,
        seed=seed,
        generation_chunk_size=32,
    )


def fit(module: TextToImage, data: EvolvingDataModule, steps: int, folder: Path, callbacks: list[Any]) -> Trainer:
    """Train a student, with averaged weights.

    Args:
        module: The student.
        data: What it is trained on.
        steps: Batches.
        folder: Where the trainer may write.
        callbacks: Beside the averaging of weights.
    """
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        callbacks=[EMA(decay=0.99), *callbacks],
    )
    trainer.fit(module, data)
    return trainer


def accuracy_of(module: TextToImage, world: GapWorld, seed: int) -> tuple[float, float]:
    """Return the share of held-out images drawn right, of the gap and of the rest, as the exact reader sees it.

    Args:
        module: The student.
        world: Whose held-out prompts.
        seed: Of the images.
    """
    listed = world.held_out().prompts()
    shares = []
    for hidden, count in ((True, GAP_IMAGES), (False, KNOWN_IMAGES)):
        prompts = [prompt for prompt in listed if world.hides(prompt.text) == hidden]
        by_skill: dict[str, list[Prompt]] = {}
        for prompt in prompts:
            by_skill.setdefault(prompt.skill, []).append(prompt)
        skills = list(by_skill.values())
        chosen = [skills[n % len(skills)][n // len(skills) % len(skills[n % len(skills)])] for n in range(count)]
        size_px = world.image_size_px
        requests = [
            ImageRequest(f"{n}", prompt.text, seed_of("evaluation", seed, n), size_px, size_px)
            for n, prompt in enumerate(chosen)
        ]
        with eval_mode(module), torch.no_grad():
            images = module.generate(requests)
        items = [ImageAndPrompt(r.request_id, encode_png(i), r.prompt) for r, i in zip(requests, images, strict=True)]
        looks = list(world.judge().check(items))
        shares.append(sum(look.probability >= 0.5 for look in looks) / len(looks))
    return shares[0], shares[1]


def losses_of(module: TextToImage, drawn: Sequence[tuple[Prompt, bytes]], seed: int) -> list[float]:
    """Return the loss of each image under a student: the mean over `LOSS_LEVELS` fixed noise levels.

    Args:
        module: The student.
        drawn: Prompts with encoded images.
        seed: Of the noise.
    """

    def noise(prompt: Prompt) -> tuple[int, ...]:
        return tuple(seed_of("loss", seed, prompt.id, level) for level in range(LOSS_LEVELS))

    requests = [LossRequest(prompt.id, image, prompt.text, noise(prompt)) for prompt, image in drawn]
    with eval_mode(module), torch.no_grad():
        return module.sample_losses(requests)
