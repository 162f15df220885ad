"""Fully sharded data parallel training (FSDP2), over all ranks or over each of several replicas (HSDP)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.device_dtype_mixin import _update_properties
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from evolvedirector.errors import RunError, UserError
from evolvedirector.lightning_modules.asynchronous_save import AsynchronousSave, reason_of
from evolvedirector.models.quantised import quantised_layers

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

BOTH_BACKENDS = "cpu:gloo,cuda:nccl"
"""Moves tensors of main memory and of devices."""


class ShardedStrategy(ModelParallelStrategy):
    """Shard parameters, gradients and optimizer state over all ranks, each with its own data.

    Lightning's `ModelParallelStrategy` takes the ranks of a node as tensor-parallel by default, so that all of them
    would train on the same data; here data-parallel size is the world size, and set-up asserts it.

    With `replicas` (HSDP, `HYBRID_SHARD` of FSDP1) the ranks form groups, each of which holds the whole model in its
    shards: weights are gathered inside a group, on the fast links of one machine, and only gradients cross to the
    others. The price is memory. Ranks that follow each other form a group, so one replica per machine is
    `replicas: NUMBER_OF_MACHINES`. Every rank still reads its own samples, and the mean is over all of them.

    Args:
        save_distributed_checkpoint: each rank saves its own shard (a folder); false gathers one file on rank 0.
        process_group_backend: None follows the device (`nccl` on GPUs, `gloo` on CPUs).
        timeout_minutes: how long a collective waits for a rank.
        replicas: how many copies of the model are trained, each sharded over an equal part of the ranks; it holds for
            training alone, since drawing and exporting take nothing from it.
        cpu_offload: shards of weights, gradients, optimizer state and averages lie in main memory; a block's weights
            come to the device while it works, and the optimizer steps on the CPU. Slow, for a model that fits no other
            way. A frozen base stays on the device.

    Raises:
        UserError: there is no such number of replicas, or no backend moves what lies in main memory.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout_minutes: float = 30,
        replicas: int = 1,
        cpu_offload: bool = False,
    ) -> None:
        if replicas < 1:
            raise UserError(
                f"replicas is {replicas}. It is how many copies of the model are trained, from 1 up. Write replicas: 1 "
                "to shard over all ranks."
            )
        if cpu_offload and process_group_backend == "nccl":
            raise UserError(
                "process_group_backend is nccl and cpu_offload is true. NCCL moves nothing that lies in main memory, "
                f"where gradients and averages are then. Leave process_group_backend out, which takes {BOTH_BACKENDS}."
            )
        self.saves_shards = save_distributed_checkpoint
        self.replicas = replicas
        self.cpu_offload = cpu_offload
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self._saving = AsynchronousSave(self._timeout)
        self._then: Callable[[], None] | None = None

    def setup_environment(self) -> None:
        """Set data-parallel size to the number of ranks, which is known only now, and part them into replicas.

        Raises:
            UserError: if the ranks cannot form so many replicas.
        """
        ranks, module = self.num_nodes * self.num_processes, self.lightning_module
        assert module is not None
        forms_replicas = self.replicas > 1 and module.trainer.state.fn == TrainerFn.FITTING
        if forms_replicas:
            check_replicas(self.replicas, ranks)
        self._data_parallel_size = ranks
        super().setup_environment()
        if forms_replicas:
            sizes = (self.replicas, ranks // self.replicas)
            mesh = init_device_mesh(self.root_device.type, sizes, mesh_dim_names=("replica", "shard"))
            self._device_mesh = module._device_mesh = mesh

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Say which part of the data is this rank's: one of as many as there are ranks, replicas or not."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    def setup(self, trainer: Trainer) -> None:
        """Assert that every rank is a data-parallel rank.

        Raises:
            RunError: if the mesh is another.
            UserError: if something that is configured does not go with this strategy.
        """
        mesh = self.device_mesh
        if sharded_over(mesh).size() != self.world_size:
            axes = dict(zip(mesh.mesh_dim_names or (), mesh.shape, strict=False))
            raise RunError(
                f"The device mesh is {axes}. Every one of the {self.world_size} ranks must be data-parallel. Launch as "
                "many processes per node as trainer.devices."
            )
        check_offload(self.cpu_offload, str(trainer.precision))
        parts = [] if self.model is None else list(self.model.parameters())
        has_base = any(not part.requires_grad and not isinstance(part, DTensor) for part in parts)
        if has_base and not self.saves_shards:
            raise UserError(
                "save_distributed_checkpoint is false, but a frozen base is kept whole on every rank and left out of "
                "checkpoints, which one gathered file cannot be read back without. Write "
                "save_distributed_checkpoint: true."
            )
        super().setup(trainer)

    def model_to_device(self) -> None:
        """Move what is not sharded; shards lie where `fully_shard` put them, in main memory perhaps."""
        if not self.cpu_offload:
            super().model_to_device()
            return
        assert self.model is not None
        self.model._apply(lambda tensor: tensor if isinstance(tensor, DTensor) else tensor.to(self.root_device))
        _update_properties(self.model, device=self.root_device)  # what `module.device` says, as `module.to` does

    def _get_process_group_backend(self) -> str:
        on_cuda = self.root_device.type == "cuda"
        if self.cpu_offload and on_cuda and self._process_group_backend is None:
            return BOTH_BACKENDS  # norms of gradients and whole averages are gathered from main memory
        return super()._get_process_group_backend()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's state, with zeros for parameters that had no gradient while others had one.

        Those are of experts that wait for their stage. A checkpoint of shards is read back with the state of every
        parameter, or not at all.

        Args:
            optimizer: Of which parameters may have no state.
        """
        found = super().optimizer_state(optimizer)
        state: dict[str, Any] = found.get("state", {})
        if not self.saves_shards or not state or self.model is None:
            return found
        parameters = dict(self.model.named_parameters())
        pattern, kept = next(iter(state.items()))
        for name in (name for group in found["param_groups"] for name in group["params"] if name not in state):
            like = parameters[name].detach().cpu()
            state[name] = {
                key: torch.zeros_like(like if value.shape == parameters[pattern].shape else value)
                for key, value in kept.items()
                if isinstance(value, Tensor)
            }
        return found

    @contextmanager
    def saving_beside(self, then: Callable[[], None]) -> Iterator[None]:
        """Let `save_checkpoint` inside return as soon as the state is copied, and write it while training goes on.

        Args:
            then: called in a thread of rank 0 when every rank has written its shards.
        """
        self._then = then
        try:
            yield
        finally:
            self._then = None

    def finish_saving(self) -> tuple[Path, str] | None:
        """Wait for what is written beside training; every rank calls it and returns the same.

        Returns:
            Which checkpoint could not be written, and why. None: all is well, or there was none.
        """
        return self._saving.finish()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint, or copy it and begin to write it; every rank calls it.

        Args:
            checkpoint: as the trainer gathers it.
            filepath: a folder of shards, or one file.
            storage_options: None; others are refused.

        Raises:
            OSError: if it could not be written.
        """
        if self._then is None or not self.saves_shards:
            try:
                super().save_checkpoint(checkpoint, filepath, storage_options)
            except CheckpointException as error:  # which nothing but BaseException catches
                raise OSError(reason_of(error)) from error
            return
        optimizers = {f"optimizer_{n}": state for n, state in enumerate(checkpoint.pop("optimizer_states", []))}
        state = {"state_dict": checkpoint.pop("state_dict"), **optimizers}
        self._saving.begin(Path(self.broadcast(filepath)), state, checkpoint, self._then)

    def teardown(self) -> None:
        """Let a checkpoint that is being written come to its end, however training ended, and say where it failed."""
        failed = self._saving.wait()
        if failed is not None and self.is_global_zero:
            state, reason = failed
            print(
                f"The checkpoint {state.parent.name}, which was written beside training, could not be finished "
                f"({reason}). The one before it counts.",
                flush=True,
            )
        super().teardown()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load weights and optimizer; say in one paragraph where they do not fit what is configured.

        Args:
            checkpoint_path: a folder of shards, or one file.
            weights_only: as `Trainer.fit` was given it, which Lightning forgets for this strategy; None reads tensors
                and plain values alone.

        Raises:
            UserError: if a parameter or what the optimizer keeps of it is missing, or has another shape.
        """
        try:
            return super().load_checkpoint(checkpoint_path, True if weights_only is None else weights_only)
        except (CheckpointException, RuntimeError, ValueError, KeyError) as error:
            text = str(error)
            where = next(filter(None, (re.search(pattern, text) for pattern in _MISFITS)), None)
            if where is None:
                raise
            said = where[0].strip().rstrip(".")
            raise UserError(
                f"The checkpoint {checkpoint_path} does not fit what is configured: {said}. A run "
                "goes on with the model and the optimizer that it began with. Configure those, or start a new run "
                "(without --ckpt_path)."
            ) from error


_MISFITS = (
    r"Missing key in checkpoint state_dict: [\w.]+",
    r"Size mismatch between .*",
    r"The size of tensor .*",
    r"size mismatch for .*",
    r"(?:Missing|Unexpected) key\(s\) in state_dict: .*",
    r"loaded state dict .*parameter group.*",
)


def check_replicas(replicas: int, ranks: int) -> None:
    """Refuse replicas that ranks cannot form.

    Args:
        replicas: Copies of the model.
        ranks: In all.

    Raises:
        UserError: They do not divide the ranks, or leave one rank to each, which is DDP.
    """
    allowed = [count for count in range(1, ranks // 2 + 1) if ranks % count == 0] or [1]
    if replicas not in allowed:
        there_are = f"there are {ranks} ranks" if ranks > 1 else "there is 1 rank"
        raise UserError(
            f"replicas is {replicas}, but {there_are}. Each replica is sharded over an equal part of them, of two or "
            f"more: {', '.join(map(str, allowed))} here. Write replicas: "
            f"{max(count for count in allowed if count <= replicas)}, or take configs/strategy/ddp.yaml for a whole "
            "copy on every rank."
        )


def check_offload(cpu_offload: bool, precision: str) -> None:
    """Refuse a precision that does not go with gradients in main memory.

    Args:
        cpu_offload: Whether they lie there.
        precision: Lightning's.

    Raises:
        UserError: It does not.
    """
    if cpu_offload and precision == "16-mixed":
        raise UserError(
            "trainer.precision is 16-mixed and cpu_offload is true. The loss scaler works on a device's gradients, and "
            "these lie in main memory. Write trainer.precision: bf16-mixed, or cpu_offload: false."
        )


def sharded_over(device_mesh: DeviceMesh) -> DeviceMesh:
    """Return the mesh that `fully_shard` takes: one axis, or replicas x shards.

    Args:
        device_mesh: Of a `ShardedStrategy`, or one with an axis `data_parallel`.
    """
    named = device_mesh.mesh_dim_names or ()
    return device_mesh["data_parallel"] if "data_parallel" in named else device_mesh


def shard(
    transformer: nn.Module,
    blocks: Sequence[nn.Module],
    device_mesh: DeviceMesh,
    precision: str,
    frozen: Set[nn.Parameter] = frozenset(),
    cpu_offload: bool = False,
) -> None:
    """Shard each block, then the rest, over the data-parallel ranks; master parameters stay fp32.

    Args:
        transformer: sharded in place.
        blocks: units that are gathered one at a time.
        device_mesh: holds an axis `data_parallel`, or has the axes `replica` and `shard`.
        precision: Lightning's precision; with bf16 the gathered parameters and activations are bfloat16.
        frozen: parameters that every rank keeps whole: gathering a frozen base for every pass costs more than it saves,
            and quantised weights cannot be cut.
        cpu_offload: shards lie in main memory, page-locked where the device is a GPU.

    Raises:
        UserError: if quantised weights would be cut: bitsandbytes reads them as whole blocks and computes something
            else from a part, without a word.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    cut = [part for layer in quantised_layers(transformer) for part in layer.parameters() if part not in frozen]
    if any(not part.is_floating_point() for part in cut):
        raise UserError(
            f"{type(transformer).__name__} has weights quantised by bitsandbytes, which no shards can be cut of. Every "
            "rank must keep them whole, as the frozen base of a LoRA. Write them under model.init_args.trained, with "
            "base_precision: nf4, or load the network unquantised."
        )
    half = torch.bfloat16 if precision == "bf16-mixed" else None
    # Inputs are not cast: times up to 1000 do not fit the 8 bits of bfloat16; autocast casts where it is safe.
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = sharded_over(device_mesh)
    lies = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if cpu_offload else OffloadPolicy()
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": policy,
        "offload_policy": lies,
        "ignored_params": set(frozen),
    }
    for block in blocks:
        fully_shard(block, **options)
    # Reshard the root, too: left gathered after drawing images, it would hide averaged weights that are swapped out.
    fully_shard(transformer, reshard_after_forward=True, **options)


def refuse_unshardable_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refuse on sharded parameters what would fail mid-step, or is not known to step them rightly.

    Kernels of bitsandbytes mix plain tensors with sharded ones. Muon and CAME need whole matrices, Prodigy sums over
    all ranks, and optimizers without a schedule switch weights in place: of these no sharded step is tested.

    Args:
        optimizer: as configured, after sharding.

    Raises:
        UserError: if it is one of these and a parameter is sharded.
    """
    name = f"{type(optimizer).__module__}.{type(optimizer).__name__}"
    foreign = ("bitsandbytes.", "prodigyopt.", "pytorch_optimizer.", "schedulefree.")
    if not name.startswith(foreign) and "Muon" not in name:
        return
    if any(isinstance(parameter, DTensor) for group in optimizer.param_groups for parameter in group["params"]):
        raise UserError(
            f"{name} cannot step sharded (FSDP2) parameters. Allowed: AdamW and others of torch, whose state is "
            "sharded over the ranks anyway. Write optimizer: torch.optim.AdamW, or train with "
            "configs/strategy/ddp.yaml."
        )
