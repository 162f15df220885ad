"""Each family trains two steps, draws and saves; a process that knows diffusers alone draws the same image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch.utils.data import DataLoader

from evolvedirector.lightning_modules import FlowMatching, ResolutionFlowMatching, TextToImage
from evolvedirector.lightning_modules.objectives.resolution_flow import at_resolution
from evolvedirector.records import FileRef, ImageRequest
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
from tests.lightning_modules.families.clean_process import (
    FLOAT_NOISE,
    CleanProcess,
    StockDraw,
    clone_weights,
    levels_apart,
)
from tests.lightning_modules.families.tiny_qwen_image import save_qwen_image
from tests.lightning_modules.families.tiny_sana import save_sana
from tests.lightning_modules.families.tiny_sd import save_sdxl, save_stable_diffusion
from tests.lightning_modules.families.tiny_z_image import save_z_image

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
PROMPT = "a red circle left of a blue star"
NUMBERS = {"num_inference_steps": 4, "guidance_scale": 4.5}
FLUX1 = {"num_inference_steps": 4, "guidance_scale": 3.5, "max_sequence_length": tiny_flux1.T5_LENGTH}
FLUX2 = {
    **{"num_inference_steps": 4, "guidance_scale": 3.5, "max_sequence_length": tiny_flux2.TEXT_LENGTH},
    "text_encoder_out_layers": tiny_flux2.LAYERS,
}
BY_SIZE = ResolutionFlowMatching(base_tokens=16, max_tokens=128, equal_steps=True)
EDGEN = "evolvedirector.lightning_modules.families.edgen"


class Case(NamedTuple):
    """A student on a pipeline of its own, and how the stock pipeline of the same name is called."""

    family: str
    student: Callable[[Path], TextToImage]
    pipeline: str
    call: dict[str, Any]
    size: Size = Size(24, 40)


def pixart(name: str, folder: Path) -> TextToImage:
    return test_pixart_published.student(lambda _: test_pixart_published.save(folder, name), name)


def stable_diffusion(folder: Path, objective: Any = test_stable_diffusion.EPSILON, **changes: Any) -> TextToImage:
    return test_stable_diffusion.student(save_stable_diffusion(folder, **changes), objective, **changes)


def sdxl(folder: Path) -> TextToImage:
    return test_sdxl.student(save_sdxl(folder), test_sdxl.DDPM("velocity"))


def flux1(folder: Path, objective: Any, **changes: Any) -> TextToImage:
    return test_flux1.student(tiny_flux1.family(tiny_flux1.save(folder, **changes), **changes), objective)


def flux2(folder: Path, **changes: Any) -> TextToImage:
    return test_flux2.student(tiny_flux2.family(tiny_flux2.save(folder, **changes), **changes))


PIXART = {**test_pixart_published.call(Size(24, 40)), "num_inference_steps": 3}
CASES = {
    "sd1": Case("stable_diffusion", stable_diffusion, "StableDiffusionPipeline", NUMBERS),
    "sd2": Case(
        "stable_diffusion",
        partial(stable_diffusion, objective=test_stable_diffusion.VELOCITY, linear_projection=True),
        *("StableDiffusionPipeline", NUMBERS),
    ),
    "inpainting": Case(
        "stable_diffusion", partial(stable_diffusion, inpainting=True), "StableDiffusionInpaintPipeline", NUMBERS
    ),
    "sdxl": Case("sdxl", sdxl, "StableDiffusionXLPipeline", NUMBERS),
    "alpha": Case("pixart", partial(pixart, "alpha"), "PixArtAlphaPipeline", PIXART),
    "sigma": Case("pixart", partial(pixart, "sigma"), "PixArtSigmaPipeline", PIXART),
    "edgen": Case("pixart", partial(pixart, "edgen"), "PixArtAlphaPipeline", PIXART),
    "sd3": Case(
        "sd3",
        lambda folder: test_sd3.student(test_sd3.save(folder)),
        *("StableDiffusion3Pipeline", NUMBERS | {"max_sequence_length": 12}),
    ),
    "dev": Case("flux1", partial(flux1, objective=BY_SIZE), "FluxPipeline", FLUX1),
    "schnell": Case(
        "flux1",
        partial(flux1, objective=FlowMatching(equal_steps=True), guidance_embeds=False),
        *("FluxPipeline", FLUX1),
    ),
    "klein base": Case("flux2", flux2, "Flux2KleinPipeline", FLUX2),
    "klein distilled": Case("flux2", partial(flux2, distilled=True), "Flux2KleinPipeline", FLUX2),
    "qwen_image": Case(
        "qwen_image",
        lambda folder: test_qwen_image.student(save_qwen_image(folder, [PROMPT])),
        *("QwenImagePipeline", test_qwen_image.CALL, Size(16, 48)),
    ),
    "z_image": Case(
        "z_image",
        lambda folder: test_z_image.student(save_z_image(folder, [PROMPT])),
        *("ZImagePipeline", test_z_image.CALL),
    ),
    "sana": Case(
        "sana",
        lambda folder: test_sana.student(save_sana(folder)),
        *("SanaPipeline", test_sana.CALL, Size(32, 96)),
    ),
}


@pytest.fixture(autouse=True)
def one_text_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the stock pipelines do: in a chunk of 16 a projected vector differs by 2e-7, one pixel by 1 of 255."""
    monkeypatch.setattr("evolvedirector.lightning_modules.text_cache.ENCODE_CHUNK", 1)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CleanProcess]:
    """One process for all families of a run."""
    process = CleanProcess(tmp_path_factory.mktemp("clean"))
    yield process
    process.close()


def train_two_steps(module: TextToImage, size: Size) -> None:
    """Train as a run does; the network of an inpainting pipeline reads mask and source, too."""
    shape = (2, 3, *size)
    batches = [
        {
            "image": torch.randint(256, shape, generator=torch.Generator().manual_seed(step), dtype=torch.uint8),
            "prompt": [PROMPT, "two stars"],
            "sample_seed": torch.tensor([2 * step, 2 * step + 1]),
        }
        for step in range(2)
    ]
    for batch in batches if module.family.roles else []:
        batch["source"] = batch["image"]
        batch["mask"] = torch.full((2, 1, *size), 255, dtype=torch.uint8)
    trainer = Trainer(
        **{"accelerator": "cpu", "max_steps": 2, "logger": False, "enable_checkpointing": False},
        **{"enable_progress_bar": False, "enable_model_summary": False},
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert trainer.global_step == 2


def inputs(folder: Path, size: Size) -> tuple[dict[str, FileRef], dict[str, str]]:
    """Write a mask and a source; return them as files of a request, and as pictures of a stock pipeline's call."""
    mask, source = test_stable_diffusion.surroundings(size)
    folder.mkdir()
    Image.fromarray(source).save(folder / "source.png")
    Image.fromarray(mask).save(folder / "mask.png")
    files = {role: FileRef.of((folder / f"{role}.png").read_bytes(), "image/png") for role in ("mask", "source")}
    return files, {"image": str(folder / "source.png"), "mask_image": str(folder / "mask.png")}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.in_turn(case.family)) for name, case in CASES.items()]
)
def test_a_trained_student_draws_the_same_in_a_clean_process(name: str, stock: CleanProcess, tmp_path: Path) -> None:
    case = CASES[name]
    module = case.student(tmp_path / "start")
    module._log_training = TextToImage._log_training.__get__(module)  # type: ignore[method-assign]
    module.make_optimizer = partial(torch.optim.AdamW, lr=1e-2)
    files, pictures = inputs(tmp_path / "pictures", case.size) if module.family.roles else ({}, {})
    if pictures:  # a certain codec: what the pipeline draws of the source is then the mean
        vae = module.family.codec.model()  # type: ignore[attr-defined]
        with torch.no_grad():
            vae.quant_conv.weight[4:], vae.quant_conv.bias[4:] = 0, -30
    request = ImageRequest("r", PROMPT, 7, case.size.width_px, case.size.height_px, files=files)
    (before,) = module.generate([request])
    train_two_steps(module, case.size)
    assert module.transformer is not None
    scheduler = at_resolution(module.objective, module.family.tokens(case.size)).scheduler(4)
    pipeline = module.family.pipeline(module.transformer.eval(), scheduler)
    pipeline.save_pretrained(tmp_path / "saved")
    clone_weights(pipeline)
    (ours,) = module.generate([request])
    assert int((ours.int() - before.int()).abs().max()) > 1, "what is saved is what was trained, not what was loaded"
    assert len(np.unique(ours)) > 20, "no flat picture"

    call = case.call | {"prompt": PROMPT, "height": case.size.height_px, "width": case.size.width_px}
    call.pop("output_type", None)
    job = StockDraw(str(tmp_path / "saved"), 7, call, pictures)
    drawn = drawn_by_edgen(job, stock, tmp_path) if name == "edgen" else stock.draw(job)
    assert drawn.pipeline == case.pipeline
    assert levels_apart(ours, drawn.cloned) < FLOAT_NOISE and levels_apart(ours, drawn.mapped) < 1


def drawn_by_edgen(job: StockDraw, stock: CleanProcess, folder: Path) -> Any:
    """Draw through our class: stock diffusers has none for this network, and refuses it."""
    with pytest.raises(ValueError, match=rf"{EDGEN} is not one of"):
        stock.draw(job)
    process = CleanProcess(folder / "clean", [EDGEN])
    try:
        return process.draw(job)
    finally:
        process.close()
