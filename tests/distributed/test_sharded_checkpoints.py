"""Sharded checkpoints through the command line: on other numbers of ranks, exported, and written beside training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed import cli_ranks
from tests.distributed.cli_ranks import averages_of, weights_of, write_config
from tests.distributed.launched import accelerators, launch
from tests.distributed.test_ranks import largest_difference

SCRIPT = Path(cli_ranks.__file__)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]


def run(*commands: list[str], ranks: int) -> None:
    launch(SCRIPT, json.dumps(commands), ranks=ranks)


def fit(config: Path, *words: str) -> list[str]:
    return ["fit", "-c", str(config), *words]


@pytest.mark.parametrize("accelerator", accelerators(2))
def test_two_ranks_then_one_then_two_train_what_one_trains_and_are_exported_whole(
    tmp_path: Path, accelerator: str
) -> None:
    config, whole = write_config(tmp_path / "parts", accelerator), write_config(tmp_path / "whole", accelerator)
    one, last = "--trainer.devices=1", "--ckpt_path=last"
    run(fit(config, "--trainer.max_steps=4"), ranks=2)
    export = ["export", str(tmp_path / "parts"), str(tmp_path / "out"), one, "--samples", "0"]
    run(fit(whole, one), export, fit(config, last, one, "--trainer.max_steps=6"), ranks=1)
    run(fit(config, last), ranks=2)
    for read in (averages_of, weights_of):
        assert largest_difference(read(tmp_path / "parts", 8), read(tmp_path / "whole", 8)) < 1e-4
        assert largest_difference(read(tmp_path / "parts", 4), read(tmp_path / "parts", 8)) > 1e-3
    written = load_file(tmp_path / "out/transformer/diffusion_pytorch_model.safetensors")
    averages = {name.removeprefix("transformer."): part for name, part in averages_of(tmp_path / "parts", 4).items()}
    assert all(torch.equal(written[name], part) for name, part in averages.items())
