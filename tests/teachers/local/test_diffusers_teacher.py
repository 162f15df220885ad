"""Pipelines of diffusers as teachers: tiny real ones of six families, a stand-in where only the handling matters."""

from __future__ import annotations

import gc
import io
import json
import logging
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import evolvedirector.teachers.local.diffusers_teacher as module
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.teachers.local.diffusers_teacher import DiffusersTeacher
from evolvedirector.teachers.local.pipeline_call import draw_size_px
from evolvedirector.teachers.local.pipeline_files import estimate_bytes
from tests.teachers.tiny_pipelines import FAMILIES, save_tiny

PROMPTS = ("a red circle", "a blue square", "two green star", "left of a star", "red")
CHEAP = "pixart"
EXTRA: dict[str, dict[str, Any]] = {
    "pixart": {"use_resolution_binning": False, "clean_caption": False},
    "sana": {"use_resolution_binning": False, "clean_caption": False, "complex_human_instruction": None},
}


def requests(count: int = 3, width_px: int = 32, height_px: int = 32) -> list[ImageRequest]:
    return [ImageRequest(f"r{i}", PROMPTS[i % len(PROMPTS)], i, width_px, height_px) for i in range(count)]


def pixels(reply: ImageReply) -> np.ndarray:
    assert reply.image is not None, reply.reason
    return np.asarray(Image.open(io.BytesIO(reply.image))).astype(int)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a family, built at its first use."""
    root, built = tmp_path_factory.mktemp("pipelines"), {}

    def folder(family: str) -> Path:
        if family not in built:
            built[family] = save_tiny(family, root)
        return built[family]

    return folder


def teacher_of(family: str, folder: Path, **options: Any) -> DiffusersTeacher:
    settings = {"dtype": "float32", "num_inference_steps": 2, "device": "cpu", "extra": EXTRA.get(family)}
    return DiffusersTeacher(str(folder), **{**settings, **options})


# --- real pipelines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", [family if family == CHEAP else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]
)
def test_a_family_draws_the_same_image_whatever_its_neighbours(family: str, tiny: Callable[[str], Path]) -> None:
    teacher = teacher_of(family, tiny(family), batch_size=2)
    teacher.verify()
    replies = {reply.request_id: reply for reply in teacher.generate(requests(3))}
    assert [pixels(replies[f"r{i}"]).shape for i in range(3)] == [(32, 32, 3)] * 3
    assert not np.array_equal(pixels(replies["r0"]), pixels(replies["r1"]))
    (alone,) = teacher.generate(requests(3)[1:2])
    # the order of additions in a batch may differ in the last bit, and a rounded pixel by one step
    assert np.abs(pixels(alone) - pixels(replies["r1"])).max() <= 1
    teacher.close()


def test_weights_are_freed_and_loaded_again(tiny: Callable[[str], Path]) -> None:
    teacher = teacher_of(CHEAP, tiny(CHEAP))
    (before,) = teacher.generate(requests(1))
    parts = [weakref.ref(teacher._pipeline.transformer), weakref.ref(teacher._pipeline.text_encoder)]
    assert all(part() is not None for part in parts)
    teacher.close()
    teacher.close()
    gc.collect()
    assert all(part() is None for part in parts)
    (after,) = teacher.generate(requests(1))
    assert after.image == before.image
    teacher.close()


@pytest.mark.slow
def test_drawing_leaves_the_global_generator_alone(tiny: Callable[[str], Path]) -> None:
    before = torch.get_rng_state()
    teacher = teacher_of(CHEAP, tiny(CHEAP))
    assert all(reply.status == "image" for reply in teacher.generate(requests(1, 30, 20)))
    assert torch.equal(torch.get_rng_state(), before)
    teacher.close()


@pytest.mark.slow
def test_only_the_teachers_own_bars_are_hidden(tiny: Callable[[str], Path], capfd: pytest.CaptureFixture[str]) -> None:
    from diffusers.utils import logging as diffusers_logging

    shown = diffusers_logging.is_progress_bar_enabled()
    teacher = teacher_of(CHEAP, tiny(CHEAP))
    assert next(iter(teacher.generate(requests(1)))).status == "image"
    assert "it/s" not in capfd.readouterr().err
    assert diffusers_logging.is_progress_bar_enabled() == shown
    teacher.close()


@pytest.mark.slow
def test_the_estimate_is_the_size_of_the_weights(tiny: Callable[[str], Path]) -> None:
    teacher = teacher_of(CHEAP, tiny(CHEAP))
    estimated = teacher.estimated_bytes()
    list(teacher.generate(requests(1)))
    parts = {name: part for name, part in teacher._pipeline.components.items() if isinstance(part, torch.nn.Module)}
    held = {name: sum(t.numel() * 4 for t in part.state_dict().values()) for name, part in parts.items()}
    # tied weights are saved once and listed twice
    assert estimated == pytest.approx(sum(held.values()), rel=0.02)
    folder = tiny(CHEAP)
    assert estimate_bytes(folder, "bfloat16") == estimated / 2
    assert estimate_bytes(folder, "float32", offload="model") == pytest.approx(max(held.values()), rel=0.02)
    assert estimate_bytes(folder, "float32", offload="sequential") < estimate_bytes(folder, "float32", offload="model")
    by_bits = [estimate_bytes(folder, "bfloat16", kind) for kind in (None, "int8", "nf4")]  # type: ignore[arg-type]
    assert by_bits == sorted(by_bits, reverse=True) and by_bits[2] > 0
    teacher.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"extra": {"num_steps": 3}}, "num_steps is set, but PixArtSigmaPipeline does not accept it. Allowed are"),
        ({"extra": {"prompt": "x"}}, "extra sets 'prompt', which is the request's prompt"),
        ({"quantisation": "nf4"}, "quantisation is nf4 and offload is 'none', but the device is the CPU"),
        ({"offload": "model"}, "offload is 'model', but the device is the CPU"),
        ({"device": "cuda:99"}, "device is 'cuda:99', which is not on this machine"),
    ],
)
def test_options_that_cannot_be_met_are_refused_by_name(
    tiny: Callable[[str], Path], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        teacher_of(CHEAP, tiny(CHEAP), **options).verify()


@pytest.mark.slow
def test_a_negative_prompt_on_flux_needs_true_guidance(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="no effect on FluxPipeline.*true_cfg_scale: 3.5"):  # noqa: RUF043
        teacher_of("flux", tiny("flux"), negative_prompt="blue").verify()
    plain = teacher_of("flux", tiny("flux"))
    guided = teacher_of("flux", tiny("flux"), negative_prompt="blue square", extra={"true_cfg_scale": 4.0})
    images = [pixels(reply) for teacher in (plain, guided) for reply in teacher.generate(requests(2)[:1])]
    assert not np.array_equal(*images)


@pytest.mark.slow
def test_the_safety_checkers_flag_is_a_refusal(tiny: Callable[[str], Path]) -> None:
    teacher = teacher_of("stable_diffusion", tiny("stable_diffusion"))
    pipeline = teacher._load()
    pipeline.feature_extractor = lambda images, return_tensors: SimpleNamespace(
        to=lambda device: SimpleNamespace(pixel_values=torch.zeros(len(images), 3, 8, 8))
    )
    pipeline.safety_checker = lambda images, clip_input: (images, [index == 1 for index in range(len(images))])
    assert [reply.status for reply in teacher.generate(requests(3))] == ["image", "refusal", "image"]


@pytest.mark.slow
def test_pickled_weights_are_not_loaded(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny(CHEAP), tmp_path / "copy")
    weights = next((folder / "transformer").glob("*.safetensors"))
    torch.save(load_file(weights), folder / "transformer" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ValueError, match=r"'transformer' .* only diffusion_pytorch_model.bin, a pickle"):
        list(teacher_of(CHEAP, folder).generate(requests(1)))


@pytest.mark.slow
def test_damaged_weights_are_one_clear_error(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny(CHEAP), tmp_path / "copy")
    weights = next((folder / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be loaded: .* Download or copy it again"):  # noqa: RUF043
        list(teacher_of(CHEAP, folder).generate(requests(1)))


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"offload": "model"}, {"offload": "sequential"}, {"quantisation": "nf4"}])
def test_device_memory_is_given_back(tiny: Callable[[str], Path], options: dict[str, Any]) -> None:
    before = torch.cuda.memory_allocated()
    teacher = teacher_of(CHEAP, tiny(CHEAP), device="cuda:0", dtype="bfloat16", **options)
    assert all(reply.status == "image" for reply in teacher.generate(requests(3)))
    assert torch.cuda.memory_allocated() > before or options.get("offload")
    teacher.close()
    assert torch.cuda.memory_allocated() <= before + 2**20
    assert teacher.peak_memory_bytes is not None and teacher.peak_memory_bytes > 0


# --- a stand-in for the pipeline --------------------------------------------------------------------------------------


class FakePipeline:
    """Draws one colour per seed; `fail` sees each call before."""

    vae_scale_factor = 8
    transformer = SimpleNamespace(config={"patch_size": 2})
    image_processor = SimpleNamespace(config={"vae_scale_factor": 8})

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.fail: Callable[[int], Any] = lambda count: None
        self.flags: list[bool] | None = None
        self.tones: Callable[[int], int] = lambda seed: 10 + seed

    def __call__(
        self,
        prompt: list[str],
        generator: list[torch.Generator],
        width: int,
        height: int,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: list[str] | None = None,
    ) -> Any:
        self.calls.append({**locals(), "generator": [one.initial_seed() for one in generator]})
        self.fail(len(prompt))
        images = [Image.new("RGB", (width, height), (self.tones(one.initial_seed()),) * 3) for one in generator]
        return SimpleNamespace(images=images, nsfw_content_detected=self.flags)

    def remove_all_hooks(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakePipeline:
    """Stand in for whatever is loaded from the folder `tmp_path`."""
    pipeline = FakePipeline()
    (tmp_path / "model_index.json").write_text('{"_class_name": "FakePipeline"}', encoding="utf-8")
    monkeypatch.setattr(module, "pipeline_class", lambda index: FakePipeline)
    monkeypatch.setattr(module, "load_pipeline", lambda *args, **options: pipeline)
    return pipeline


def test_requests_of_one_size_are_drawn_together_with_their_own_seeds(fake: FakePipeline, tmp_path: Path) -> None:
    teacher = DiffusersTeacher(str(tmp_path), batch_size=3, num_inference_steps=2, negative_prompt="blur")
    mixed = [*requests(4), *requests(1, 48, 16)]
    replies = list(teacher.generate(mixed))
    assert len(replies) == 5 and {reply.status for reply in replies} == {"image"}
    assert [(call["generator"], call["width"], call["height"]) for call in fake.calls] == [
        ([0, 1, 2], 32, 32),
        ([3], 32, 32),
        ([0], 48, 16),
    ]
    assert fake.calls[0]["negative_prompt"] == ["blur"] * 3 and fake.calls[0]["prompt"] == list(PROMPTS[:3])
    assert fake.calls[0]["num_inference_steps"] == 2 and fake.calls[0]["guidance_scale"] == 7.5


def test_odd_sizes_are_drawn_larger_and_scaled_back(fake: FakePipeline, tmp_path: Path) -> None:
    (reply,) = DiffusersTeacher(str(tmp_path), min_side_px=64).generate(requests(1, 30, 45))
    assert pixels(reply).shape == (45, 30, 3)
    assert (fake.calls[0]["width"], fake.calls[0]["height"]) == (64, 96)


@pytest.mark.parametrize(
    ("asked", "limits", "drawn"),
    [
        ((512, 512), (16, 1, 2048), (512, 512)),
        ((500, 513), (16, 1, 2048), (512, 528)),
        ((256, 512), (64, 1024, 2048), (1024, 2048)),
        ((4096, 1024), (16, 1, 2048), (2048, 512)),
        ((100, 4000), (16, 512, 1024), (32, 1024)),
        ((1, 1), (32, 1, 2048), (32, 32)),
        ((100, 100), (16, 1, 100), (96, 96)),
    ],
)
def test_drawn_sizes(asked: tuple[int, int], limits: tuple[int, int, int], drawn: tuple[int, int]) -> None:
    assert draw_size_px(*asked, *limits) == drawn


def test_a_batch_that_fails_gives_failures_and_the_next_goes_on(fake: FakePipeline, tmp_path: Path) -> None:
    def fail(count: int) -> None:
        if len(fake.calls) == 1:
            raise KeyError("odd")

    fake.fail = fail
    replies = list(DiffusersTeacher(str(tmp_path), batch_size=2).generate(requests(3)))
    assert [reply.status for reply in replies] == ["failure", "failure", "image"]
    assert "KeyError" in replies[0].reason


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError(), RuntimeError("not enough memory")]
)
def test_without_memory_the_batch_is_halved_for_good(
    fake: FakePipeline, tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(count: int) -> None:
        if count > 2:
            raise error

    fake.fail = fail
    teacher = DiffusersTeacher(str(tmp_path), batch_size=8)
    with caplog.at_level(logging.WARNING):
        replies = list(teacher.generate(requests(5)))
    assert [reply.request_id for reply in replies] == ["r0", "r1", "r2", "r3", "r4"]
    assert {reply.status for reply in replies} == {"image"}
    assert [len(call["prompt"]) for call in fake.calls] == [5, 2, 2, 1]
    assert "write a smaller batch_size" in caplog.text


def test_without_memory_for_one_image_it_says_what_to_write(fake: FakePipeline, tmp_path: Path) -> None:
    def fail(count: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    fake.fail = fail
    (reply,) = DiffusersTeacher(str(tmp_path)).generate(requests(1))
    assert reply.status == "failure" and "quantisation: nf4" in reply.reason


def test_flagged_images_are_refusals_and_black_ones_failures(fake: FakePipeline, tmp_path: Path) -> None:
    fake.flags, fake.tones = [True, False, False], lambda seed: seed % 2
    replies = list(DiffusersTeacher(str(tmp_path), dtype="float16").generate(requests(3)))
    assert [reply.status for reply in replies] == ["refusal", "image", "failure"]
    assert "float16 overflows" in replies[2].reason


def test_it_loads_once_per_phase_and_only_when_asked(
    fake: FakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []
    monkeypatch.setattr(module, "load_pipeline", lambda *args, **options: loads.append(1) or fake)
    teacher = DiffusersTeacher(str(tmp_path))
    assert teacher.fingerprint and list(teacher.generate([])) == [] and teacher.estimated_bytes() == 0
    teacher.close()
    assert not loads
    for _ in range(2):
        list(teacher.generate(requests(1)))
    assert len(loads) == 1
    teacher.close()
    list(teacher.generate(requests(1)))
    assert len(loads) == 2


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a pipeline with one part of 3 MB, which nobody loads."""
    files = tmp_path / "model"
    (files / "transformer").mkdir(parents=True)
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"], "vae": [None, None]}
    (files / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    (files / "transformer" / "config.json").write_text("{}", encoding="utf-8")
    save_file({"layer.weight": torch.zeros(1024, 750)}, files / "transformer" / "model.safetensors")
    return files


def test_the_name_follows_from_the_content_and_the_parameters(folder: Path) -> None:
    def name(**options: Any) -> str:
        return DiffusersTeacher(str(folder), **options).fingerprint

    plain = name()
    assert name(device="cpu", batch_size=1, offload="model") == plain  # where and how many do not change an image
    changed = [{"dtype": "float32"}, {"quantisation": "nf4"}, {"num_inference_steps": 3}, {"guidance_scale": 1.0}]
    changed += [{"negative_prompt": "x"}, {"extra": {"sigma": 1}}, {"variant": "fp16"}, {"min_side_px": 9}]
    names = [name(**options) for options in changed]
    assert len({plain, *names}) == len(names) + 1
    copy = shutil.copytree(folder, folder.parent / "elsewhere" / folder.name)
    assert DiffusersTeacher(str(copy)).fingerprint == plain
    save_file({"layer.weight": torch.ones(1024, 750)}, folder / "transformer" / "model.safetensors")
    assert name() != plain  # a fine-tune: other numbers in files of the same size


def test_variants_and_parts_are_counted_once(folder: Path) -> None:
    part = folder / "transformer"
    assert estimate_bytes(folder, "float32") == 1024 * 750 * 4
    assert estimate_bytes(folder, "bfloat16", "nf4") == 1024 * 750 * 0.5625
    save_file({"layer.weight": torch.zeros(8, 8)}, part / "model.fp16.safetensors")
    assert estimate_bytes(folder, "float32") == 1024 * 750 * 4
    assert estimate_bytes(folder, "float32", variant="fp16") == 8 * 8 * 4
    (part / "model.safetensors").unlink()
    for number in (1, 2):
        save_file({f"{number}.weight": torch.zeros(8, 8)}, part / f"model-0000{number}-of-00002.safetensors")
    assert estimate_bytes(folder, "float32") == 2 * 8 * 8 * 4
    (part / "model-00001-of-00002.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match=r"is no safetensors file: .* Allowed are 2 to .* Download or copy it again"):
        estimate_bytes(folder, "float32")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        ("[]", "holds a JSON list. Allowed is a JSON object"),
        ("{", "cannot be read"),
        ('{"_class_name": ["own_code", "Mine"]}', "code that comes with a model is never run"),
    ],
)
def test_a_folder_that_is_no_pipeline_is_told(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "model_index.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=says):
        DiffusersTeacher(str(tmp_path)).verify()


def test_a_path_to_nothing_is_told(tmp_path: Path) -> None:
    for name in (str(tmp_path / "missing"), "./missing", "a/b/c", "missing"):
        with pytest.raises(ValueError, match="there is no such folder"):
            DiffusersTeacher(name).verify()


def test_a_model_of_the_hub_is_named_by_its_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi, constants

    commit, cache = "0123456789abcdef" * 2 + "01234567", tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    offline: Any = lambda *args, **options: (_ for _ in ()).throw(ConnectionError("no network"))  # noqa: E731
    monkeypatch.setattr(HfApi, "model_info", offline)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    absent = DiffusersTeacher("owner/model")
    assert absent.estimated_bytes() is None
    with pytest.raises(ValueError, match=r"'owner/model' is not on this machine.*Check its name and the network"):
        absent.verify()
    repository = cache / "models--owner--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    shutil.copytree(folder / "transformer", repository / "snapshots" / commit / "transformer")
    shutil.copy(folder / "model_index.json", repository / "snapshots" / commit)
    present = DiffusersTeacher("owner/model")
    assert present._source.commit == commit and present.estimated_bytes() == 1024 * 750 * 2
    assert present.fingerprint == DiffusersTeacher("owner/model", revision=commit).fingerprint != absent.fingerprint


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dtype": "float64"}, "dtype is 'float64'"),
        ({"offload": "disk"}, "offload is 'disk'"),
        ({"quantisation": "int4"}, "quantisation is 'int4'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_inference_steps": 0}, "num_inference_steps 0"),
        ({"min_side_px": 4096}, "min_side_px is 4096"),
        ({"extra": {"sizes": [{"a": object()}]}}, "extra.sizes.a is a object"),
    ],
)
def test_arguments_outside_of_what_is_allowed_are_told(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DiffusersTeacher("owner/model", **options)
