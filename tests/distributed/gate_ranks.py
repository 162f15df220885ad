"""Train the gates of a tiny network on one or two processes and write what came out: run by the tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from evolvedirector.execution.ranks import leaving_process_group
from evolvedirector.experts import LoRA, expert_of
from evolvedirector.experts.gate import gate_parameters
from evolvedirector.experts.gate_weights import balance_loss, collecting
from evolvedirector.experts.gated_experts import gated_of
from evolvedirector.experts.gated_files import write_gated
from evolvedirector.experts.lora import is_adapter
from evolvedirector.lightning_modules.sharded_strategy import shard
from evolvedirector.records.condition import Condition, Tokens
from tests.experts.gated_toys import NAMES, answer, gated, inputs
from tests.lightning_modules.tiny_student import family

BATCH = 4
RANKS = (2, 4, 3)


def mine(rank: int, world_size: int, step: int) -> tuple[Tensor, Tensor, Condition]:
    """This rank's share of a batch."""
    noisy, times, condition = inputs(BATCH, seed=step)
    part = slice(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    text = condition.tokens["text"]
    return noisy[part], times[part], Condition({"text": Tokens(text.values[part], text.mask[part])})


def main(output: Path) -> None:
    torch.set_num_threads(1)
    if torch.distributed.is_torchelastic_launched():
        torch.distributed.init_process_group("gloo")
    for kind, checkpointing in (("token", False), ("pooled", True)):
        train(kind, checkpointing, output / kind)


def train(kind: str, checkpointing: bool, output: Path) -> None:
    rank, world_size = 0, 1
    network: Any = gated(kind, awake=True).train()
    if checkpointing:
        network.enable_gradient_checkpointing()
    if torch.distributed.is_initialized():
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        mesh = torch.distributed.init_device_mesh("cpu", (world_size,), mesh_dim_names=("data_parallel",))
        frozen = {part for name, part in network.named_parameters() if not is_adapter(name)}
        shard(network, family().blocks(network), mesh, "32-true", frozen)
    gates = gate_parameters(network)
    optimizer = torch.optim.AdamW(gates.values(), lr=0.05)
    losses = []
    for step in range(3):
        with collecting(network) as seen:
            prediction = answer(network, mine(rank, world_size, step))
        loss = prediction.square().mean() + 0.5 * balance_loss(seen)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    with torch.no_grad():
        drawn = answer(network.eval(), inputs(1))
    if world_size > 1:
        for value in losses:
            torch.distributed.all_reduce(value, torch.distributed.ReduceOp.AVG)
    sharded = sorted(name for name, part in network.named_parameters() if isinstance(part, DTensor))
    experts = [
        expert_of(network, name, LoRA(width, alpha=width + 1.0), "tiny", "d1")
        for name, width in zip(NAMES, RANKS, strict=True)
    ]
    taken = gated_of(network, experts)
    if rank == 0:
        output.mkdir()
        write_gated(taken, output / "mixture.safetensors")
        torch.save({"drawn": drawn, "losses": torch.stack(losses)}, output / "result.pt")
        (output / "sharded.json").write_text(json.dumps(sharded))


if __name__ == "__main__":
    with leaving_process_group():
        main(Path(sys.argv[1]))
