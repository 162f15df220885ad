"""A network that shows an object from elsewhere: what it reads of a pose, what it learns, resume, other families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evolvedirector.datamodules import ViewDataModule
from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import (
    DDPM,
    FlowMatching,
    RawPatches,
    SubjectTraining,
    ViewFamily,
    ViewGenerator,
)
from evolvedirector.lightning_modules.subjects.view_family import POSE_WAVES, pose_waves, turned_in_plane
from evolvedirector.pairs import DrawnSubjects, DrawnViews
from evolvedirector.records.poses import Pose, pose_file, turn_between
from evolvedirector.worlds.shapes.cut_outs import ShapeCutOuts
from tests.lightning_modules.subjects.tiny_subject import SIDE, Awake, batch, picture, pixart, png, request

FLOW = FlowMatching("x0")
UNKNOWN = torch.full((4, 4), torch.nan)
UPRIGHT, MIRRORED = torch.zeros(4, 4), torch.tensor([0.0, 0, 0, 1]).repeat(4, 1)


class AwakeViews(Awake, ViewFamily):
    """A view family whose layers that begin at zero are random."""


def model(kind: type[ViewFamily] = AwakeViews, **settings: Any) -> ViewGenerator:
    family = kind(pixart(), RawPatches(8, 4), width=16, layers=1, heads=2)
    return ViewGenerator(family, FLOW, SIDE, **({"sampling_steps": 2, "generation_chunk_size": 2} | settings))


def losses(module: ViewGenerator, pose: Tensor, **files: Any) -> Tensor:
    return module.student().training_losses(batch(reference=picture(2), pose=pose, **files), 0.0)


# ---- what is read of a pose


@pytest.mark.parametrize("pose", [Pose(mirrored=True), Pose(roll_deg=90), Pose(roll_deg=270), Pose(0, 0, 90, True)])
def test_tokens_stand_where_the_turned_picture_shows_what_they_show(pose: Pose) -> None:
    places = np.stack(np.meshgrid(np.arange(4), np.arange(4)), axis=-1)  # x and y of each pixel
    shown = np.rot90(places[:, ::-1] if pose.mirrored else places, round(pose.roll_deg / 90))
    turn = torch.from_numpy(turn_between(Pose(), pose))[None]
    centres = torch.from_numpy((shown.reshape(1, -1, 2) + 0.5) / 4).float()
    found = turned_in_plane(centres, turn)
    assert torch.allclose(found, torch.from_numpy((places.reshape(1, -1, 2) + 0.5) / 4).float(), atol=1e-6)


def test_every_function_of_the_eight_right_turns_is_linear_in_the_waves() -> None:
    poses = [Pose(roll_deg=90 * quarter, mirrored=mirrored) for quarter in range(4) for mirrored in (False, True)]
    waves = pose_waves(torch.from_numpy(np.stack([pose.values() for pose in poses])))
    assert waves.shape == (8, POSE_WAVES) and torch.linalg.matrix_rank(waves) == 8


def test_camera_angles_wrap_and_a_pose_that_is_not_known_is_another_one_than_none() -> None:
    one, other = (pose_waves(torch.tensor([[azimuth, 10.0, 0, 0]])) for azimuth in (30.0, 390.0))
    assert torch.allclose(one, other, atol=1e-6)
    unknown = pose_waves(UNKNOWN[:1])
    assert unknown.tolist() == [[0.0] * (POSE_WAVES - 1) + [1.0]] and not torch.equal(unknown, pose_waves(UPRIGHT[:1]))


def test_a_drawing_depends_on_the_pose_and_not_where_the_reference_is_dropped() -> None:
    module = model(training=SubjectTraining(reference_dropout=0.0))
    found = [losses(module, pose) for pose in (UPRIGHT, MIRRORED, UNKNOWN)]
    assert all(not torch.allclose(found[0], other, atol=1e-4) for other in found[1:])
    module.subject_training = SubjectTraining(reference_dropout=0.999999)
    assert torch.allclose(losses(module, UPRIGHT), losses(module, MIRRORED), atol=1e-5)


def test_an_untrained_view_generator_is_the_network_of_its_family() -> None:
    module = model(ViewFamily)
    assert torch.equal(losses(module, UPRIGHT), losses(module, MIRRORED))


# ---- learning and drawing


def data(**settings: Any) -> ViewDataModule:
    views = DrawnViews(DrawnSubjects(ShapeCutOuts(), ["flat"]))
    numbers = {"global_batch_size": 4, "batches_per_epoch": 3, "image_size_px": SIDE, "held_out_share": 0.02}
    return ViewDataModule(views, **(numbers | settings))


def trainer(folder: Path, steps: int, **settings: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    quiet["enable_checkpointing"] = False
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=steps,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        **(quiet | settings),
    )


def test_a_resumed_run_ends_with_the_same_weights_to_the_bit(tmp_path: Path) -> None:
    whole, broken, resumed = model(ViewFamily), model(ViewFamily), model(ViewFamily)
    trainer(tmp_path, 7, limit_val_batches=0).fit(whole, datamodule=data())
    first = trainer(tmp_path, 4, limit_val_batches=0)
    first.fit(broken, datamodule=data())
    first.save_checkpoint(tmp_path / "four.ckpt")
    trainer(tmp_path, 7, limit_val_batches=0).fit(
        resumed, datamodule=data(), ckpt_path=str(tmp_path / "four.ckpt"), weights_only=True
    )
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name
    moved = [name for name, weights in whole.state_dict().items() if not torch.equal(weights, _start()[name])]
    assert "transformer.subject.resampler.project.weight" in moved


def _start() -> dict[str, Tensor]:
    module = model(ViewFamily)
    module.configure_model()
    return module.state_dict()


def test_held_out_objects_are_measured_alike_whatever_chance_drops_in_training(tmp_path: Path) -> None:
    found = []
    for share in (0.0, 0.9):
        run = trainer(tmp_path, 1, limit_val_batches=2)
        module = model(training=SubjectTraining(reference_dropout=share))
        run.validate(module, datamodule=data(), verbose=False)
        found.append(run.callback_metrics["val/loss"].item())
    assert found[0] == found[1] > 0


def test_a_view_follows_from_its_request_alone() -> None:
    module = model()
    asked = [request(str(n), reference=png(picture(n)[0]), pose=_pose(n)) for n in range(3)]
    drawn = module.generate(asked)
    assert [tuple(image.shape) for image in drawn] == [(3, SIDE, SIDE)] * 3
    assert torch.equal(module.generate([asked[2]])[0], drawn[2])
    other = request("2", reference=png(picture(2)[0]), pose=_pose(1))
    assert not torch.equal(module.generate([other])[0], drawn[2])


def _pose(quarters: int) -> Any:
    return pose_file(turn_between(Pose(), Pose(roll_deg=90.0 * quarters)))


def test_what_is_no_pose_is_refused() -> None:
    reference = png(picture(1)[0])
    with pytest.raises(UserError, match="There is a reference without a pose"):
        model().generate([request(reference=reference)])
    with pytest.raises(UserError, match=r"The pose is \[1.0, 2.0\]"):
        model().generate([request(reference=reference, pose=pose_file(np.ones(2) * [1, 2]))])
    assert model().needed_roles == ("reference", "pose")


# ---- other families


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_stable_diffusion_learns_views(tmp_path: Path) -> None:
    from evolvedirector.lightning_modules import Autoencoder, CLIPEncoder, StableDiffusion
    from tests.lightning_modules.families.tiny_sd import SD_NUMBERS, save_stable_diffusion

    name = str(save_stable_diffusion(tmp_path))
    clip = CLIPEncoder(name, None, 32, None, "float32", "text_encoder", "tokenizer", "last", projected=False)
    start = {"pretrained": name, "pretrained_subfolder": "unet"}
    unet = StableDiffusion(clip, Autoencoder(name, downscaling=2, subfolder="vae"), **(SD_NUMBERS | start))
    family = ViewFamily(unet, RawPatches(8, 4), width=16, layers=1, heads=2)
    module = ViewGenerator(family, DDPM(), 32, sampling_steps=2, generation_chunk_size=1)
    network: nn.Module = module.student().network
    given = {**batch(reference=picture(2), pose=MIRRORED), "image": picture(1, side=32)}
    optimizer = torch.optim.SGD(network.parameters(), 1e-2)
    found = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = module.student().training_losses(given, 0.0).mean()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[2] < found[0]
