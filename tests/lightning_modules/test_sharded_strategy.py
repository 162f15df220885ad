"""What a strategy that shards accepts, before any rank waits for another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import LightningModule
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from evolvedirector.errors import UserError
from evolvedirector.experts import LoRA, Trained
from evolvedirector.lightning_modules import Compute, ShardedStrategy
from evolvedirector.lightning_modules.assemble import Where, assemble
from evolvedirector.lightning_modules.sharded_strategy import shard
from tests.lightning_modules.tiny_student import family


def strategy_of(ranks: int, replicas: int, **options: Any) -> ShardedStrategy:
    strategy = ShardedStrategy(replicas=replicas, **options)
    strategy.parallel_devices = [torch.device("cpu")] * ranks
    module: Any = LightningModule()
    module._trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING))
    strategy.connect(module)
    return strategy


@pytest.mark.parametrize(
    ("ranks", "replicas", "allowed"),
    [(6, 4, "1, 2, 3 here. Write replicas: 3"), (4, 4, "1, 2 here. Write replicas: 2")],
)
def test_replicas_that_ranks_cannot_form_are_refused(ranks: int, replicas: int, allowed: str) -> None:
    with pytest.raises(UserError, match=f"replicas is {replicas}, but there are {ranks} ranks.*{allowed}"):
        strategy_of(ranks, replicas).setup_environment()


def test_one_process_has_no_replicas() -> None:
    with pytest.raises(UserError, match=r"replicas is 2, but there is 1 rank.*Write replicas: 1"):
        strategy_of(1, 2).setup_environment()
    with pytest.raises(UserError, match="replicas is 0"):
        ShardedStrategy(replicas=0)


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_rank_reads_its_own_samples_in_whatever_replica(replicas: int) -> None:
    strategy = strategy_of(4, replicas)
    strategy.cluster_environment = SimpleNamespace(world_size=lambda: 4, global_rank=lambda: 3)  # type: ignore[assignment]
    assert strategy.distributed_sampler_kwargs == {"num_replicas": 4, "rank": 3}


def test_what_does_not_go_with_shards_in_main_memory_is_refused() -> None:
    with pytest.raises(UserError, match="process_group_backend is nccl and cpu_offload is true"):
        ShardedStrategy(cpu_offload=True, process_group_backend="nccl")
    strategy = strategy_of(1, 1, cpu_offload=True)
    strategy._device_mesh = SimpleNamespace(size=lambda: 1, mesh_dim_names=("replica", "shard"))  # type: ignore[assignment]
    with pytest.raises(UserError, match="precision is 16-mixed and cpu_offload is true"):
        strategy.setup(SimpleNamespace(precision="16-mixed"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "offload", "chosen", "backend"),
    [
        ("cuda", True, None, "cpu:gloo,cuda:nccl"),
        ("cuda", False, None, "nccl"),
        ("cpu", True, None, "gloo"),
        ("cuda", True, "gloo", "gloo"),
    ],
)
def test_shards_in_main_memory_have_a_backend_that_moves_them(
    device: str, offload: bool, chosen: str | None, backend: str
) -> None:
    strategy = ShardedStrategy(cpu_offload=offload, process_group_backend=chosen)
    strategy.parallel_devices = [torch.device(device)]
    strategy.cluster_environment = LightningEnvironment()
    assert strategy._get_process_group_backend() == backend


@pytest.fixture
def one_rank() -> Iterator[Any]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1), mesh_dim_names=("replica", "shard"))
    dist.destroy_process_group()


@pytest.mark.usefixtures("rows_of_any_length")
@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_quantised_weights_stay_whole_on_every_rank(one_rank: Any, precision: Any) -> None:
    whole, _ = assemble(family(), 0, Trained(LoRA(2), precision), Compute(), Where(mesh=one_rank))
    assert {isinstance(part, DTensor) for part in whole.parameters() if part.requires_grad} == {True}
    assert {isinstance(part, DTensor) for part in whole.parameters() if not part.requires_grad} == {False}
    network, _ = assemble(family(), 0, Trained(LoRA(2), precision), Compute(), Where())
    with pytest.raises(UserError, match=r"quantised by bitsandbytes.*Every rank must keep them whole"):
        shard(network, family().blocks(network), one_rank, "32-true")


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("told_before", [False, True])
def test_a_checkpoint_that_fails_as_training_is_broken_off_is_told(
    told_before: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM comes while it is written, so that no next checkpoint tells it; once told, it is not told again."""

    def commit() -> None:
        raise OSError("No space left on device")

    strategy = strategy_of(1, 1)
    strategy.cluster_environment = LightningEnvironment()
    strategy._accelerator = CPUAccelerator()
    state = {"state_dict": {"weight": torch.ones(2)}}
    strategy._saving.begin(tmp_path / "step-7" / "state.ckpt", state, {}, commit)
    if told_before:
        assert strategy.finish_saving() == (tmp_path / "step-7" / "state.ckpt", "No space left on device")
    strategy.teardown()
    said = capsys.readouterr().out
    assert ("checkpoint step-7" in said and "No space left on device" in said) is not told_before
