"""A LoRA in every layout: its file, loaded as its card says, draws in stock diffusers what the student draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from evolvedirector.commands.export import check_form
from evolvedirector.commands.exported_files import LORA_FILE, write_lora, write_whole
from evolvedirector.errors import UserError
from evolvedirector.experts import LoRA, Trained
from evolvedirector.experts.lora import is_adapter
from evolvedirector.lightning_modules import TextToImage
from evolvedirector.lightning_modules.adapter_files import adapter_tensors, fused_network, lora_file
from evolvedirector.lightning_modules.families import Layout
from evolvedirector.lightning_modules.objectives.resolution_flow import at_resolution
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Size
from tests.lightning_modules.families import (
    test_flux1,
    test_flux2,
    test_pixart_published,
    test_qwen_image,
    test_sana,
    test_sd3,
    test_sdxl,
    test_stable_diffusion,
    test_z_image,
    tiny_flux1,
    tiny_flux2,
)
from tests.lightning_modules.families.clean_process import levels_apart
from tests.lightning_modules.families.tiny_qwen_image import save_qwen_image
from tests.lightning_modules.families.tiny_sana import save_sana
from tests.lightning_modules.families.tiny_sd import save_sdxl, save_stable_diffusion
from tests.lightning_modules.families.tiny_z_image import save_z_image

PROMPT = "a red circle left of a blue star"
SIZE = Size(32, 64)
ROUNDING = 0.5  # levels of 255: sums in another order
GUIDED: dict[str, Any] = {"guidance_scale": 4.5}
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@dataclass(frozen=True)
class Case:
    """A student of a family around a tiny pipeline, and how a stock pipeline is asked for the same image."""

    student: Callable[[Path], TextToImage]
    call: dict[str, Any] = field(default_factory=lambda: GUIDED)
    targets: tuple[str, ...] | None = None


def of_flux1(folder: Path) -> TextToImage:
    return test_flux1.student(tiny_flux1.family(tiny_flux1.save(folder)), test_flux1.BY_SIZE)


def of_flux2(folder: Path) -> TextToImage:
    return test_flux2.student(tiny_flux2.family(tiny_flux2.save(folder)))


def of_stable_diffusion_2(folder: Path) -> TextToImage:
    saved = save_stable_diffusion(folder, linear_projection=True)
    return test_stable_diffusion.student(saved, linear_projection=True)


# at this width the reader of diffusers does not split `linear1` of single blocks (tests of the family)
DOUBLE = [f"transformer_blocks.{n}.attn.{part}" for n in (0, 1) for part in ("to_q", "to_v", "to_out.0", "add_k_proj")]
CASES = {
    "sd1": Case(lambda folder: test_stable_diffusion.student(save_stable_diffusion(folder))),
    "sd2": Case(of_stable_diffusion_2),
    "sdxl": Case(lambda folder: test_sdxl.student(save_sdxl(folder))),
    "flux1": Case(
        of_flux1,
        {"guidance_scale": 3.5, "max_sequence_length": tiny_flux1.T5_LENGTH},
        (*DOUBLE, "single_transformer_blocks.0.proj_out"),
    ),
    "flux2": Case(
        of_flux2,
        {
            "guidance_scale": 3.5,
            "max_sequence_length": tiny_flux2.TEXT_LENGTH,
            "text_encoder_out_layers": tiny_flux2.LAYERS,
        },
    ),
    "qwen_image": Case(
        lambda folder: test_qwen_image.student(save_qwen_image(folder, [PROMPT])),
        {"negative_prompt": " ", "true_cfg_scale": 4.0},
    ),
    "z_image": Case(
        lambda folder: test_z_image.student(save_z_image(folder, [PROMPT])),
        {"guidance_scale": 4.0, "max_sequence_length": 40},
    ),
}
SLOW = [pytest.param(name, marks=[] if name == "z_image" else pytest.mark.slow) for name in CASES]


@pytest.fixture(autouse=True)
def one_text_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As stock pipelines do: in a chunk of 16 a pooled vector differs by 2e-7."""
    monkeypatch.setattr("evolvedirector.lightning_modules.text_cache.ENCODE_CHUNK", 1)


def trained(module: TextToImage, **lora: Any) -> TextToImage:
    """Give a student a LoRA with random weights, loud enough to change an image."""
    module.trained, module.transformer = Trained(LoRA(4, alpha=2.0, **lora)), None
    module.configure_model()
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, part in module.named_parameters():
            if is_adapter(name):
                part.add_(torch.randn(part.shape, generator=draws) * 0.3)
    return module


def ours(module: TextToImage, size: Size = SIZE) -> torch.Tensor:
    return module.generate([ImageRequest("r", PROMPT, 7, size.width_px, size.height_px)])[0]


def exported(module: TextToImage, layout: Layout, folder: Path) -> str:
    """Write the LoRA as `export` does; returns the Python of its card."""
    check_form(module, layout, merged=False)
    folder.mkdir()
    assert module.transformer is not None and module.trained.lora is not None
    tensors = adapter_tensors(module.transformer)
    named = lora_file(module.transformer, module.family, module.trained.lora, tensors, layout)
    return write_lora(module, module.trained.lora, named, layout, torch.float32, folder)


def loaded(usage: str, folder: Path, module: TextToImage, size: Size = SIZE) -> Any:
    """Do what the card says, but for its last line; samples as the student does."""
    lines = usage.replace("this folder", str(folder)).splitlines()
    assert lines[-1].startswith("image = pipeline(")
    names: dict[str, Any] = {}
    exec("\n".join(lines[:-1]), names)
    pipeline = names["pipeline"]
    pipeline.scheduler = at_resolution(module.objective, module.family.tokens(size)).scheduler(4)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline: Any, call: dict[str, Any], size: Size = SIZE) -> Any:
    call = call | {"num_inference_steps": 4, "height": size.height_px, "width": size.width_px}
    return pipeline(prompt=PROMPT, **call, generator=torch.Generator().manual_seed(7), output_type="np").images[0]


@pytest.mark.parametrize("name", SLOW)
def test_a_lora_in_each_layout_draws_the_students_image_in_stock_diffusers(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    plain = case.student(tmp_path / "base")
    base = ours(plain)
    module = trained(plain, targets=case.targets)
    image = ours(module)
    assert (image.int() - base.int()).abs().max() > 5, "the LoRA changes nothing"
    for layout in get_args(Layout):
        folder = tmp_path / layout
        pipeline = loaded(exported(module, layout, folder), folder, module)
        assert (folder / LORA_FILE).is_file()
        drawn = theirs(pipeline, case.call)
        assert levels_apart(image, drawn) < ROUNDING and levels_apart(base, drawn) > 4, layout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd3", "sana", "pixart", "dora"])
def test_what_has_the_layout_of_diffusers_alone(name: str, tmp_path: Path) -> None:
    """Other layouts are refused in a sentence. Diffusers loads no LoRA into PixArt: peft does, as the card says."""
    size, call, lora = SIZE, GUIDED, {}
    if name == "sd3":
        plain, call = test_sd3.student(test_sd3.save(tmp_path / "base")), call | {"max_sequence_length": 12}
    elif name == "sana":
        plain, size = test_sana.student(save_sana(tmp_path / "base")), Size(32, 96)
        call = {key: value for key, value in test_sana.CALL.items() if key != "num_inference_steps"}
    elif name == "dora":
        plain, lora = CASES["z_image"].student(tmp_path / "base"), {"dora": True}
        call = CASES["z_image"].call
    else:
        plain = of_pixart(tmp_path / "base")
        call = call | {"clean_caption": False, "use_resolution_binning": False}
        call["max_sequence_length"] = test_pixart_published.TOKENS
    base = ours(plain, size)
    module = trained(plain, **lora)
    folder = tmp_path / "export"
    usage = exported(module, "diffusers", folder)
    assert ("merge_and_unload" in usage) == (name == "pixart")
    drawn = theirs(loaded(usage, folder, module, size), call, size)
    assert levels_apart(ours(module, size), drawn) < ROUNDING and levels_apart(base, drawn) > 4
    for layout in ("comfyui", "kohya"):
        with pytest.raises(UserError, match="DoRA" if name == "dora" else f"no published {layout} names"):
            check_form(module, layout, merged=False)  # type: ignore[arg-type]


def of_pixart(folder: Path) -> TextToImage:
    """PixArt-sigma, which reads no sizes."""
    torch.manual_seed(0)
    network = test_pixart_published.PixArtTransformer2DModel(
        **{"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "cross_attention_dim": 24},
        **{"sample_size": 128, "caption_channels": 32, "use_additional_conditions": False},
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    parts = (test_pixart_published.tokenizer(), test_pixart_published.t5_text(), test_pixart_published.kl_autoencoder())
    scheduler = test_pixart_published.DPMSolverMultistepScheduler()
    test_pixart_published.PixArtSigmaPipeline(*parts, network, scheduler).save_pretrained(folder)
    module = test_pixart_published.student(lambda _: folder, "sigma")
    module.sampling_steps = 4
    return module


@pytest.mark.slow
@pytest.mark.parametrize("dora", [False, True])
def test_a_merged_pipeline_draws_the_students_image(dora: bool, tmp_path: Path) -> None:
    case = CASES["z_image"]
    module = trained(case.student(tmp_path / "base"), dora=dora)
    assert module.transformer is not None and module.trained.lora is not None
    tensors = adapter_tensors(module.transformer)
    fused = fused_network(module.transformer, module.family, module.seed, module.trained.lora, tensors)
    usage = write_whole(module, fused, None, tmp_path / "merged")  # type: ignore[arg-type]
    drawn = theirs(loaded(usage, tmp_path / "merged", module), case.call)
    assert levels_apart(ours(module), drawn) < ROUNDING
