"""Which experts are taken out of a run that trained several, and what is said where nothing is chosen."""

from __future__ import annotations

import argparse

import pytest
import torch

from evolvedirector.commands.chosen_expert import activate, add_expert_options, chosen_experts, taken_out, told
from evolvedirector.errors import UserError
from evolvedirector.experts import GatedLoRA, LoRA, Trained
from evolvedirector.lightning_modules import FlowMatching, TextToImage
from evolvedirector.lightning_modules.adapter_files import fused_network, tensors_of
from evolvedirector.records import ImageRequest
from tests.lightning_modules.tiny_student import SIDE, family


def student(**settings: object) -> TextToImage:
    trained = Trained(LoRA(2), **({"experts": ["dark", "light"]} | settings))  # type: ignore[arg-type]
    return TextToImage(
        family(), FlowMatching(prediction="x0"), SIDE, sampling_steps=1, generation_chunk_size=1, trained=trained
    )


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_expert_options(parser)
    return parser.parse_args(words)


def test_one_expert_several_or_all_are_chosen_by_name() -> None:
    module = student(experts=["dark", "light", "joint"], gate=GatedLoRA(), gated=["dark", "light"])
    assert chosen_experts(module, options("--expert", "light")) == ["light"]
    assert chosen_experts(module, options("--expert", "light", "--expert", "dark")) == ["light", "dark"]
    assert chosen_experts(module, options("--merge", "uniform")) == ["dark", "light", "joint"]
    assert chosen_experts(module, options("--merge", "gate")) == ["gate"]
    assert chosen_experts(student(experts=()), options()) == []
    assert told(["light"]) == ", expert light" and told(["a", "b"]) == ", mean of the experts a, b" and not told([])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "Nothing is chosen, and this run trained the experts dark, light"),
        (["--expert", "blue"], "--expert is 'blue'. Allowed: dark, light"),
        (["--expert", "dark", "--merge", "uniform"], "--expert dark and --merge uniform is chosen"),
        (["--merge", "gate"], "this run trained no gate"),
    ],
)
def test_a_choice_that_is_none_is_told(words: list[str], line: str) -> None:
    with pytest.raises(UserError) as refused:
        chosen_experts(student(), options(*words))
    assert line in str(refused.value)


def test_a_run_without_experts_has_none_to_choose() -> None:
    with pytest.raises(UserError, match="--merge uniform chooses among experts, and this run trained none"):
        chosen_experts(student(experts=()), options("--merge", "uniform"))


def test_what_is_taken_out_is_what_draws() -> None:
    module = student()
    module.configure_model()
    with torch.no_grad():
        for name in ("dark", "light"):
            for part in module.experts().parameters_of(name).values():
                part.normal_(std=0.3)
    network = module.transformer
    assert network is not None
    for names in (["dark"], ["dark", "light"]):
        activate(module, names)
        drawn = module.generate([ImageRequest("r", "a", 0, SIDE, SIDE)])[0]
        expert = taken_out(module, names)
        fused = fused_network(network, module.family, module.seed, expert.lora, tensors_of(expert))
        plain = student(experts=())
        plain.transformer = fused
        again = plain.generate([ImageRequest("r", "a", 0, SIDE, SIDE)])[0]
        assert (drawn.int() - again.int()).abs().max() <= 1
    activate(module, [])
    with pytest.raises(UserError, match="--merge gate mixes experts anew for each input"):
        taken_out(module, ["gate"])
