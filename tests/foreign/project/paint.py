"""The project's own module, data, teacher, judge and writer."""

from __future__ import annotations  # jsonargparse compares signatures with the Protocols' as they are written

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from evolvedirector.records import (
    ImageAndPrompt,
    ImageReply,
    ImageRequest,
    Look,
    OrderedPair,
    Prompt,
    RevisionChange,
    WriteReply,
    WriteRequest,
    seed_of,
)
from evolvedirector.store import DatasetStore, RevisionFiles, RevisionReader, decode_image


def grey(prompt: str) -> int:
    return int(prompt.rsplit(" ", 1)[1])


class Painter(LightningModule):
    """Learns one grey for all prompts."""

    image_size_px = 8

    def __init__(self, learning_rate: float = 0.1) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(()))
        self.learning_rate = learning_rate

    def training_step(self, batch: tuple[Tensor, list[str]], batch_idx: int) -> Tensor:
        images, _ = batch
        return (images.float().mean() / 255 - self.level).square()

    def generate(self, requests: Sequence[ImageRequest]) -> list[Tensor]:
        level = int((self.level * 255).clamp(0, 255))
        return [torch.full((3, r.height_px, r.width_px), level, dtype=torch.uint8) for r in requests]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.learning_rate)


class Rows(Dataset):
    def __init__(self, reader: RevisionReader) -> None:
        self.reader = reader

    def __getitem__(self, row: int) -> tuple[Tensor, str]:
        sample = self.reader.raw(row)
        return torch.from_numpy(np.array(decode_image(sample["png"]))), sample["txt"].decode()


class PaintData(LightningDataModule):
    """Reads a revision through a stock DataLoader, in the order of the revision."""

    def __init__(self, folder: str, batch_size: int = 4, batches: int = 3) -> None:
        super().__init__()
        self.data_root = Path(folder)
        self.batch_size, self.batches = batch_size, batches
        self._revision_sha: str | None = None

    def prepare_data(self) -> None:
        if RevisionFiles(self.data_root).current() is None:
            with DatasetStore(self.data_root, create=True) as store:
                prompts = tuple(Prompt.create(f"grey {level}") for level in range(0, 240, 30))
                store.publish(None, "first prompts", RevisionChange(prompts=prompts))

    @property
    def revision_sha(self) -> str:
        return self._revision_sha or RevisionFiles(self.data_root).current() or ""

    def open_revision(self, revision_sha: str) -> None:
        self._revision_sha = revision_sha

    def train_dataloader(self) -> DataLoader:
        reader = RevisionReader(self.data_root, self.revision_sha)
        print(f"reading revision {reader.number} with {len(reader)} images")
        order = reader.order(seed=0, global_batch_size=self.batch_size)
        batches = [order.global_batch(number).tolist() for number in range(self.batches)]
        return DataLoader(Rows(reader), batch_sampler=batches)


class GreyTeacher:
    @property
    def fingerprint(self) -> str:
        return "grey teacher"

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        for request in requests:
            buffer = io.BytesIO()
            level = grey(request.prompt)
            Image.new("RGB", (request.width_px, request.height_px), (level, level, level)).save(buffer, "PNG")
            yield ImageReply(request.request_id, "image", buffer.getvalue())

    def close(self) -> None:
        pass


class GreyJudge:
    @property
    def fingerprint(self) -> str:
        return "grey judge"

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        for pair in pairs:
            first, second = (abs(self._mean(image) - grey(pair.prompt)) for image in (pair.first, pair.second))
            yield Look(pair.item_id, 0.9 if first < second else 0.1)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        for item in items:
            yield Look(item.item_id, 0.9 if abs(self._mean(item.image) - grey(item.prompt)) < 9 else 0.1)

    def close(self) -> None:
        pass

    def _mean(self, image: bytes) -> float:
        return float(np.asarray(Image.open(io.BytesIO(image))).mean())


class GreyWriter:
    fingerprint = "grey writer"

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        for request in requests:
            levels = [seed_of(request.seed, turn) % 256 for turn in range(request.count)]
            yield WriteReply(request.request_id, tuple(f"grey {level}" for level in levels))
