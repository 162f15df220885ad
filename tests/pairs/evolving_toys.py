"""A student that changes the reference as its words say, but for the kinds of change that it fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from evolvedirector.callbacks import EvolutionCallback, RunCheckpoint
from evolvedirector.datamodules import SubjectPairDataModule
from evolvedirector.pairs import BorderMask, DrawnReader, EvolvingPairs, PairFilter, RawPatches
from evolvedirector.pairs.drawn.changes import PLACES, TEXTURES, TINTS, scene, textured, tinted
from evolvedirector.pairs.pictures import cut_square, mask_of, pixels_of
from evolvedirector.records import ImageRequest
from evolvedirector.store import DatasetStore
from evolvedirector.store.ledger import RoundRow
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS
from tests.pairs.pair_toys import WORLD, builder

KINDS = ["place", "tint", "texture"]
SIDE = 48
LIMITS = {
    "place": {"identity": 0.5, "change": 0.5},
    "tint": {"identity_grey": 0.4, "change": 0.6},
    "texture": {"identity": 0.3, "change": 0.2},
}
PER_EPOCH, EPOCHS = 2, 3


class ToySubjectStudent(pl.LightningModule):
    """Draws by rule; its one weight moves with each step, so that a resumed run can be told from another."""

    image_size_px = SIDE
    generation_chunk_size = 2
    file_roles: Sequence[str] = ("reference", "reference_mask")
    needed_roles: Sequence[str] = ()

    def __init__(self, fails: Collection[str] = ()) -> None:
        super().__init__()
        self.fails, self.weight = fails, torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[int, list[str]] = {}
        self.drawn: list[str] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.seen[self.trainer.global_step] = batch["key"]
        return (self.weight - batch["image"].float().mean() / 255).square().sum()

    def generate(self, requests: Sequence[ImageRequest]) -> list[Tensor]:
        self.drawn += [request.request_id for request in requests]
        return [torch.tensor(self._drawn(request)).permute(2, 0, 1) for request in requests]

    def _drawn(self, request: ImageRequest) -> np.ndarray:
        pixels, mask = pixels_of(request.files["reference"]), mask_of(request.files["reference_mask"])
        side = round((0.5 if " at the " in request.prompt else 0.8) * SIDE)
        square, covered = cut_square(pixels, mask, side)
        cut = np.concatenate([square, covered[..., None].astype(np.uint8) * 255], axis=-1)
        words = request.prompt.split()
        where, background = (0.5, 0.5), (240, 240, 240)
        if "place" not in self.fails:
            where = next((PLACES[place] for place in PLACES if f"at the {place} on" in request.prompt), where)
            background = next((BACKGROUNDS[b] for b in BACKGROUNDS if f" {b} background" in request.prompt), background)
        if "tint" not in self.fails and words[1] in TINTS and "at the" not in request.prompt:
            cut = tinted(cut, words[1])
        if "texture" not in self.fails and words[1] in TEXTURES:
            cut = textured(cut, words[1])
        return scene(cut, where, background, SIDE)[0]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.05)


def evolving(stages: dict[str, Any] | None = None, **settings: Any) -> EvolvingPairs:
    """Return small rounds over drawn pairs; what a builder takes among the settings is the builder's.

    `thresholds` are those of looks; without `builder_thresholds` those of the builder are `LIMITS`.
    """
    own = {"pairs_per_round": 18, "looks_per_round": 18, "look_share": 0.25, "mask": BorderMask()}
    rounds = {
        name: settings.pop(name) for name in (*own, "judge", "thresholds", "policy", "most_pairs") if name in settings
    }
    encoder = RawPatches(8)
    filter = PairFilter(encoder, DrawnReader(WORLD, encoder, learned=12, side_px=48), side_px=48)
    limits = settings.pop("builder_thresholds", LIMITS)
    numbers: dict[str, Any] = {"kinds": KINDS, "thresholds": limits, "image_size_px": SIDE, "most_subjects": 24}
    made = builder({"filter": filter} | (stages or {}), **(numbers | settings))
    return EvolvingPairs(made, **(own | rounds))


class Run:
    """One process's part of a run in `folder`."""

    def __init__(self, folder: Path, fails: Collection[str] = (), **settings: Any) -> None:
        self.folder, self.root = folder, folder / "data"
        self.data = SubjectPairDataModule(
            self.root, global_batch_size=4, batches_per_epoch=PER_EPOCH, image_size_px=SIDE, generation_chunk_size=2
        )
        self.pairs = settings.pop("pairs", None) or evolving()
        self.evolution = EvolutionCallback(pairs=self.pairs, first_rounds=1, rehearse=False, every_n_epochs=1)
        torch.manual_seed(0)
        self.student = ToySubjectStudent(fails)
        self.trainer = pl.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            logger=False,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[self.evolution, RunCheckpoint(keep_last=99)],
            enable_progress_bar=False,
            enable_model_summary=False,
            **({"max_epochs": EPOCHS} | settings),
        )

    def fit(self, checkpoint: str | None = None) -> Run:
        path = self.folder / "checkpoints" / checkpoint / "state.ckpt" if checkpoint else None
        self.trainer.fit(self.student, datamodule=self.data, ckpt_path=path, weights_only=True)
        return self

    def rounds(self) -> list[RoundRow]:
        with DatasetStore(self.root) as store:
            return store.ledger.rounds.all()

    def made(self, revision_sha: str | None = None) -> Counter[str]:
        """Count the pairs of a revision by kind."""
        with DatasetStore(self.root) as store:
            entries = store.state(revision_sha or self.data.revision_sha).entries.values()
        return Counter(sample.prompt.skill for entry in entries for sample in entry.samples)
