"""Try something with a module and its optimizers, and leave everything as it was, to the bit."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

_OF_TORCH = set(vars(nn.Module())) - {"training"}  # parameters, buffers, hooks: what they hold is put back elsewhere
_SCALARS = (bool, int, float, complex, str, bytes, type(None), tuple, frozenset, torch.dtype, torch.device)
_CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict, Counter)  # exactly these: others may be frozen
_NOT_ENTERED = ("torch", "lightning", "builtins", "pytorch_lightning")  # top packages of classes left alone

Undo = Callable[[], None]


@contextmanager
def untouched(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Put back weights, buffers, gradients, optimizers, loss scaler, counters and random states at the end.

    Copies lie in main memory, of each rank's own shards. Strategies that keep state of their own (DeepSpeed) are not
    covered.

    Args:
        trainer: After its strategy is set up.
        module: The one it trains.
    """
    undo: list[Undo] = [_parameters(module), _buffers(module)]
    undo += [_attributes(part, own=True) for part in module.modules()]
    undo += [_optimizer(optimizer) for optimizer in trainer.optimizers]
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    undo += [_scaler(scaler)] if scaler is not None else []
    is_cuda = trainer.strategy.root_device.type == "cuda"
    with isolate_rng(include_cuda=is_cuda), ExitStack() as stack:
        for put_back in undo:
            stack.callback(put_back)
        yield
        _fresh_reducer(trainer.strategy)


@contextmanager
def silent(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Let `log` of the module do nothing (no loop collects figures now), and loggers and callbacks be absent.

    Args:
        trainer: Its loggers and callbacks come back at the end.
        module: The one it trains.
    """
    loggers, callbacks = trainer.loggers, trainer.callbacks  # type: ignore[attr-defined]
    trainer.loggers = [DummyLogger()] if loggers else []
    trainer.callbacks = []  # type: ignore[attr-defined]
    vars(module)["log"] = vars(module)["log_dict"] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        for name in ("log", "log_dict"):
            vars(module).pop(name, None)
        trainer.loggers, trainer.callbacks = loggers, callbacks  # type: ignore[attr-defined]


def _fresh_reducer(strategy: Strategy) -> None:
    """Wrap a replicated model anew: its first backward pass arranges gradients in other groups, which sum otherwise."""
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        strategy.model = strategy.model.module
        strategy.configure_ddp()


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


@torch.no_grad()
def _parameters(module: nn.Module) -> Undo:
    # frozen ones too: a step may move an average that the module keeps
    kept = [(part, _local(part).to("cpu", copy=True), part.grad, part.requires_grad) for part in module.parameters()]

    @torch.no_grad()
    def put_back() -> None:
        for part, value, gradient, trains in kept:
            _local(part).copy_(value)
            part.grad, part.requires_grad = gradient, trains

    return put_back


@torch.no_grad()
def _buffers(module: nn.Module) -> Undo:
    kept = [
        (part, name, buffer, _local(buffer).to("cpu", copy=True))
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]

    @torch.no_grad()
    def put_back() -> None:
        for part, name, buffer, value in kept:
            _local(buffer).copy_(value)
            part._buffers[name] = buffer

    return put_back


def _optimizer(optimizer: torch.optim.Optimizer) -> Undo:
    state = {key: copy.deepcopy(value) for key, value in optimizer.state.items()}
    groups = [{name: _copied(value) for name, value in group.items()} for group in optimizer.param_groups]
    attributes = _attributes(optimizer, own=True, left_alone={"state", "param_groups", "defaults"})

    def put_back() -> None:
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, kept in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(kept)
        attributes()

    return put_back


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _scaler(scaler: Any) -> Undo:
    kept = copy.deepcopy(vars(scaler))

    def put_back() -> None:
        vars(scaler).clear()
        vars(scaler).update(kept)

    return put_back


def _attributes(holder: Any, own: bool, left_alone: set[str] | None = None) -> Undo:
    """Put back plain values, containers and tensors among the attributes; one level into objects, their counters too.

    Args:
        holder: A part of the module, an optimizer, or an object that one of them holds.
        own: Whether whatever the attribute became goes back. Of an object that is held only values and containers do:
            what it loaded meanwhile (an encoder, a cache on disk) may stay.
        left_alone: Names besides those that every torch module has.
    """
    skipped = (_OF_TORCH if isinstance(holder, nn.Module) else set()) | (left_alone or set())
    kept = {name: value for name, value in _all_attributes(holder).items() if name not in skipped}
    contents = {name: copy.copy(value) for name, value in kept.items() if type(value) in _CONTAINERS}
    tensors = [(value, value.detach().clone()) for value in kept.values() if own and type(value) is Tensor]
    held = [_attributes(value, own=False) for value in kept.values() if own and _is_entered(value)]

    def put_back() -> None:
        now = _all_attributes(holder)
        for name in now.keys() - kept.keys() - skipped if own else ():
            object.__delattr__(holder, name)
        for name, value in kept.items():
            if own or isinstance(now.get(name), _SCALARS):
                object.__setattr__(holder, name, value)
            if name in contents:
                _refill(value, contents[name])
        for tensor, value in tensors:
            with torch.no_grad():
                tensor.copy_(value)
        for inner in held:
            inner()

    return put_back


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list | deque):
        container.extend(content)
    else:
        container.update(content)


def _all_attributes(holder: Any) -> dict[str, Any]:
    slots = (name for kind in type(holder).__mro__ for name in _slots_of(kind))
    found = {name: object.__getattribute__(holder, name) for name in slots if _is_set(holder, name)}
    return found | dict(getattr(holder, "__dict__", {}))


def _slots_of(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if not name.startswith("__")]


def _is_set(holder: Any, name: str) -> bool:
    try:
        object.__getattribute__(holder, name)
    except AttributeError:
        return False
    return True


def _is_entered(value: Any) -> bool:
    if isinstance(value, (*_SCALARS, *_CONTAINERS, Tensor, nn.Module, type)) or callable(value):
        return False
    return type(value).__module__.split(".")[0] not in _NOT_ENTERED
