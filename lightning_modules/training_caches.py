"""What a training computes once per revision and not once per step: text states, and latents of images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from evolvedirector.lightning_modules.codecs.codec import Codec
from evolvedirector.lightning_modules.codecs.pixels import Pixels
from evolvedirector.lightning_modules.families.family import Family
from evolvedirector.lightning_modules.latents import encode_chunk, posterior_of
from evolvedirector.lightning_modules.text_cache import TextCache
from evolvedirector.lightning_modules.text_store import TextStore
from evolvedirector.planning.roles import HasRoot
from evolvedirector.records.condition import Size
from evolvedirector.store.latents import LatentFiles


@runtime_checkable
class HasRevision(Protocol):
    """A datamodule that reads one revision per epoch."""

    @property
    def revision_sha(self) -> str:
        """Name the revision that training reads now."""
        ...


@runtime_checkable
class ServesLatents(Protocol):
    """A datamodule whose batches can hold latents in place of images."""

    def serve_latents(self, latents: LatentFiles | None) -> Any:
        """Put latents into a batch where all of its images have them; None goes back to images."""
        ...

    def images_without_latents(self, latents: LatentFiles) -> Iterator[tuple[str, np.ndarray]]:
        """Yield key and uint8 [3, height, width] of what the next epoch trains on; each rank another part."""
        ...


@runtime_checkable
class NamesTrainingTexts(Protocol):
    """A datamodule that knows the texts of its next epoch."""

    def training_texts(self) -> list[str]:
        """List them, each once."""
        ...


class TrainingCaches:
    """Encode the texts and images of each revision when it arrives, and let encoders and codec leave the device.

    Every rank encodes its part and writes a file of its own; all read what all have written.

    Args:
        family: Names encoders and codec.
        texts: Text states, of which the store on disk is opened here.
    """

    def __init__(self, family: Family, texts: TextCache) -> None:
        self._family, self._texts = family, texts
        self._latents: LatentFiles | None = None
        self._served: ServesLatents | None = None
        self._filled_for = ""

    def open_texts(self, data: object, folder: Path | None, most_gib: float, writes: bool) -> None:
        """Open the text states on disk; there are none without folder and dataset root, or at a cap of 0.

        Args:
            data: The datamodule.
            folder: Where they are; None: `caches/text` in the dataset root.
            most_gib: Cap of all files.
            writes: False reads what is there, and no more.
        """
        if folder is None and isinstance(data, HasRoot):
            folder = Path(data.data_root) / "caches" / "text"
        if folder is not None and most_gib > 0 and self._texts.store is None:
            self._texts.store = TextStore(folder, int(most_gib * 2**30), writes)

    def open_latents(self, data: object, most_gib: float) -> None:
        """Open the latents on disk and let the datamodule serve them; none in pixel space, or at a cap of 0.

        Args:
            data: The datamodule.
            most_gib: Cap of all files.
        """
        keeps = most_gib > 0 and not isinstance(self._family.codec, Pixels)
        if keeps and self._latents is None and isinstance(data, HasRoot) and isinstance(data, ServesLatents):
            folder = Path(data.data_root) / "caches" / "latents"
            self._latents = LatentFiles(folder, int(most_gib * 2**30), self._family.codec.fingerprint)
            self._served = data
            data.serve_latents(self._latents)

    def fill(
        self, data: object, device: torch.device, rank: int, world_size: int, wait_for_all: Callable[[], Any]
    ) -> None:
        """Encode what the revision of this epoch brings, once, and take encoders and codec off the device.

        Args:
            data: The datamodule; one that reads no revisions has nothing to say here.
            device: Where encoders and codec work.
            rank: Of this process.
            world_size: Number of processes.
            wait_for_all: Returns when every rank has come here.
        """
        if not isinstance(data, HasRevision):
            return
        if self._filled_for != data.revision_sha:
            if isinstance(data, NamesTrainingTexts):
                self._texts.fill(["", *data.training_texts()][rank::world_size], device)
            if self._latents is not None and self._served is not None:
                images = self._served.images_without_latents(self._latents)
                encode_missing(self._latents, images, self._family.codec, device)
            wait_for_all()
            self._filled_for = data.revision_sha
        # drawing has brought them back meanwhile; what a full cache could not take in brings them back at its step
        if isinstance(data, NamesTrainingTexts) and self._texts.store is not None:
            for encoder in self._family.text_encoders.values():
                encoder.to(torch.device("cpu"))
        if self._latents is not None:
            self._family.codec.to(torch.device("cpu"))

    def close(self) -> None:
        """Let go of all files; batches hold images again."""
        if self._texts.store is not None:
            self._texts.store.close()
            self._texts.store = None
        if self._latents is not None and self._served is not None:
            self._served.serve_latents(None)
            self._latents.close()
        self._latents, self._served, self._filled_for = None, None, ""


def encode_missing(
    latents: LatentFiles, images: Iterable[tuple[str, np.ndarray]], codec: Codec, device: torch.device
) -> None:
    """Encode images and keep their latents until there is no more room; no image is asked for after that.

    Args:
        latents: Where they are kept.
        images: Key and uint8 [3, height, width] of each; reading one decodes it.
        codec: Moved to the device.
        device: Where it works.
    """
    if not latents.writes:
        return
    for shape, group in itertools.groupby(images, key=lambda image: image[1].shape):  # one shape at a time
        count = encode_chunk(Size(*shape[-2:]))
        while latents.writes and (chunk := list(itertools.islice(group, count))):
            codec.to(device)
            with torch.no_grad():
                found = posterior_of(codec, torch.from_numpy(np.stack([pixels for _, pixels in chunk])).to(device))
            means = found.mean.float().cpu().numpy()
            deviations = None if found.deviation is None else found.deviation.float().cpu().numpy()
            latents.write({
                key: (means[row], None if deviations is None else deviations[row])
                for row, (key, _) in enumerate(chunk)
            })  # fmt: skip
        if not latents.writes:
            return
