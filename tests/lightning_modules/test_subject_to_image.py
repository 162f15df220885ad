"""One network that reads subjects: what it learns from, what it draws, what it keeps, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import (
    DDPM,
    FlowMatching,
    PixArt,
    RandomTextEncoder,
    RawPatches,
    SubjectDrawing,
    SubjectFamily,
    SubjectToImage,
    SubjectTraining,
    TextToImage,
)
from evolvedirector.lightning_modules.sharded_strategy import shard
from evolvedirector.lightning_modules.subjects.subject_student import weigh_gradient
from evolvedirector.lightning_modules.subjects.two_guidances import guidance_weights
from evolvedirector.records import ImageRequest, LossRequest
from tests.lightning_modules.subjects.tiny_subject import (
    SIDE,
    Awake,
    batch,
    family,
    half_mask,
    npy,
    picture,
    pixart,
    png,
    request,
)

FLOW = FlowMatching("x0")


def model(kind: type[SubjectFamily] = Awake, changes: dict[str, Any] | None = None, **settings: Any) -> SubjectToImage:
    numbers = {"sampling_steps": 2, "generation_chunk_size": 2, "guidance_scale": 2.0} | settings
    return SubjectToImage(family(kind, **(changes or {})), FLOW, SIDE, **numbers)


def losses(module: SubjectToImage, given: dict[str, Any], condition_dropout: float = 0.0) -> Tensor:
    return module.student().training_losses(given, condition_dropout)


def drawn(module: SubjectToImage, asked: ImageRequest, **knobs: float) -> Tensor:
    module.subject = SubjectDrawing(**knobs)
    return module.generate([asked])[0].int()


def reference_batch(**further: Any) -> dict[str, Any]:
    return batch(reference=picture(2), **further)


# ---- what is learned from


def test_an_untrained_reader_leaves_the_network_as_the_family_builds_it() -> None:
    subject = model(SubjectFamily, training=None, guidance_scale=1.0)
    plain = TextToImage(pixart(), FLOW, SIDE, sampling_steps=2, generation_chunk_size=2, guidance_scale=1.0)
    own = subject.student().network.state_dict()
    for name, weights in plain.student().network.state_dict().items():
        assert torch.equal(own[name], weights), name
    given = {"reference": picture(2), "mask": picture(3)[:, :1], "source": picture(4)}
    assert torch.allclose(losses(subject, batch(**given)), plain.student().training_losses(batch(), 0.0), atol=1e-5)


def test_gradients_reach_what_reads_the_subject_and_never_the_frozen_features() -> None:
    class Traced(RawPatches):
        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            self.seen: list[Tensor] = []

        def features(self, images: Tensor) -> Any:
            found = super().features(images)
            self.seen.append(found.values)
            return found

    traced = Traced(8, 4)
    module = SubjectToImage(Awake(pixart(), traced, width=16, layers=1, heads=2), FLOW, SIDE)
    never = SubjectTraining(reference_dropout=0.0)
    module.subject_training = never
    box = torch.tensor([[0.0, 0.0, 0.5, 0.5]]).expand(4, 4)
    losses(module, reference_batch(subject_box=box)).mean().backward()
    network = module.student().network
    without = [name for name, part in network.named_parameters() if part.grad is None]
    assert not without, without
    idle = [
        name for name, part in network.named_parameters() if "subject.resampler" in name and not part.grad.abs().sum()
    ]
    assert idle in ([], ["subject.resampler.layers.0.to_k.bias"]), idle  # a bias of keys moves no softmax
    assert traced.seen and not any(values.requires_grad for values in traced.seen)


def test_a_reference_that_is_dropped_is_the_trained_null_reference_whatever_it_shows() -> None:
    module = model(training=SubjectTraining(reference_dropout=0.5))
    seeds = torch.arange(40, 44)
    one, other = (losses(module, {**batch(reference=picture(seed)), "sample_seed": seeds}) for seed in (2, 3))
    none = losses(module, {**batch(), "sample_seed": seeds})
    same = (one - other).abs() < 1e-6
    assert 0 < same.sum() < 4
    assert torch.allclose(one[same], none[same], atol=1e-6)


def test_a_sample_that_loses_its_text_loses_its_reference_too() -> None:
    module = model(training=SubjectTraining(reference_dropout=0.0))
    one, other = (losses(module, batch(reference=picture(seed)), 1.0) for seed in (2, 3))
    assert torch.allclose(one, other, atol=1e-6)


def test_rows_that_lack_a_role_are_as_if_nobody_had_it() -> None:
    module = model(training=SubjectTraining(0.0, 0.0))
    mask = torch.from_numpy(half_mask())[None, None].repeat(4, 1, 1, 1)
    has = torch.tensor([True, False, True, False])
    mixed = reference_batch(mask=mask, source=picture(4), has_mask=has, has_source=has, has_reference=~has)
    edits, news = losses(module, batch(mask=mask, source=picture(4))), losses(module, reference_batch())
    found = losses(module, mixed)
    assert torch.allclose(found[has], edits[has], atol=1e-5)
    assert torch.allclose(found[~has], news[~has], atol=1e-5)
    assert not torch.allclose(edits, news, atol=1e-3)


def test_a_place_is_read_from_the_words_where_none_is_given_and_learned_from_those_given() -> None:
    box = torch.tensor([[0.1, 0.2, 0.4, 0.6], [0.5, 0.5, 0.9, 1.0], [0.0, 0.3, 0.2, 0.8], [torch.nan] * 4])
    module = model(training=SubjectTraining(0.0, 0.0, box_weight=1.0, subject_weight=1.0))
    given, hidden = (replace(module.subject_training, box_dropout=share) for share in (0.0, 1.0))
    optimizer = torch.optim.Adam(module.student().network.subject.parameters(), 1e-2)  # type: ignore[union-attr]
    module.subject_training = hidden
    unlearned = losses(module, reference_batch(subject_box=box))
    for _ in range(25):
        optimizer.zero_grad()
        losses(module, reference_batch(subject_box=box)).mean().backward()
        optimizer.step()
    student = module.student()
    read = student.network.subject.box_from_words(  # type: ignore[operator, union-attr]
        student.text_states.get(["a", "b", "c"], torch.device("cpu")).tokens["text"]
    )
    assert (read - box[:3]).abs().mean() < 0.06
    module.subject_training = given
    assert losses(module, reference_batch(subject_box=box)).mean() < unlearned.mean()


def test_weights_of_the_subject_change_the_gradient_and_not_the_loss() -> None:
    prediction, weights = torch.randn(2, 3, 2, 2, requires_grad=True), torch.rand(2, 1, 2, 2)
    weighed = weigh_gradient(prediction, weights)
    assert torch.equal(weighed, prediction)
    weighed.square().sum().backward()
    assert prediction.grad is not None
    assert torch.allclose(prediction.grad, 2 * prediction.detach() * weights)


# ---- what is drawn


def test_the_three_predictions_are_weighed_as_guidance_over_text_then_reference() -> None:
    both, text, neither = 5.0, 3.0, 1.0
    weights = guidance_weights(2.0, 1.5)
    assert sum(w * e for w, e in zip(weights, (both, text, neither), strict=True)) == 1 + 2.0 * (3 - 1) + 1.5 * (5 - 3)


def test_no_guidance_over_the_reference_and_no_attention_to_it_are_both_the_text_alone() -> None:
    module = model()
    with_reference = request(reference=png(picture(2)[0]))
    alone = drawn(module, request())
    assert (drawn(module, with_reference, reference_guidance_scale=0.0) - alone).abs().max() <= 1
    assert (drawn(module, with_reference, attention_scale=0.0) - alone).abs().max() <= 1
    far = [
        (drawn(module, with_reference, reference_guidance_scale=scale) - alone).abs().float().mean() for scale in (1, 3)
    ]
    assert 1 < far[0] < far[1]


def test_references_their_masks_their_number_and_their_place_all_count() -> None:
    module = model()
    first, second = png(picture(2)[0]), png(picture(3)[0])
    images = [
        drawn(module, request(reference=first)),
        drawn(module, request(reference=second)),
        drawn(module, request(reference=first, reference_2=second)),
        drawn(module, request(reference=first, reference_mask=png(half_mask()))),
        drawn(module, request(reference=first, subject_box=npy([0.5, 0.5, 1.0, 1.0]))),
        drawn(module, request(reference=first, subject_box=npy([0.0, 0.0, 0.5, 0.5]))),
    ]
    assert len({image.numpy().tobytes() for image in images}) == len(images)


def test_depth_is_read_where_there_is_some() -> None:
    module = model(changes={"depth": True})
    near, far = (png(np.full((SIDE, SIDE), shade, np.uint8)) for shade in (250, 5))
    images = [drawn(module, request(depth=near)), drawn(module, request(depth=far)), drawn(module, request())]
    assert len({image.numpy().tobytes() for image in images}) == 3


def test_an_edit_leaves_every_pixel_outside_of_its_mask_and_says_what_the_network_did_there() -> None:
    module = model()
    source = picture(5)[0]
    asked = request(reference=png(picture(2)[0]), source=png(source), mask=png(half_mask()))
    image = module.generate([asked])[0]
    assert torch.equal(image[:, :, : SIDE // 2], source[:, :, : SIDE // 2])
    assert not torch.equal(image[:, :, SIDE // 2 :], source[:, :, SIDE // 2 :])
    assert len(module.errors_outside) == 1 and min(module.errors_outside.values()) > 1
    module.generate([request()])
    assert module.errors_outside == {}


def test_the_source_is_hidden_under_the_mask_and_seen_around_it() -> None:
    module = model()
    source = picture(5)[0]
    inside, outside = source.clone(), source.clone()
    inside[:, :, SIDE // 2 :], outside[:, :, : SIDE // 2] = 0, 0
    images = [module.generate([request(source=png(s), mask=png(half_mask()))])[0] for s in (source, inside, outside)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0][:, :, SIDE // 2 :], images[2][:, :, SIDE // 2 :])


def test_an_image_does_not_depend_on_what_is_drawn_beside_it() -> None:
    module = model()
    asked = [
        request("plain"),
        request("subject", reference=png(picture(2)[0])),
        request("edit", source=png(picture(5)[0]), mask=png(half_mask())),
    ]
    together = module.generate(asked)
    for one, image in zip(asked, together, strict=True):
        assert torch.equal(module.generate([one])[0], image)


def test_losses_of_samples_with_and_without_files_are_measured_together() -> None:
    module = model()
    edit = {"source": png(picture(5)[0]), "mask": png(half_mask())}
    image = png(picture(6)[0]).content or b""
    asked = [
        LossRequest(str(number), image, "a cat", (1, 2, 3), files)
        for number, files in enumerate(({}, edit, {"reference": png(picture(2)[0])}))
    ]
    together = module.sample_losses(asked)
    alone = [module.sample_losses([one])[0] for one in asked]
    assert together == pytest.approx(alone, abs=1e-5) and len(set(together)) == 3


# ---- what is kept


class Stream(list[Any]):
    """Eight batches of subject pairs; a resume goes on behind those that were delivered."""

    delivered = 0

    def __init__(self) -> None:
        mask = torch.from_numpy(half_mask())[None, None].repeat(4, 1, 1, 1)
        box = torch.tensor([[0.1, 0.2, 0.4, 0.6]]).expand(4, 4)
        files = {"reference": picture(2), "mask": mask, "source": picture(4), "subject_box": box}
        super().__init__([batch(number, **files) for number in range(8)])

    def __iter__(self) -> Any:
        for given in self[self.delivered :]:
            self.delivered += 1
            yield given

    def state_dict(self) -> dict[str, int]:
        return {"delivered": self.delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.delivered = state["delivered"]


def trained(steps: int, folder: Path, checkpoint: Path | None = None) -> tuple[SubjectToImage, Path]:
    module = model(SubjectFamily, optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-2))
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, Stream(), ckpt_path=checkpoint)
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
    assert saved["text_to_image"]["frozen_parts"]["features"] == "raw-patches-8-4"
    assert all(name.startswith("transformer.") for name in saved["state_dict"])
    assert {name.split(".")[1] for name in saved["state_dict"]} > {"subject", "transformer_blocks", "pos_embed"}
    asked = request(reference=png(picture(2)[0]))
    loaded = model(SubjectFamily)
    loaded.configure_model()
    loaded.load_state_dict(saved["state_dict"])
    assert torch.equal(loaded.generate([asked])[0], whole.generate([asked])[0])


def test_a_checkpoint_of_other_features_is_refused(tmp_path: Path) -> None:
    module = model()
    other = SubjectToImage(Awake(pixart(), RawPatches(8, 2), width=16, layers=1, heads=2), FLOW, SIDE)
    state: dict[str, Any] = {}
    other.on_save_checkpoint(state)
    with pytest.raises(UserError, match="features 'raw-patches-8-4', but the checkpoint was trained with"):
        module.on_load_checkpoint(state)


@pytest.fixture
def one_rank() -> Iterator[Any]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,), mesh_dim_names=("data_parallel",))
    dist.destroy_process_group()


def test_a_sharded_network_reads_subjects_as_a_whole_one_does(one_rank: Any) -> None:
    whole, sharded = model(), model()
    given = reference_batch(mask=torch.from_numpy(half_mask())[None, None].repeat(4, 1, 1, 1), source=picture(4))
    expected = losses(whole, given)
    expected.mean().backward()
    network = sharded.student().network
    shard(network, sharded.family.blocks(network), one_rank, "32-true")
    found = losses(sharded, given)
    found.mean().backward()
    assert torch.equal(found, expected)
    for (name, part), other in zip(network.named_parameters(), whole.student().network.parameters(), strict=True):
        assert isinstance(part.grad, DTensor), name
        assert torch.allclose(part.grad.to_local(), other.grad, atol=1e-6), name


# ---- what is refused


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({f"reference{end}": picture(1)[0] for end in ("", "_5")}, "'reference_5' is no reference that is read"),
        ({"mask": half_mask()}, "There is a mask without a source"),
        ({"source": picture(1)[0]}, "There is a source without a mask"),
        ({"mask": np.zeros((8, 8), np.uint8), "source": picture(1)[0]}, "The mask is empty"),
        ({"mask": half_mask(4), "source": picture(1)[0]}, "The mask has 4 x 4 px, its image 8 x 8 px"),
        ({"reference": picture(1)[0], "reference_mask": half_mask(4)}, "The reference_mask has 4 x 4 px"),
        ({"reference": picture(1)[0], "reference_mask": np.zeros((8, 8), np.uint8)}, "The reference_mask is empty"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_sentence(files: dict[str, Any], said: str) -> None:
    asked = request(**{role: png(pixels) for role, pixels in files.items()})
    with pytest.raises(UserError, match=said):
        model().generate([asked])


def test_a_box_off_the_canvas_and_a_reference_without_its_mask_are_refused() -> None:
    reference = png(picture(1)[0])
    with pytest.raises(UserError, match=r"The subject_box is \[0.5, 0.0, 0.25, 1.0\]"):
        model().generate([request(reference=reference, subject_box=npy([0.5, 0.0, 0.25, 1.0]))])
    with pytest.raises(UserError, match="The reference has no reference_mask, and cut_out is true"):
        model(changes={"cut_out": True}).generate([request(reference=reference)])


def test_features_of_another_dimension_and_settings_out_of_range_are_refused() -> None:
    class Odd(RawPatches):
        dimension = 5

    with pytest.raises(UserError, match="gives features of dimension 48, but says 5"):
        losses(SubjectToImage(SubjectFamily(pixart(), Odd(8, 4), heads=2), FLOW, SIDE), reference_batch())
    with pytest.raises(UserError, match=r"reference_dropout is 1\.0"):
        model(training=SubjectTraining(reference_dropout=1.0))
    for numbers in ({"width": 15}, {"grid": 0}, {"layers": -1}, {"gain": 0.0}):
        with pytest.raises(UserError, match="Allowed: a width that is a multiple of the heads"):
            family(**numbers)


def test_a_network_without_attention_to_text_is_refused() -> None:
    class NoAttention(PixArt):
        def build(self) -> torch.nn.Module:
            return torch.nn.Linear(1, 1)

    with pytest.raises(UserError, match="hands nothing but text to its attentions"):
        SubjectFamily(NoAttention(RandomTextEncoder(16), SIDE, patch_size=4), RawPatches(8, 4)).build()


# ---- other families


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_an_inpainting_unet_keeps_its_nine_channels_and_learns_to_read_a_subject(tmp_path: Path) -> None:
    from evolvedirector.lightning_modules import Autoencoder, CLIPEncoder, StableDiffusion
    from tests.lightning_modules.families.tiny_sd import SD_NUMBERS, save_stable_diffusion

    name = str(save_stable_diffusion(tmp_path, inpainting=True))
    clip = CLIPEncoder(name, None, 32, None, "float32", "text_encoder", "tokenizer", "last", projected=False)
    start = {"pretrained": name, "pretrained_subfolder": "unet", "inpainting": True}
    unet = StableDiffusion(clip, Autoencoder(name, downscaling=2, subfolder="vae"), **(SD_NUMBERS | start))
    subject = SubjectFamily(unet, RawPatches(8, 4), width=16, layers=1, heads=2, depth=True)
    module = SubjectToImage(subject, DDPM(), 32, sampling_steps=2, generation_chunk_size=1)
    network = module.student().network
    assert network.conv_in.in_channels == 9  # type: ignore[union-attr]
    mask = torch.from_numpy(half_mask(32))[None, None].repeat(4, 1, 1, 1)
    given = batch(reference=picture(2), mask=mask, source=picture(3, side=32), depth=picture(4, side=32))
    given["image"] = picture(1, side=32)
    optimizer = torch.optim.SGD(network.parameters(), 1e-2)
    found = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = losses(module, given).mean()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[2] < found[0]
    files = {"reference": png(picture(2)[0]), "source": png(picture(3, side=32)[0]), "mask": png(half_mask(32))}
    asked = ImageRequest("one", "a", 1, 32, 32, files=files)
    image = module.generate([asked])[0]
    assert torch.equal(image[:, :, :16], picture(3, side=32)[0][:, :, :16])
