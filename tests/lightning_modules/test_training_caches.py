"""Text states and latents: encoded once per revision, read ever after, and without a trace in what is trained."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor

from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.lightning_modules import DDPMEpsilon, PixArt, RandomTextEncoder, TextToImage
from evolvedirector.lightning_modules.codecs import Posterior
from evolvedirector.lightning_modules.latents import ENCODE_CHUNK, encode_chunk, posterior_of
from evolvedirector.lightning_modules.training_caches import encode_missing
from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.records.condition import Size
from evolvedirector.store import DatasetStore
from evolvedirector.store.latents import LatentFiles

SIDE = 16
IMAGES = 11  # more than a chunk, and no multiple of it

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
]


class Halving:
    """A random codec of one convolution: half the side, counting what it encodes and where it was sent."""

    fingerprint, channels, downscaling, is_random = "halving", 4, 2, True

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.kernel = torch.randn(4, 3, 2, 2, generator=generator)
        self.encoded, self.sent_to = 0, []  # type: ignore[var-annotated]

    def encode(self, images: Tensor) -> Posterior:
        assert len(images) == ENCODE_CHUNK, "chunks have one size"
        self.encoded += len(images)
        mean = torch.nn.functional.conv2d(images, self.kernel, stride=2)
        return Posterior(mean, mean.abs() * 0.1)

    def normalise(self, raw: Tensor) -> Tensor:
        return raw * 0.5

    def decode(self, latents: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(latents[:, :3], scale_factor=2)

    def to(self, device: torch.device) -> None:
        self.sent_to.append(str(device))


class CountingTexts(RandomTextEncoder):
    """Counts the texts that it encodes."""

    texts = 0

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        self.texts += len(set(texts))
        return super().encode(texts, max_tokens)


def student(codec: Halving, encoder: RandomTextEncoder | None = None, **settings: Any) -> TextToImage:
    torch.set_num_threads(1)
    family = PixArt(
        encoder or RandomTextEncoder(16), 8, codec, text_length=4, patch_size=4, layers=1, heads=2, head_dim=8,
        out_channels=8,
    )  # fmt: skip
    return TextToImage(family, DDPMEpsilon(sampler="ddim"), SIDE, sampling_steps=2, **settings)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    with DatasetStore(tmp_path / "data", create=True) as store:
        prompts = [Prompt.create(f"thing number {n}") for n in range(IMAGES)]
        images = []
        for _ in prompts:
            buffer = io.BytesIO()
            Image.fromarray(generator.integers(0, 255, (24, 20, 3), dtype=np.uint8)).save(buffer, "PNG")
            images.append(buffer.getvalue())
        names = store.blobs.put_many(images)
        samples = tuple(Sample.create(p, name, "toy") for p, name in zip(prompts, names, strict=True))
        store.publish(None, "import", RevisionChange(samples=samples))
    return tmp_path / "data"


def fit(module: TextToImage, root: Path, steps: int = 4, workers: int = 0) -> list[dict[str, Any]]:
    """Train, and return the batches of the run as the step saw them."""
    seen: list[dict[str, Any]] = []
    step = module.training_step

    def noted(batch: dict[str, Any], batch_idx: int) -> Tensor:
        seen.append(batch)
        return step(batch, batch_idx)

    module.training_step = noted  # type: ignore[method-assign]
    data = EvolvingDataModule(root, global_batch_size=4, batches_per_epoch=2, image_size_px=SIDE, num_workers=workers)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, enable_model_summary=False, use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1, **quiet,
    )  # fmt: skip
    trainer.fit(module, data)
    return seen


def weights(module: TextToImage) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_a_chunk_padded_or_not_gives_the_same_latents() -> None:
    images = torch.randint(0, 255, (IMAGES, 3, SIDE, SIDE), dtype=torch.uint8)
    whole, alone = posterior_of(Halving(), images), posterior_of(Halving(), images[9:10])
    assert whole.mean.shape == (IMAGES, 4, 8, 8)
    assert torch.equal(whole.mean[9:10], alone.mean)
    assert torch.equal(whole.deviation[9:10], alone.deviation)  # type: ignore[index]


def test_training_on_latents_is_training_on_images_to_the_bit(root: Path) -> None:
    codec, plain = Halving(), Halving()
    cached, bare = student(codec), student(plain, latent_cache_gib=0)
    seen, images = fit(cached, root), fit(bare, root)
    assert all("image" not in batch and batch["size_px"].tolist() == [[SIDE, SIDE]] * 4 for batch in seen)
    assert all("latent_mean" not in batch for batch in images)
    assert [batch["prompt"] for batch in seen] == [batch["prompt"] for batch in images]
    for name, value in weights(cached).items():
        assert torch.equal(value, weights(bare)[name]), name
    assert codec.encoded == 2 * ENCODE_CHUNK  # 11 images in two chunks, once; and no step encodes
    assert plain.encoded == 4 * ENCODE_CHUNK
    assert codec.sent_to[-1] == "cpu", "nothing needs it on the device any more"


def test_the_next_run_encodes_nothing_and_workers_read_the_same(root: Path) -> None:
    first = student(Halving())
    fit(first, root)
    codec, encoder = Halving(), CountingTexts(16)
    again = student(codec, encoder)
    seen = fit(again, root, workers=1)
    assert codec.encoded == 0 and encoder.texts == 0
    assert "latent_mean" in seen[0]
    for name, value in weights(first).items():
        assert torch.equal(value, weights(again)[name]), name


def test_a_full_folder_leaves_the_rest_to_the_step(root: Path) -> None:
    codec = Halving()
    module = student(codec, latent_cache_gib=20_000 / 2**30)  # room for one chunk of the two
    with pytest.warns(UserWarning, match="larger latent_cache_gib"):
        seen = fit(module, root, steps=6)
    assert {"image" in batch for batch in seen} == {True} or {"image" in batch for batch in seen} == {True, False}
    bare = student(Halving(), latent_cache_gib=0)
    fit(bare, root, steps=6)
    for name, value in weights(bare).items():
        assert torch.equal(value, weights(module)[name]), name


def test_what_finds_no_room_is_not_even_decoded(tmp_path: Path) -> None:
    decoded: list[int] = []

    def images() -> Iterator[tuple[str, np.ndarray]]:
        for number in range(100):
            decoded.append(number)
            yield f"{number:032x}", np.zeros((3, SIDE, SIDE), np.uint8)

    latents = LatentFiles(tmp_path, 20_000, "halving")  # room for one chunk
    with pytest.warns(UserWarning, match="larger latent_cache_gib"):
        encode_missing(latents, images(), Halving(), torch.device("cpu"))
    assert len(decoded) == 2 * ENCODE_CHUNK
    encode_missing(latents, images(), Halving(), torch.device("cpu"))
    assert len(decoded) == 2 * ENCODE_CHUNK, "nor at the next revision"


def test_texts_of_a_revision_are_encoded_before_its_first_step(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = CountingTexts(16)
    module = student(Halving(), encoder)
    at_step: list[int] = []
    step = TextToImage.training_step

    def noted(self: TextToImage, batch: dict[str, Any], batch_idx: int) -> Tensor:
        at_step.append(encoder.texts)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(TextToImage, "training_step", noted)
    fit(module, root, steps=2)
    assert at_step == [IMAGES + 1] * 2 and encoder.texts == IMAGES + 1, "each text once, and the empty one"


def test_without_caches_every_step_encodes_and_nothing_is_written(root: Path) -> None:
    codec, encoder = Halving(), CountingTexts(16)
    module = student(codec, encoder, text_cache_mib=0, text_cache_gib=0, latent_cache_gib=0, condition_dropout=0.0)
    seen = fit(module, root, steps=6)
    assert encoder.texts > IMAGES + 4, "texts are encoded again when they come back"
    assert codec.encoded == 6 * ENCODE_CHUNK and all("image" in batch for batch in seen)
    assert not (root / "caches").exists()


def test_large_images_are_encoded_fewer_at_once() -> None:
    sizes = [(32, 32), (512, 512), (1024, 1024), (640, 1600), (4096, 4096)]
    assert [encode_chunk(Size(*size)) for size in sizes] == [8, 8, 2, 2, 1]
