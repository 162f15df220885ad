"""Codecs: scale, shift, statistics and packing are undone, sides need not be equal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from evolvedirector.lightning_modules.codecs import Autoencoder, Codec, LatentScale, Pixels, Posterior, latent_shape
from evolvedirector.records.condition import Size
from tests.teachers.tiny_pipelines import kl_autoencoder

RAW = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))


def test_latents_are_normalised_in_the_published_order() -> None:
    scale = LatentScale(scale=1.5, shift=0.1, means=(1.0, 2.0, 3.0), deviations=(2.0, 4.0, 8.0))
    expected = ((RAW[:, 1] - 2.0) / 4.0 - 0.1) * 1.5
    torch.testing.assert_close(scale.normalise(RAW)[:, 1], expected)
    torch.testing.assert_close(scale.restore(scale.normalise(RAW)), RAW)


def test_packing_makes_neighbours_channels() -> None:
    scale = LatentScale(packing=2, means=tuple(range(12)))
    packed = scale.normalise(RAW)
    assert packed.shape == (2, 12, 2, 3)
    assert packed[0, 4 * 1 + 2 * 1 + 0, 1, 2] == RAW[0, 1, 2 * 1 + 1, 2 * 2] - 6  # channel, row, column
    torch.testing.assert_close(scale.restore(packed), RAW)


def test_a_posterior_without_deviation_or_noise_is_its_mean() -> None:
    assert torch.equal(Posterior(RAW).sample(RAW), RAW) and torch.equal(Posterior(RAW, RAW).sample(None), RAW)
    assert torch.equal(Posterior(RAW, RAW).sample(RAW), RAW + RAW * RAW)


def test_pixels_are_a_codec() -> None:
    pixels = Pixels()
    assert isinstance(pixels, Codec) and latent_shape(pixels, Size(5, 7)) == (3, 5, 7)
    assert torch.equal(pixels.decode(pixels.normalise(pixels.encode(RAW).sample(None))), RAW)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    torch.manual_seed(0)
    kl_autoencoder(6, shift_factor=0.06, scaling_factor=1.5).save_pretrained(folder / "vae")
    return folder


def codec(saved: Path, **settings: object) -> Autoencoder:
    return Autoencoder(str(saved), latent_channels=6, downscaling=2, subfolder="vae", **settings)  # type: ignore[arg-type]


def test_the_autoencoder_scales_and_shifts_images_that_are_not_square(saved: Path) -> None:
    images = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model = AutoencoderKL.from_pretrained(saved / "vae").eval()
    noise = torch.ones(1, 6, 8, 12)
    ours = codec(saved)
    with torch.no_grad():
        posterior = model.encode(images).latent_dist
        expected = (posterior.mean + posterior.std * noise - 0.06) * 1.5
        found = ours.normalise(ours.encode(images).sample(noise))
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(ours.decode(found), model.decode(expected / 1.5 + 0.06).sample)
    assert latent_shape(ours, Size(16, 24)) == (6, 8, 12)
    with pytest.raises(ValueError, match="Take 24 x 16 px"):
        latent_shape(ours, Size(17, 24))


def test_the_config_can_overrule_scale_and_shift(saved: Path) -> None:
    raw = torch.ones(1, 6, 2, 2)
    assert codec(saved, scaling_factor=2.0, shift_factor=0.0).normalise(raw).unique().item() == 2.0
    names = {codec(saved).fingerprint, codec(saved, scaling_factor=2.0).fingerprint}
    assert len({*names, codec(saved, scaling_factor=2.0, shift_factor=0.0).fingerprint}) == 3


def test_it_verifies_itself_without_its_weights(saved: Path) -> None:
    codec(saved).verify()
    assert codec(saved).estimated_bytes() == sum(
        part.numel() * 4 for part in AutoencoderKL.from_pretrained(saved / "vae").state_dict().values()
    )
    with pytest.raises(ValueError, match="latent_channels: 6, downscaling: 2"):
        Autoencoder(str(saved), subfolder="vae").verify()
    with pytest.raises(ValueError, match=r"subfolder 'other', of the autoencoder has no config\.json"):
        Autoencoder(str(saved), subfolder="other").verify()
