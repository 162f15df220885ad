"""Which experts are taken out of a run that trained several, and what is said where nothing is chosen."""

from __future__ import annotations

import argparse

import pytest
import torch

from evolvedirector.commands.chosen_expert import ChosenExperts, add_expert_options, chosen_experts
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
    assert chosen_experts(module, options("--expert", "light")).names == ["light"]
    assert chosen_experts(module, options("--expert", "light", "--expert", "dark")).names == ["light", "dark"]
    assert chosen_experts(module, options("--merge", "uniform")).names == ["dark", "light", "joint"]
    assert chosen_experts(module, options("--merge", "gate")).is_gate
    assert not chosen_experts(student(experts=()), options()).names


def test_what_is_chosen_is_told() -> None:
    below = {"light": {"dark": 0.5, "joint": 1.0}}
    assert ChosenExperts(["dark"], below).told() == ", expert dark"
    assert ChosenExperts(["light"], below).told() == ", expert light on top of 0.5 dark + 1 joint"
    assert ChosenExperts(["dark", "joint"]).told() == ", mean of the experts dark, joint"
    assert ChosenExperts().told() == ""


def test_a_mean_of_experts_is_that_of_what_they_draw_with() -> None:
    below = {"c": {"a": 0.5, "b": 0.5}, "d": {"a": 0.5, "b": 0.5}}
    assert ChosenExperts(["c"], below).weights == {"c": 1.0, "a": 0.5, "b": 0.5}
    assert ChosenExperts(["c", "d"], below).weights == {"c": 0.5, "d": 0.5, "a": 0.5, "b": 0.5}
    assert ChosenExperts(["a", "c"], below).weights == {"a": 0.75, "c": 0.5, "b": 0.25}


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
    for chosen in (
        ChosenExperts(["dark"]),
        ChosenExperts(["dark", "light"]),
        ChosenExperts(["light"], {"light": {"dark": 0.5}}),
    ):
        chosen.activate(module)
        drawn = module.generate([ImageRequest("r", "a", 0, SIDE, SIDE)])[0]
        expert = chosen.taken_out(module)
        fused = fused_network(network, module.family, module.seed, expert.lora, tensors_of(expert))
        plain = student(experts=())
        plain.transformer = fused
        again = plain.generate([ImageRequest("r", "a", 0, SIDE, SIDE)])[0]
        assert (drawn.int() - again.int()).abs().max() <= 1
    ChosenExperts().activate(module)
    with pytest.raises(UserError, match="--merge gate mixes experts anew for each input"):
        ChosenExperts(["gate"]).taken_out(module)
