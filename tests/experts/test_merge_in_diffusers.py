"""The product mean is what peft and diffusers compute of the same adapters: networks of real classes, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from evolvedirector.commands.merge_base import stock_base
from evolvedirector.experts import Expert, LoRA, expert_of, put_expert
from evolvedirector.experts.expert_files import write_named
from evolvedirector.experts.lora import base_digest, inject
from evolvedirector.experts.merge import product_mean, svd
from tests.lightning_modules.families import tiny_flux1, tiny_sd
from tests.teachers.tiny_pipelines import pixart

WEIGHTS = [0.3, 0.9]
EXACT, LOUD = 1e-6, 1e-2  # of the range 0...1 of an image, or of a prediction's
LORAS = {"count": LoRA(2, 4.0), "colour": LoRA(3, seed=1)}
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),  # two adapters are loaded
]


def experts_of(network: nn.Module, base: str, targets: Sequence[str]) -> list[Expert]:
    """Put two adapters into a copy, loud enough to change an image, and take them out again."""
    import copy

    digest, student, draws = base_digest(network), copy.deepcopy(network).float(), torch.Generator().manual_seed(3)
    inject(student, LORAS, "count", targets)
    with torch.no_grad():
        for name, part in student.named_parameters():
            if "lora_B" in name:
                part.copy_(0.3 * torch.randn(part.shape, generator=draws))
    return [expert_of(student, name, lora, base, digest) for name, lora in LORAS.items()]


class Stock(NamedTuple):
    """A pipeline in float64 of a folder, and experts of its network."""

    folder: Path
    pipeline: Any
    experts: list[Expert]
    call: Mapping[str, Any]


def sdxl(folder: Path) -> Stock:
    from diffusers import StableDiffusionXLPipeline

    return stock(
        folder, StableDiffusionXLPipeline, tiny_sd.save_sdxl, ["attn2.to_q", "attn2.to_v"], {"guidance_scale": 4.5}
    )


def flux1(folder: Path) -> Stock:
    from diffusers import FluxPipeline

    targets = ["to_q", "to_v", "add_k_proj", "proj_out"]
    call = {"guidance_scale": 3.5, "max_sequence_length": tiny_flux1.T5_LENGTH}
    return stock(folder, FluxPipeline, tiny_flux1.save, targets, call)


def stock(
    folder: Path, kind: Any, save: Callable[[Path], Path], targets: Sequence[str], call: Mapping[str, Any]
) -> Stock:
    pipeline = kind.from_pretrained(save(folder / "base"))
    pipeline.set_progress_bar_config(disable=True)
    place = stock_base(str(folder / "base")).place
    experts = experts_of(getattr(pipeline, place), str(folder / "base"), targets)
    return Stock(folder, pipeline.to(torch.float64), experts, call)


@pytest.fixture(scope="module", params=[sdxl, flux1])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return request.param(tmp_path_factory.mktemp("stock"))


def drawn(of: Stock) -> Tensor:
    size = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np"}
    image = of.pipeline(prompt="a red circle", generator=torch.Generator().manual_seed(7), **size, **of.call).images[0]
    return torch.tensor(image)


def with_files(of: Stock, experts: Sequence[Expert], weights: Sequence[float]) -> Tensor:
    """Load experts as files of diffusers, draw, and take them out again."""
    base = stock_base(str(of.folder / "base"))
    for each in experts:
        write_named(each, base.tensors(each, "diffusers"), "diffusers", of.folder / f"{each.name}.safetensors")
        of.pipeline.load_lora_weights(of.folder, weight_name=f"{each.name}.safetensors", adapter_name=each.name)
    of.pipeline.set_adapters([each.name for each in experts], list(weights))
    image = drawn(of)
    of.pipeline.unload_lora_weights()
    return image


def test_the_product_mean_is_what_set_adapters_computes(made: Stock) -> None:
    base = drawn(made)
    both = with_files(made, made.experts, WEIGHTS)
    merge = product_mean(made.experts, WEIGHTS)
    alone = with_files(made, [merge], [1.0])
    assert (alone - both).abs().max() < EXACT < LOUD < (alone - base).abs().max()
    assert torch.equal(torch.round(255 * alone), torch.round(255 * both))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """PixArt's, into which diffusers loads no LoRA."""
    torch.manual_seed(0)
    found: nn.Module = pixart(tmp_path_factory.mktemp("words")).transformer
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return found.double().eval()


def predicted(network: nn.Module) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    noisy, text = (torch.randn(shape, generator=draws, dtype=torch.float64) for shape in ((1, 4, 8, 8), (1, 5, 32)))
    sizes = {"resolution": None, "aspect_ratio": None}
    with torch.no_grad():
        found: Tensor = network(noisy, text, torch.tensor([500.0]), sizes, return_dict=False)[0]
    return found


def test_pixart_computes_the_same_of_two_adapters_and_of_their_product_mean(network: nn.Module) -> None:
    """Through peft: both adapters at work, peft's own concatenation, and ours."""
    import copy

    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    experts = experts_of(network, "pixart", targets)
    base, both = predicted(network), copy.deepcopy(network)
    for each in experts:
        put_expert(both, each.name, each)
    for part in both.modules():
        if isinstance(part, LoraLayer):
            part.set_adapter(["count", "colour"])
            for each, weight in zip(experts, WEIGHTS, strict=True):
                part.set_scale(each.name, weight)
    merged = copy.deepcopy(network)
    put_expert(merged, "merge", product_mean(experts, WEIGHTS))
    assert (predicted(merged) - predicted(both)).abs().max() < EXACT < LOUD < (predicted(merged) - base).abs().max()
    model: Any = copy.deepcopy(network)
    for each in experts:
        config = LoraConfig(
            r=each.lora.rank, lora_alpha=int(each.lora.scale * each.lora.rank), target_modules=list(targets)
        )
        model = get_peft_model(model, config, each.name) if each is experts[0] else model
        if each is not experts[0]:
            model.add_adapter(each.name, config)
        put_expert(model.base_model.model, each.name, each)
    model.add_weighted_adapter(list(LORAS), WEIGHTS, "theirs", combination_type="cat")
    model.set_adapter("theirs")
    assert (predicted(model.base_model.model) - predicted(both)).abs().max() < EXACT
    for rank, exact in ((5, True), (4, False)):
        cut = copy.deepcopy(network)
        put_expert(cut, "merge", svd(experts, rank, WEIGHTS))
        assert bool((predicted(cut) - predicted(both)).abs().max() < EXACT) == exact
