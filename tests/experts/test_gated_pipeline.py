"""Gated experts draw the same through our `generate` and stock pipelines, begin as the uniform merge, and go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.experts import Expert, LoRA, expert_of, put_expert
from evolvedirector.experts.gate import GatedLoRA, gate_parameters, install_gates, remove_gates
from evolvedirector.experts.gated_experts import constant_gate_as_expert, gated_of
from evolvedirector.experts.gated_files import write_gated
from evolvedirector.experts.gated_pipeline import load_gated_lora, unload_gated_lora
from evolvedirector.experts.lora import base_digest, inject
from evolvedirector.experts.merge import product_mean
from evolvedirector.lightning_modules import DDPM, TextToImage
from evolvedirector.records import ImageRequest
from tests.experts.gated_toys import KINDS, NAMES, bare, filled, wake
from tests.lightning_modules.families import test_flux1, test_pixart_published, test_sdxl, tiny_flux1
from tests.lightning_modules.families.tiny_sd import save_sdxl

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
PROMPT = "a red circle left of a blue star"


@dataclass
class Case:
    """One family on a saved tiny pipeline."""

    student: Callable[[], TextToImage]
    call: dict[str, Any]
    scheduler: Callable[[TextToImage], Any]

    def pipeline(self, module: TextToImage, network: nn.Module) -> Any:
        made = module.family.pipeline(network.eval(), self.scheduler(module))
        made.set_progress_bar_config(disable=True)
        return made

    def drawn(self, pipeline: Any) -> Tensor:
        image = pipeline(PROMPT, **self.call, output_type="np", generator=torch.Generator().manual_seed(7)).images[0]
        return torch.from_numpy((image * 255).round()).permute(2, 0, 1).int()


def sdxl(folder: Path) -> Case:
    save_sdxl(folder)
    call = {"num_inference_steps": 2, "guidance_scale": 4.5, "height": 32, "width": 32}

    def student() -> TextToImage:
        module = test_sdxl.student(folder, DDPM())
        module.sampling_steps = 2
        return module

    return Case(student, call, lambda module: module.objective.scheduler(2))


def flux1(folder: Path) -> Case:
    tiny_flux1.save(folder)
    call = {"num_inference_steps": 4, "guidance_scale": 3.5, "height": 32, "width": 32, "max_sequence_length": 12}
    family, objective = tiny_flux1.family, test_flux1.BY_SIZE
    return Case(lambda: test_flux1.student(family(folder), objective), call, lambda _: tiny_flux1.scheduler(True))


def pixart(folder: Path) -> Case:
    test_pixart_published.save(folder, "sigma")
    call = test_pixart_published.call(test_pixart_published.Size(32, 32))
    del call["prompt"], call["output_type"]
    return Case(
        lambda: test_pixart_published.student(lambda _: folder, "sigma"),
        call,
        lambda module: module.objective.scheduler(3),
    )


FAMILIES = (sdxl, flux1, pixart)


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    made: Case = request.param(tmp_path_factory.mktemp("saved"))
    return made


@pytest.fixture(autouse=True)
def one_text_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As stock pipelines do."""
    monkeypatch.setattr("evolvedirector.lightning_modules.text_cache.ENCODE_CHUNK", 1)


def with_experts(case: Case) -> tuple[TextToImage, nn.Module, list[Expert]]:
    module = case.student()
    network = module.transformer
    assert network is not None
    digest, lora = base_digest(network), LoRA(4, alpha=2.0)
    inject(network, dict.fromkeys(NAMES, lora), NAMES[0], module.family.lora_targets())
    filled(network, scale=1.0)
    return module, network, [expert_of(network, name, lora, "tiny", digest) for name in NAMES]


def ours(module: TextToImage) -> Tensor:
    return module.generate([ImageRequest("r", PROMPT, 7, 32, 32)])[0].int()


@pytest.mark.parametrize("case", FAMILIES, indirect=True)
def test_a_gate_of_zeros_draws_the_uniform_merge(case: Case) -> None:
    module, network, experts = with_experts(case)
    merged: Any = module.family.build()
    plain = case.drawn(case.pipeline(module, merged))
    put_expert(merged, "merge", product_mean(experts))
    expected = case.drawn(case.pipeline(module, merged))
    assert int((expected - plain).abs().max()) > 10
    for kind in KINDS:
        install_gates(network, NAMES, GatedLoRA(kind))  # type: ignore[arg-type]
        assert int((ours(module) - expected).abs().max()) <= 1, kind
        remove_gates(network)


@pytest.mark.parametrize("kind", ["token", pytest.param("pooled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", [pytest.param(sdxl, marks=pytest.mark.slow), flux1, pixart], indirect=True)
def test_loaded_into_a_stock_pipeline_it_draws_the_same_and_goes_again(case: Case, kind: Any, tmp_path: Path) -> None:
    module, network, experts = with_experts(case)
    install_gates(network, NAMES, GatedLoRA(kind))
    uniform = ours(module)
    wake(network)
    drawn = ours(module)
    assert int((drawn - uniform).abs().max()) > 3
    write_gated(gated_of(network, experts), tmp_path / "mixture.safetensors")

    stock = case.pipeline(module, module.family.build())
    plain = case.drawn(stock)
    load_gated_lora(stock, tmp_path / "mixture.safetensors")
    assert int((case.drawn(stock) - drawn).abs().max()) <= 1
    unload_gated_lora(stock)
    assert torch.equal(case.drawn(stock), plain)
    load_gated_lora(stock, str(tmp_path / "mixture.safetensors"))  # and comes again


@pytest.mark.slow
@pytest.mark.parametrize("case", FAMILIES, indirect=True)
def test_a_constant_gate_fused_draws_what_it_drew(case: Case) -> None:
    module, network, experts = with_experts(case)
    install_gates(network, NAMES, GatedLoRA("constant"))
    wake(network)
    fused: Any = module.family.build()
    put_expert(fused, "fused", constant_gate_as_expert(gated_of(network, experts), "fused"))
    assert int((case.drawn(case.pipeline(module, fused)) - ours(module)).abs().max()) <= 1


def saved(folder: Path, **changes: Any) -> tuple[nn.Module, Path]:
    network = bare()
    settings = {"base": "tiny", "base_digest": base_digest(network)} | changes
    inject(network, dict.fromkeys(NAMES, LoRA(2)), NAMES[0], ["attn1.to_q"])
    install_gates(network, NAMES, GatedLoRA("token"))
    experts = [expert_of(network, name, LoRA(2), **settings) for name in NAMES]
    path = folder / "mixture.safetensors"
    write_gated(gated_of(network, experts), path)
    return network, path


def test_another_base_or_a_network_with_adapters_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    gated, path = saved(tmp_path)
    other = bare()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(
        UserError, match=r"have the digest .*, but the experts in .* were trained beside tiny .*check_base"
    ):
        load_gated_lora(other, path)
    after = other.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    load_gated_lora(other, path, check_base=False)
    assert len(gate_parameters(other)) == 2
    with pytest.raises(UserError, match=r"has adapters already.*unload_gated_lora"):
        load_gated_lora(gated, path)
    unload_gated_lora(other)
    assert other.state_dict().keys() == before.keys()
    with pytest.raises(UserError, match="has no gates to take out"):
        unload_gated_lora(other)


def test_a_pipeline_of_no_or_two_networks_is_refused(tmp_path: Path) -> None:
    class Several:
        @property
        def components(self) -> dict[str, nn.Module]:
            return {"transformer": nn.Linear(1, 1), "unet": nn.Linear(1, 1)}

    with pytest.raises(UserError, match=r"Several has 2 networks.*load_gated_lora.pipeline.transformer"):
        load_gated_lora(Several(), tmp_path / "mixture.safetensors")
