"""A training in stages that takes a second: two skills of flat pictures, and experts of a tiny network."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from evolvedirector.callbacks import EMA, ExpertStages, RunCheckpoint
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.experts import LoRA, Trained
from evolvedirector.experts.merge_settings import Merge
from evolvedirector.experts.stages import Stage
from evolvedirector.lightning_modules import FlowMatching, TextToImage
from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.records.subset import Subset
from evolvedirector.store import DatasetStore
from tests.lightning_modules.tiny_student import SIDE, family
from tests.toys import flat_png

PER_EPOCH = 2
DARK, LIGHT = Subset(["dark"]), Subset(["light"])
EXPERTS = ("dark", "light", "joint")
STAGES = (Stage("dark", 4, DARK), Stage("light", 2, LIGHT), Stage("joint", 2))


def made_root(folder: Path) -> Path:
    """Make a root of eight dark and eight light pictures."""
    with DatasetStore(folder, create=True) as store:
        tones = {f"tone {tone}": "dark" if tone < 128 else "light" for tone in range(0, 256, 16)}
        prompts = [Prompt.create(text, skill=skill) for text, skill in tones.items()]
        names = store.blobs.put_many([flat_png(int(prompt.text.split()[1]), SIDE) for prompt in prompts])
        samples = [Sample.create(prompt, name, "toy") for prompt, name in zip(prompts, names, strict=True)]
        store.publish(None, "import", RevisionChange(samples=tuple(samples)))
    return folder


def decayed(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


class Noted(TextToImage):
    """Notes what it was trained on, and at which rate."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.seen: dict[int, tuple[set[str], list[int], float]] = {}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        seeds = batch["sample_seed"].tolist()
        self.seen[self.trainer.global_step] = (set(batch["skill"]), seeds, rate)
        return super().training_step(batch, batch_idx)


class Staged:
    """One process's part of a run in stages."""

    def __init__(self, folder: Path, root: Path, **settings: Any) -> None:
        trained = settings.pop("trained", None) or Trained(LoRA(2), experts=EXPERTS)
        stages = settings.pop("stages", STAGES)
        merges = settings.pop("merges", {"uniform": Merge(experts=["dark", "light"])})
        optimizer = partial(torch.optim.AdamW, lr=1e-2, fused=settings.pop("fused", None))
        self.folder = folder
        self.module = Noted(
            family(), FlowMatching(prediction="x0"), SIDE, optimizer, decayed,
            sampling_steps=1, generation_chunk_size=2, trained=trained, **settings.pop("model", {}),
        )  # fmt: skip
        self.data = EvolvingDataModule(root, global_batch_size=4, batches_per_epoch=PER_EPOCH, image_size_px=SIDE)
        self.stages = ExpertStages(list(stages), settings.pop("only", None), merges)
        self.average = EMA(0.5) if settings.pop("average", True) else None
        averages = [] if self.average is None else [self.average]
        checkpoint = RunCheckpoint(every_n_train_steps=settings.pop("every", None), keep_last=99)
        callbacks = [*averages, self.stages, *settings.pop("callbacks", []), checkpoint]
        limits = {"max_steps": sum(stage.steps for stage in self.stages._chosen)} | settings
        self.trainer = Trainer(
            default_root_dir=folder, accelerator=limits.pop("accelerator", "cpu"), logger=False,
            reload_dataloaders_every_n_epochs=1, callbacks=callbacks, enable_progress_bar=False,
            enable_model_summary=False, **limits,
        )  # fmt: skip

    def fit(self, checkpoint: str | None = None) -> Staged:
        path = self.folder / "checkpoints" / checkpoint / "state.ckpt" if checkpoint else None
        self.trainer.fit(self.module, datamodule=self.data, ckpt_path=path, weights_only=True)
        return self

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: part.detach().clone() for name, part in self.module.named_parameters() if part.requires_grad}

    def fresh(self) -> dict[str, torch.Tensor]:
        self.module.configure_model()
        return self.weights()

    def averages(self) -> dict[str, torch.Tensor]:
        assert self.average is not None
        with self.average.averaged(self.module):
            return self.weights()
