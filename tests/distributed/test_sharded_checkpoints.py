"""Sharded checkpoints through the command line: on other numbers of ranks, exported, and written beside training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evolvedirector.callbacks.checkpoint import latest_committed
from tests.distributed import cli_ranks
from tests.distributed.cli_ranks import averages_of, optimizer_of, weights_of, write_config
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


# Each write is held back until training has gone on by a step.
@pytest.mark.parametrize("accelerator", accelerators(2))
def test_what_is_written_beside_training_is_the_state_of_its_step(tmp_path: Path, accelerator: str) -> None:
    waits = write_config(tmp_path / "waits", accelerator)
    beside = write_config(tmp_path / "beside", accelerator, fault="", asynchronous=True)
    killed = write_config(tmp_path / "killed", accelerator, fault="killed", asynchronous=True)
    run(fit(waits), fit(beside), ranks=2)
    for step in (2, 4, 6, 8):
        for read in (averages_of, weights_of, optimizer_of):
            one, other = read(tmp_path / "waits", step), read(tmp_path / "beside", step)
            assert one and one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        assert (tmp_path / f"beside/checkpoints/step-{step:08d}/COMMIT.json").is_file()

    with pytest.raises(AssertionError):
        run(fit(killed), ranks=2)
    assert latest_committed(tmp_path / "killed") == tmp_path / "killed/checkpoints/step-00000002/state.ckpt"
    assert (tmp_path / "killed/checkpoints/step-00000004/state.ckpt").is_dir()
    run(fit(killed, "--ckpt_path=last", "--trainer.callbacks.init_args.fault="), ranks=2)
    for read in (averages_of, weights_of, optimizer_of):
        one, other = read(tmp_path / "waits", 8), read(tmp_path / "killed", 8)
        assert all(torch.equal(one[name], other[name]) for name in one)
