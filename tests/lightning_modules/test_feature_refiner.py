"""A network that draws images from their own patch features: what it learns from, draws, keeps and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import (
    DDPM,
    FeatureFamily,
    FeatureRefiner,
    FeatureTraining,
    FlowMatching,
    RawPatches,
    TextToImage,
)
from evolvedirector.lightning_modules.subjects.feature_encoder import PatchFeatures
from evolvedirector.lightning_modules.subjects.feature_student import worsened
from evolvedirector.records import ImageRequest, LossRequest
from tests.lightning_modules.subjects.tiny_subject import SIDE, batch, npy, picture, pixart, png, request
from tests.lightning_modules.tiny_student import Batches

FLOW = FlowMatching("x0")
AS_IS = FeatureTraining(0.0, 0.0, 0.0)


class Awake(FeatureFamily):
    """Its layers that begin at zero are random, so that what depends on them shows."""

    def build(self) -> nn.Module:
        network = super().build()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        return network


def model(kind: type[FeatureFamily] = Awake, features: Any = None, width: int = 8, **settings: Any) -> FeatureRefiner:
    numbers = {"sampling_steps": 2, "generation_chunk_size": 2, "guidance_scale": 1.0} | settings
    return FeatureRefiner(kind(pixart(), features or RawPatches(8, 2), width=width), FLOW, SIDE, **numbers)


def losses(module: FeatureRefiner, given: dict[str, Any], condition_dropout: float = 0.0) -> Tensor:
    return module.student().training_losses(given, condition_dropout)


def of_picture(seed: int, module: FeatureRefiner) -> Tensor:
    return module.patch_features(picture(seed, count=1))[0]


def drawn(module: FeatureRefiner, features: Tensor | None = None, **settings: Any) -> Tensor:
    files = {} if features is None else {"features": npy(features.numpy())}
    return module.generate([request(**settings, **files)])[0].int()


# ---- what is learned from


def test_an_untrained_reader_leaves_the_network_as_the_family_builds_it() -> None:
    refiner = model(FeatureFamily)
    plain = TextToImage(pixart(), FLOW, SIDE, sampling_steps=2, generation_chunk_size=2, guidance_scale=1.0)
    own = refiner.student().network.state_dict()
    for name, weights in plain.student().network.state_dict().items():
        assert torch.equal(own[name], weights), name
    expected = plain.student().training_losses(batch(), 0.0)
    assert torch.allclose(losses(refiner, batch()), expected, atol=1e-6)
    assert not torch.allclose(losses(model(), batch()), losses(model(training=FeatureTraining(0.5)), batch()))


def test_it_learns_to_draw_an_image_from_its_features_alone() -> None:
    module = model(FeatureFamily, width=32, training=AS_IS, sampling_steps=1, condition_dropout=1.0)
    optimizer = torch.optim.Adam(module.student().network.parameters(), 1e-2)
    for number in range(40):
        optimizer.zero_grad()
        losses(module, batch(number), 1.0).mean().backward()
        optimizer.step()
    seen = picture(1)
    images = [drawn(module, grid, prompt="") for grid in module.patch_features(seen)]
    nearest = [min(range(4), key=lambda row: float((seen[row].int() - one).abs().sum())) for one in images]
    assert nearest == [0, 1, 2, 3]


def test_gradients_reach_every_part_and_never_the_frozen_features() -> None:
    module = model(training=FeatureTraining(0.0, 0.3, 0.0))
    losses(module, batch()).mean().backward()
    without = [name for name, part in module.student().network.named_parameters() if part.grad is None]
    assert not without, without


def test_features_are_made_worse_by_the_seed_of_the_sample_alone() -> None:
    grid = torch.arange(2 * 36.0).view(2, 6, 6, 1)
    seeds = torch.tensor([5, 6])
    training = FeatureTraining(0.0, 0.3, 0.6)
    both = worsened(grid, seeds, training)
    alone = worsened(grid[1:], seeds[1:], training)
    assert torch.equal(both[1:].nan_to_num(-1), alone.nan_to_num(-1))
    assert 4 < both.isnan().sum() < 40
    moved = (both - grid).abs().nan_to_num(0)
    assert (moved > 0).sum() > 10 and moved.max() <= 7, "patches show a neighbour's features"
    assert torch.equal(worsened(grid, seeds, AS_IS), grid)
    lost = worsened(grid.expand(2, 6, 6, 1).repeat(20, 1, 1, 1), torch.arange(40), FeatureTraining(0.5, 0.0, 0.0))
    share = lost.isnan().all(dim=(1, 2, 3)).float().mean()
    assert 0.2 < share < 0.8 and torch.equal(lost.isnan().all(dim=(1, 2, 3)), lost.isnan().any(dim=(1, 2, 3)))


# ---- what is drawn


def test_features_their_place_and_what_is_not_known_count() -> None:
    module = model()
    grid = of_picture(2, module)
    hole = grid.clone()
    hole[0, 0] = torch.nan
    grids = [grid, of_picture(3, module), grid.flip(0), hole, torch.full_like(grid, torch.nan), None]
    images = [drawn(module, each).numpy().tobytes() for each in grids]
    assert len(set(images[:5])) == 5
    assert images[4] == images[5], "nothing known is as no features at all"


def test_guidance_over_the_features_begins_at_the_words_alone() -> None:
    module = model()
    grid = of_picture(2, module)
    alone = drawn(module)
    far = []
    for scale in (0.0, 1.0, 3.0):
        module.feature_guidance_scale = scale
        far.append(float((drawn(module, grid) - alone).abs().float().mean()))
    assert far[0] == 0 and 1 < far[1] < far[2]


def test_an_image_does_not_depend_on_what_is_drawn_beside_it() -> None:
    module = model()
    asked = [request("plain"), *(request(str(n), features=npy(of_picture(n, module).numpy())) for n in range(3))]
    together = module.generate(asked)
    for one, image in zip(asked, together, strict=True):
        assert torch.equal(module.generate([one])[0], image)


def test_losses_of_samples_are_measured_with_the_features_of_their_image() -> None:
    module = model()
    asked = [LossRequest(str(n), png(picture(n)[0]).content or b"", "a cat", (1, 2, 3)) for n in range(3)]
    together = module.sample_losses(asked)
    assert together == pytest.approx([module.sample_losses([one])[0] for one in asked], abs=1e-5)
    assert together != model(FeatureFamily).sample_losses(asked)


# ---- what is kept


def trained(steps: int, folder: Path, checkpoint: Path | None = None) -> tuple[FeatureRefiner, Path]:
    module = model(FeatureFamily, optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-2))
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, Batches(), ckpt_path=checkpoint)
    path = folder / f"{steps}.ckpt"
    trainer.save_checkpoint(path)
    return module, path


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_a_resumed_run_ends_where_an_uninterrupted_one_does_and_its_checkpoint_holds_nothing_frozen(
    tmp_path: Path,
) -> None:
    whole, path = trained(6, tmp_path)
    _, cut = trained(3, tmp_path)
    resumed, _ = trained(6, tmp_path, cut)
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name
    saved = torch.load(path, weights_only=True)
    assert saved["text_to_image"]["frozen_parts"]["features"] == "raw-patches-8-2"
    assert {name.split(".")[1] for name in saved["state_dict"]} > {"feature_reader", "transformer_blocks", "pos_embed"}


def test_a_checkpoint_of_other_features_is_refused() -> None:
    state: dict[str, Any] = {}
    model(features=RawPatches(8, 4)).on_save_checkpoint(state)
    with pytest.raises(UserError, match="features 'raw-patches-8-2', but the checkpoint was trained with"):
        model().on_load_checkpoint(state)


# ---- what is refused


def test_features_of_another_dimension_are_refused_in_one_sentence() -> None:
    module = model()
    other = np.zeros((4, 4, 7), np.float32)
    with pytest.raises(UserError, match=r"The features are .* of shape \(4, 4, 7\). Allowed are floats of shape"):
        module.generate([request(features=npy(other))])

    class Lying(RawPatches):
        def features(self, images: Tensor) -> PatchFeatures:
            found = super().features(images)
            return replace(found, values=found.values[..., :5])

    with pytest.raises(UserError, match="gives features of dimension 5, but says 12"):
        losses(model(features=Lying(8, 2)), batch())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"training": FeatureTraining(feature_dropout=1.0)}, "feature_dropout is 1.0"),
        ({"training": FeatureTraining(patch_shift=-0.1)}, "patch_shift -0.1"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        model(**settings)


# ---- by name


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_stable_diffusion_by_name_draws_from_features_and_begins_as_it_was(tmp_path: Path) -> None:
    from evolvedirector.lightning_modules import Autoencoder, CLIPEncoder, StableDiffusion
    from tests.lightning_modules.families.tiny_sd import SD_NUMBERS, save_stable_diffusion

    name = str(save_stable_diffusion(tmp_path))

    def unet(**further: Any) -> Any:
        clip = CLIPEncoder(name, None, 32, None, "float32", "text_encoder", "tokenizer", "last", projected=False)
        start = {"pretrained": name, "pretrained_subfolder": "unet"} | further
        return StableDiffusion(clip, Autoencoder(name, downscaling=2, subfolder="vae"), **(SD_NUMBERS | start))

    family = FeatureFamily(unet(), RawPatches(32, 4), width=8)
    numbers: dict[str, Any] = {"sampling_steps": 2, "generation_chunk_size": 2, "guidance_scale": 1.0}
    module = FeatureRefiner(family, DDPM(), 32, **numbers)
    grid = module.patch_features(picture(2, 1, 32))[0]
    asked = [ImageRequest("one", "cat", 3, 32, 32, files={"features": npy(grid.numpy())})]
    plain = TextToImage(unet(), DDPM(), 32, latent_cache_gib=0.0, **numbers)
    bare = [ImageRequest("one", "cat", 3, 32, 32)]
    assert torch.equal(module.generate(asked)[0], plain.generate(bare)[0]), "further channels begin without effect"
    given = {"image": picture(3, 2, 32), "prompt": ["a", "b"], "sample_seed": torch.arange(2)}
    optimizer = torch.optim.SGD(module.student().network.parameters(), 1.0)
    losses(module, given).mean().backward()
    optimizer.step()
    assert not torch.equal(module.generate(asked)[0], module.generate(bare)[0])
    with pytest.raises(UserError, match=r"latent_cache_gib is 1\.0"):
        FeatureRefiner(family, DDPM(), 32, latent_cache_gib=1.0, **numbers)
    with pytest.raises(UserError, match="reads mask, source"):
        FeatureFamily(unet(inpainting=True, pretrained=None, pretrained_subfolder=None), RawPatches(32, 4))
