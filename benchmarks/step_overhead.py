"""Measure what Lightning adds to a training step: our module and loader in a Trainer against a bare torch loop.

Both train the same student on the same batches, in turns, in one process. The Trainer reads them from a dataset root
through `EvolvingDataModule`; the bare loop has them in memory and does the computation of a step and nothing else:
draws, text states, forward, backward, clipping, optimizer.
The figure is the median of the ratios of interleaved pairs; the bar is 5 %. Time is processor time of this process,
which other work on the machine disturbs least; on a GPU machine it must be read as wall time (--wall).

Run: python benchmarks/step_overhead.py [--pairs 7] [--steps 20] [--batch 32]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.lightning_modules import FlowMatching, PixArt, RandomTextEncoder, TextToImage
from evolvedirector.lightning_modules.draws import draw
from evolvedirector.lightning_modules.gradient_clipping import clip_gradients
from evolvedirector.lightning_modules.sampling import from_uint8
from evolvedirector.records import ImageRequest, RevisionChange, Sample
from evolvedirector.records.condition import Extras, Size
from evolvedirector.store import DatasetStore
from evolvedirector.worlds.shapes import MiniaturePrompts, MiniatureTeacher

clock = time.process_time


def student() -> TextToImage:
    """Make the student of configs/model/tiny.yaml, with a text encoder that needs no package."""
    return TextToImage(
        PixArt(RandomTextEncoder(384), 32, text_length=24, patch_size=8, layers=6, heads=4, head_dim=48),
        FlowMatching(prediction="x0"),
        image_size_px=32,
    )


def dataset(root: Path, samples: int) -> None:
    """Make a dataset root of drawn scenes, kept as given images."""
    prompts = MiniaturePrompts(count=samples).prompts()
    requests = [ImageRequest(prompt.id, prompt.text, number, 32, 32) for number, prompt in enumerate(prompts)]
    images = {reply.request_id: reply.image for reply in MiniatureTeacher().generate(requests)}
    with DatasetStore(root, create=True) as store:
        names = store.blobs.put_many([images[prompt.id] or b"" for prompt in prompts])
        samples_of = [Sample.create(prompt, name, "given") for prompt, name in zip(prompts, names, strict=True)]
        store.publish(None, "import", RevisionChange(samples=tuple(samples_of)))


def datamodule(root: Path, steps: int, size: int) -> EvolvingDataModule:
    """Make a datamodule at the start of its stream: every measurement sees the same batches."""
    return EvolvingDataModule(root, global_batch_size=size, batches_per_epoch=steps, image_size_px=32)


def bare_loop_seconds(module: TextToImage, batches: list[dict[str, Any]]) -> float:
    """Time the same computation without a trainer."""
    module.train()
    optimizer = torch.optim.AdamW(module.parameters())
    start = clock()
    for batch in batches:
        draws = draw(batch["sample_seed"], module.objective, module.condition_dropout, (3, 32, 32), latent=False)
        clean = from_uint8(batch["image"])
        noisy = module.objective.corrupt(clean, draws.noise, draws.time)
        texts = ["" if dropped else text for text, dropped in zip(batch["prompt"], draws.dropped, strict=True)]
        states = module.text_states.get(texts, torch.device("cpu"))
        condition = module.family.condition(states, [Size(32, 32)] * len(texts), Extras())
        times = module.objective.transformer_time(draws.time)
        assert module.transformer is not None
        prediction = module.family.predict(module.transformer, noisy, times, condition)
        loss = module.objective.loss(prediction, clean, draws.noise, draws.time).mean()
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(optimizer, 1.0, "norm", loss_is_scaled=False)
        optimizer.step()
    return clock() - start


def trainer_seconds(module: TextToImage, data: EvolvingDataModule) -> float:
    """Time a Trainer on the same batches, from the start of its epoch to its end (set-up is paid once per run)."""
    from lightning.pytorch import Callback

    class Clock(Callback):
        started = ended = 0.0

        def on_train_epoch_start(self, *_: Any) -> None:
            self.started = clock()

        def on_train_epoch_end(self, *_: Any) -> None:
            self.ended = clock()

    timer = Clock()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        reload_dataloaders_every_n_epochs=1,
        gradient_clip_val=1.0,
        callbacks=[timer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return timer.ended - timer.started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7, help="interleaved pairs of measurements")
    parser.add_argument("--steps", type=int, default=20, help="training steps per measurement")
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--wall", action="store_true", help="measure wall time instead of processor time")
    arguments = parser.parse_args()
    global clock
    clock = time.perf_counter if arguments.wall else time.process_time
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        dataset(root, samples=500)
        loader: Any = datamodule(root, arguments.steps, arguments.batch).train_dataloader()
        batches = list(loader)
        module = student()
        module.configure_model()
        trainer_seconds(module, datamodule(root, 3, arguments.batch))  # warm-up of both
        bare_loop_seconds(module, batches[:3])
        ratios, rates = [], []
        for pair in range(arguments.pairs):
            data = datamodule(root, arguments.steps, arguments.batch)
            measures = {
                "bare": lambda: bare_loop_seconds(module, batches),
                "ours": lambda d=data: trainer_seconds(module, d),
            }
            order = list(measures) if pair % 2 else list(measures)[::-1]
            seconds = {name: measures[name]() for name in order}
            ratios.append(seconds["ours"] / seconds["bare"])
            rates.append(arguments.steps * arguments.batch / seconds["ours"])
    overhead = 100 * (statistics.median(ratios) - 1)
    print(f"Lightning over a bare loop: {overhead:+.1f} % (bar 5 %), pairs {[f'{ratio:.3f}' for ratio in ratios]}")
    print(f"{statistics.median(rates):.0f} images per second of one thread")


if __name__ == "__main__":
    main()
