"""LoRA: what is trained where the weights of a network stay as they are."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.models.import_diffusers import import_diffusers, without_bitsandbytes
from evolvedirector.models.quantised import is_quantised

ADAPTER = "default"
"""Name of the only adapter where nobody names several."""
GATE = "gate_router"
"""Name of the gate over several adapters, beside them in its layer (`experts.gate`)."""
_SAMPLED_VALUES = 64
_ADAPTED = (nn.Linear, nn.Conv2d)


@dataclass(frozen=True)
class LoRA:
    """Adapt linear layers by a product of two thin matrices: y = W x + (alpha / rank) B A x (arXiv:2106.09685, eq. 3).

    W stays as it is. B begins at zero, so that an untrained adapter changes nothing.

    Args:
        rank: Rows of A and columns of B.
        alpha: Scale of the adapter, divided by the rank. None: equal to the rank, a scale of 1.
        targets: Layers that are adapted, by the ends of their names. None: those that the family names.
        dora: Train the length of each column of W beside its direction (DoRA, arXiv:2402.09353); costs memory and time.
        seed: Names the initial A. Adapters of one seed begin alike, which averages of their factors need.

    Raises:
        UserError: A number is out of range, or the list of targets is empty.
    """

    rank: int = 16
    alpha: float | None = None
    targets: Sequence[str] | None = None
    dora: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or (self.alpha is not None and not 0 < self.alpha < math.inf):
            raise UserError(
                f"rank of a LoRA is {self.rank} and alpha {self.alpha}. Allowed: a rank from 1 up, a finite "
                "alpha above 0 or null. Write rank: 16, alpha: 16."
            )
        if self.targets is not None and (isinstance(self.targets, str) or not self.targets):
            raise UserError(
                f"targets of a LoRA is {self.targets!r}. It lists the ends of names of layers. Write targets: [to_q, "
                "to_k, to_v, to_out.0], or null for those of the family."
            )

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank


def inject(network: nn.Module, adapters: Mapping[str, LoRA], active: str, targets: Sequence[str]) -> None:
    """Put adapters beside layers of a network and freeze everything else; call it before the network is sharded.

    A layer keeps its weights under `base_layer`. Adapters are float32 whatever the layers are.

    Args:
        network: Changed in place.
        adapters: By name.
        active: Name of the one that works and is trained; the others wait, frozen.
        targets: Ends of names of the adapted layers, for adapters that name none.

    Raises:
        UserError: A target matches no layer.
    """
    import_diffusers()
    import peft

    for name, lora in adapters.items():
        wanted = list(targets if lora.targets is None else lora.targets)
        check_targets(network, wanted)
        config = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.rank if lora.alpha is None else cast(int, lora.alpha),
            target_modules=wanted,
            use_dora=lora.dora,
        )
        unquantised = nullcontext() if is_quantised(network) else without_bitsandbytes()
        with unquantised, torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")  # of the adapter before
            peft.inject_adapter_in_model(config, network, name)
        _begin(network, name, lora.seed)
    activate(network, active)


def activate(network: nn.Module, adapter: str) -> None:
    """Let one adapter work and be trained; the others wait, frozen.

    Args:
        network: With adapters.
        adapter: Name of the one.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter(adapter)


def weigh(network: nn.Module, weights: Mapping[str, float]) -> None:
    """Let adapters work together: y = W x + sum_i w_i (alpha / rank) B_i A_i x, their product mean where the sum is 1.

    What is trained or frozen stays so. Adapters without weight take no part, and get no gradient.

    Args:
        network: With adapters.
        weights: By adapter. Empty: the base alone works.
    """
    with keeping_trained(network):
        for layer in _lora_layers(network):
            layer.enable_adapters(bool(weights))
            if weights:
                layer.set_adapter(list(weights))
            for name in layer.scaling:
                layer.set_scale(name, weights.get(name, 1.0))


@contextmanager
def keeping_trained(network: nn.Module) -> Iterator[None]:
    """Let what is trained stay so inside of the block: peft freezes the adapters that do not work.

    Args:
        network: With adapters.
    """
    trained = [part for name, part in network.named_parameters() if is_adapter(name) and part.requires_grad]
    yield
    for part in trained:
        part.requires_grad_(True)


def _lora_layers(network: nn.Module) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [part for part in network.modules() if isinstance(part, LoraLayer)]


def train_all(network: nn.Module) -> None:
    """Let every adapter be trained, whether it works now or later.

    Args:
        network: With adapters, not yet sharded.
    """
    for name, part in network.named_parameters():
        if is_adapter(name):
            part.requires_grad_(True)


def is_adapter(name: str) -> bool:
    """Say whether a tensor belongs to an adapter (peft's names of its parts begin with `lora_`) or to a gate.

    Args:
        name: Of the tensor in its network.
    """
    return any(part.startswith("lora_") or part == GATE for part in name.split("."))


def adapter_of(name: str) -> str | None:
    """Return which adapter a tensor belongs to; None: to none.

    Args:
        name: Of the tensor, in its network or in a module around it.
    """
    parts = name.split(".")
    place = next((number for number, part in enumerate(parts) if part.startswith("lora_")), None)
    return None if place is None else parts[place + 1]


def check_targets(network: nn.Module, targets: Sequence[str]) -> None:
    """Refuse targets that match no layer which can be adapted.

    Args:
        network: Without or with adapters.
        targets: Ends of names.

    Raises:
        UserError: One matches nothing; with the names that would match.
    """
    names = [name.removesuffix(".base_layer") for name, part in network.named_modules() if isinstance(part, _ADAPTED)]
    names = [name for name in names if not is_adapter(name)]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            raise UserError(
                f"LoRA target {target!r} matches no linear layer of {type(network).__name__}, and would train nothing. "
                f"Allowed are ends of names: {', '.join(_endings(names))}. Write targets: null for those of the family."
            )


def described(adapters: Mapping[str, LoRA], targets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return adapters as plain values, for a checkpoint.

    Args:
        adapters: By name.
        targets: Of adapters that name none.
    """
    return {
        name: asdict(lora)
        | {"alpha": float(lora.scale * lora.rank), "targets": sorted(targets if lora.targets is None else lora.targets)}
        for name, lora in adapters.items()
    }


def base_digest(network: nn.Module) -> str:
    """Name the weights of a network by names, shapes and a sample of values; other weights differ nearly everywhere.

    Args:
        network: Before adapters are put into it. On the device `meta` there are no values, and the name is empty.
    """
    hashed = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        if tensor.is_meta:
            return ""
        hashed.update(f"{name}{tuple(tensor.shape)}".encode())
        hashed.update(_sampled(tensor).numpy().tobytes())
    return hashed.hexdigest()[:12]


def _sampled(tensor: Tensor) -> Tensor:
    values = tensor.detach().flatten()
    return values[:: max(1, values.numel() // _SAMPLED_VALUES)][:_SAMPLED_VALUES].double().cpu()


def _endings(names: Sequence[str], most: int = 12) -> list[str]:
    """List the distinct ends of names: the last word, or two where the last is a number."""
    parts = (name.split(".") for name in names)
    found = list(dict.fromkeys(".".join(part[-2:] if part[-1].isdigit() else part[-1:]) for part in parts))
    return [*found[:most], "..."] if len(found) > most else found


@torch.no_grad()
def _begin(network: nn.Module, adapter: str, seed: int) -> None:
    """Draw A as peft does (Kaiming), but in float32 and on the CPU: one seed, one beginning beside any base."""
    from peft.tuners.lora import LoraLayer

    generator = torch.Generator("cpu").manual_seed(seed)
    for name, parameter in network.named_parameters():
        if is_adapter(name) and f".{adapter}." in f"{name}.":
            parameter.data = parameter.data.float()  # peft gives it the type of the layer
    for module in network.modules():
        if isinstance(module, LoraLayer) and adapter in module.lora_A:
            weight = cast(nn.Linear, module.lora_A[adapter]).weight
            drawn = torch.empty(weight.shape, device="cpu")
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            weight.copy_(drawn)
