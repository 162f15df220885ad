"""The student: learns, repeats itself exactly, and draws the same image whatever stands beside it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from evolvedirector.lightning_modules import (
    Autoencoder,
    DDPMEpsilon,
    FlowMatching,
    PixArt,
    RandomTextEncoder,
    TextToImage,
    WarmupDecayLR,
)
from evolvedirector.records import FileRef, ImageRequest
from evolvedirector.records.condition import Condition, Extras, Size, TextStates
from evolvedirector.records.part import Part

SIDE = 8


def student(seed: int = 0, objective: Any = None, encoder_seed: int = 0, **settings: Any) -> TextToImage:
    torch.set_num_threads(1)
    settings.setdefault("optimizer", lambda parameters: torch.optim.AdamW(parameters, 2e-3))
    return TextToImage(
        PixArt(
            RandomTextEncoder(16, seed=encoder_seed), SIDE, text_length=4, patch_size=4, layers=2, heads=2, head_dim=16
        ),
        objective or FlowMatching(prediction="x0"),
        image_size_px=SIDE,
        seed=seed,
        **{"sampling_steps": 6, "generation_chunk_size": 4, "guidance_scale": 1.5} | settings,
    )


def batch_of(number: int = 0, copies: int = 1) -> dict[str, Any]:
    """Eight plain squares in the corners of the colour cube, each with a prompt of its own."""
    corners = [[255 * (name >> bit & 1) for bit in range(3)] for name in range(8)] * copies
    size = len(corners)
    return {
        "image": torch.tensor(corners, dtype=torch.uint8)[:, :, None, None].repeat(1, 1, SIDE, SIDE),
        "prompt": [f"colour {name}" for name in "abcdefgh"] * copies,
        "key": ["k"] * size,
        "skill": ["colours"] * size,
        "sample_seed": number * size + torch.arange(size),
    }


def fit(module: TextToImage, steps: int, copies: int = 1, resume: Path | None = None, **settings: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    batches: Any = [batch_of(number, copies) for number in range(steps)]
    trainer.fit(module, DataLoader(batches, batch_size=None), ckpt_path=resume, weights_only=True)
    return trainer


def request(prompt: str, seed: int) -> ImageRequest:
    return ImageRequest(f"{prompt}/{seed}", prompt, seed, SIDE, SIDE)


@pytest.fixture
def losses() -> Callable[..., list[float]]:
    """Return the loss of a list of batches without a trainer."""

    def compute(module: TextToImage, batches: list[dict[str, Any]]) -> list[float]:
        module.configure_model()
        module._log_training = lambda *_: None  # type: ignore[method-assign]
        return [float(module.training_step(batch, 0).detach()) for batch in batches]

    return compute


@pytest.fixture(scope="module")
def trained() -> TextToImage:
    module = student()
    fit(module, 200, copies=4)
    return module


def test_golden_loss(losses: Callable[..., list[float]]) -> None:
    # At first the prediction is zero, so this is the loss of guessing grey: it pins draws, path and weighting.
    assert losses(student(), [batch_of(), batch_of(3)]) == pytest.approx([12.6525002, 50.1258049], rel=1e-5)


def test_loss_of_a_global_batch_is_the_mean_over_its_slices(losses: Callable[..., list[float]]) -> None:
    whole = batch_of()
    halves = [{name: value[part] for name, value in whole.items()} for part in (slice(0, 4), slice(4, 8))]
    module = student()
    module.configure_model()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02)
    together, first, second = losses(module, [whole, *halves])
    assert together == pytest.approx((first + second) / 2, rel=1e-6)


def test_global_random_state_is_neither_read_nor_changed(losses: Callable[..., list[float]]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = losses(student(condition_dropout=0.5), [batch_of()])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert losses(student(condition_dropout=0.5), [batch_of()]) == one


def test_overfits_eight_images(trained: TextToImage) -> None:
    wanted = batch_of()["image"].float()
    drawn = torch.stack(trained.generate([request(prompt, 5) for prompt in batch_of()["prompt"]])).float()
    errors = (drawn[:, None] - wanted[None]).abs().mean(dim=(2, 3, 4))
    assert errors.argmin(1).tolist() == list(range(8))  # each is nearest to its own image
    assert errors.diagonal().mean() < 30  # of 255; two of the colours differ by at least 85


def test_image_does_not_depend_on_neighbours(trained: TextToImage) -> None:
    requests = [request(f"colour {name}", seed) for name in "abc" for seed in range(3)]
    images = trained.generate(requests)
    assert all(image.dtype == torch.uint8 and image.shape == (3, SIDE, SIDE) for image in images)
    for order in (range(8, -1, -1), (4,), (8, 4, 0), (2, 2)):
        for index, image in zip(order, trained.generate([requests[index] for index in order]), strict=True):
            assert torch.equal(image, images[index])
    assert not torch.equal(images[0], images[1])  # another seed
    assert trained.generate([]) == []


def test_drawing_restores_modes_and_keeps_training_possible(trained: TextToImage) -> None:
    assert trained.transformer is not None
    trained.train()
    trained.transformer.pos_embed.eval()  # type: ignore[union-attr]
    trained.generate([request("colour a", 0)])
    assert trained.transformer.training and not trained.transformer.pos_embed.training  # type: ignore[union-attr]
    assert torch.is_grad_enabled()
    trained.transformer.train()


def test_evaluation_steps_draw(trained: TextToImage) -> None:
    for step in (trained.validation_step, trained.test_step, trained.predict_step):
        assert step([request("colour a", 0)], 0)[0].shape == (3, SIDE, SIDE)


def test_sizes_may_differ_and_neighbours_of_another_size_change_no_image(trained: TextToImage) -> None:
    sizes = [(SIDE, SIDE), (SIDE, 2 * SIDE), (SIDE, SIDE), (2 * SIDE, SIDE)]
    requests = [
        ImageRequest(str(index), "colour a", index, width_px, height_px)
        for index, (height_px, width_px) in enumerate(sizes)
    ]
    images = trained.generate(requests)
    assert [tuple(image.shape[1:]) for image in images] == sizes
    for request, image in zip(requests, images, strict=True):
        assert torch.equal(trained.generate([request])[0], image)
    with pytest.raises(ValueError, match="Take 8 x 8 px"):
        trained.generate([ImageRequest("r", "colour a", 0, SIDE + 1, SIDE)])


def test_training_images_need_not_be_square(losses: Callable[..., list[float]]) -> None:
    wide = batch_of() | {"image": batch_of()["image"].repeat(1, 1, 1, 2)}
    assert losses(student(), [batch_of(), wide, batch_of()])[2] == losses(student(), [batch_of()])[0]
    with pytest.raises(ValueError, match="patches of 4 px"):
        losses(student(), [batch_of() | {"image": batch_of()["image"][..., :6]}])


@pytest.mark.parametrize("objective", [FlowMatching(), DDPMEpsilon(sampler="ddim")])
def test_other_objectives_learn(objective: Any) -> None:
    module = student(objective=objective)
    first = fit(module, 1).callback_metrics["train/loss"]
    assert fit(module, 60).callback_metrics["train/loss"] < 0.8 * first
    assert module.generate([request("colour a", 0)])[0].shape == (3, SIDE, SIDE)


def test_mixed_precision_fused_optimizer_and_clipping_go_together() -> None:
    module = student(optimizer=lambda parameters: torch.optim.AdamW(parameters, 5e-3, fused=True))
    trainer = fit(module, 3, precision="bf16-mixed", gradient_clip_val=0.1, log_every_n_steps=1)
    assert {"train/loss", "train/learning_rate", "train/gradient_norm"} <= trainer.callback_metrics.keys()
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
    assert module.generate([request("colour a", 0)])[0].dtype == torch.uint8


def test_schedule_is_stepped_per_optimizer_step() -> None:
    module = student(lr_scheduler=lambda optimizer: WarmupDecayLR(optimizer, total_steps=4, decay_share=0.5))
    trainer = fit(module, 4, accumulate_grad_batches=1)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.0


def test_checkpoint_holds_the_transformer_alone_and_resumes_exactly(tmp_path: Path) -> None:
    module = student()
    trainer = fit(module, 5)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert all(name.startswith("transformer.") for name in saved["state_dict"])
    assert saved["text_to_image"]["images_seen"] == 40
    again = student(seed=1)
    again.configure_model()
    again.load_state_dict(saved["state_dict"])
    again.on_load_checkpoint(saved)
    assert again.images_seen == 40
    assert torch.equal(again.generate([request("colour a", 0)])[0], module.generate([request("colour a", 0)])[0])
    with pytest.raises(ValueError, match=r"text_encoder 'random-16-512-7'.*'random-16-512-0'"):
        student(encoder_seed=7).on_load_checkpoint(saved)
    with pytest.raises(ValueError, match=r"seed is 1, but .* began from seed 0.*model\.init_args\.seed: 0"):
        fit(student(seed=1), 6, resume=tmp_path / "a.ckpt")


def test_parts_that_do_not_fit_are_refused() -> None:
    encoder = RandomTextEncoder(16)
    with pytest.raises(ValueError, match="Write sample_size: 16"):
        TextToImage(PixArt(encoder, 8), FlowMatching(), 16)
    with pytest.raises(ValueError, match="Write text_dimension: 16"):
        PixArt(encoder, 8, text_dimension=32)
    with pytest.raises(ValueError, match="Write in_channels: 3"):
        PixArt(encoder, 8, in_channels=4)
    with pytest.raises(ValueError, match="sampling_steps 0"):
        TextToImage(PixArt(encoder, 8), FlowMatching(), 8, sampling_steps=0)


@pytest.fixture(scope="module")
def tiny_autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("autoencoder")
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
    ).save_pretrained(folder)
    return folder


def test_latent_space(tiny_autoencoder: Path, losses: Callable[..., list[float]]) -> None:
    def build() -> TextToImage:
        return TextToImage(
            PixArt(
                RandomTextEncoder(16),
                8,
                Autoencoder(str(tiny_autoencoder), downscaling=2),
                text_length=4,
                out_channels=8,
                patch_size=4,
                layers=1,
                heads=2,
                head_dim=8,
            ),
            DDPMEpsilon(sampler="ddim"),
            image_size_px=16,
            sampling_steps=2,
            generation_chunk_size=2,
        )

    module = build()
    batch = batch_of() | {"image": batch_of()["image"].repeat(1, 1, 2, 2)}
    assert losses(module, [batch]) == losses(build(), [batch])
    assert all(name.startswith("transformer.") for name in module.state_dict())
    assert module.generate([ImageRequest("r", "colour a", 0, 16, 16)])[0].shape == (3, 16, 16)
    with pytest.raises(ValueError, match="downscaling: 2"):
        Autoencoder(str(tiny_autoencoder)).encode(torch.zeros(1, 3, 16, 16))


def test_autoencoder_repository_needs_a_revision() -> None:
    with pytest.raises(ValueError, match="Write revision"):
        Autoencoder("someone/some-autoencoder")


class MaskedFamily(PixArt):
    """A network that reads the noisy image times a mask, which comes with every sample."""

    roles = ("mask",)

    def condition(self, states: TextStates, sizes: Sequence[Size], extras: Extras) -> Condition:
        text = super().condition(states, sizes, extras)
        return Condition(text.tokens, spatial={"mask": extras.files["mask"][:, :1] / 255})

    def predict(self, network: torch.nn.Module, noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return super().predict(network, noisy * condition.spatial["mask"], time, condition)


def masked_student() -> TextToImage:
    family = MaskedFamily(RandomTextEncoder(16), SIDE, text_length=4, patch_size=4, layers=1, heads=2, head_dim=8)
    module = TextToImage(family, FlowMatching(), SIDE, sampling_steps=2, generation_chunk_size=2)
    module.configure_model()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05)
    return module


def masked(request: ImageRequest, tone: int) -> ImageRequest:
    buffer = io.BytesIO()
    Image.new("L", (SIDE, SIDE), tone).save(buffer, "PNG")
    return replace(request, files={"mask": FileRef.of(buffer.getvalue(), "image/png", SIDE, SIDE)})


def test_a_family_reads_further_files_in_training_and_in_drawing(losses: Callable[..., list[float]]) -> None:
    module = masked_student()
    white, black = (torch.full((8, 1, SIDE, SIDE), tone, dtype=torch.uint8) for tone in (255, 0))
    first, second = losses(module, [batch_of() | {"mask": mask} for mask in (white, black)])
    assert first != second
    with pytest.raises(ValueError, match="no tensor 'mask'"):
        losses(module, [batch_of()])
    one, other = module.generate([masked(request("colour a", 0), tone) for tone in (255, 0)])
    assert not torch.equal(one, other)
    assert torch.equal(module.generate([masked(request("colour a", 0), 0)])[0], other)
    with pytest.raises(ValueError, match="brings no content for the role 'mask'"):
        module.generate([request("colour a", 0)])


def test_text_states_of_training_lie_beside_the_data(tmp_path: Path) -> None:
    class Data(LightningDataModule):
        data_root = tmp_path / "root"

        def train_dataloader(self) -> Any:
            batches: Any = [batch_of(0), batch_of(1)]
            return DataLoader(batches, batch_size=None)

    module = student(condition_dropout=0.0)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(accelerator="cpu", max_steps=2, enable_model_summary=False, **quiet).fit(module, Data())
    assert len(list((tmp_path / "root" / "caches" / "text").glob("*.states"))) == 1
    assert module.text_states.store is None  # closed with the training


def test_parts_are_named(tiny_autoencoder: Path) -> None:
    module = student()
    assert list(module.parts()) == ["family", "text_encoder", "codec"]
    assert all(isinstance(part, Part) for part in module.parts().values())
    assert module.parts()["family"].fingerprint != student(encoder_seed=1).parts()["family"].fingerprint
