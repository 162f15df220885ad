"""A checkpoint of a run that trains adapters: they, what they are, and the name of the base that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from evolvedirector.errors import UserError
from evolvedirector.experts.lora import ADAPTER, described, is_adapter
from evolvedirector.experts.trained import Trained

FULL = "the whole network"
_NAMES_BEGINNING = "seed"


def drop_base(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Leave the frozen base out of a state dict (a hook of torch); without adapters leave all in.

    Args:
        module: Holds the network.
        state: Changed in place.
        prefix: Of the module's names.
        metadata: Not read.
    """
    if any(map(is_adapter, state)):
        for name in [name for name in state if name.startswith(prefix) and not is_adapter(name)]:
            del state[name]


def miss_no_base(module: nn.Module, keys: Any) -> None:
    """Let a state dict without the frozen base count as whole (a hook of torch).

    Args:
        module: Holds the network.
        keys: What torch found missing and unexpected; changed in place.
    """
    if any(is_adapter(name) for name, _ in module.named_parameters()):
        keys.missing_keys[:] = [name for name in keys.missing_keys if is_adapter(name)]


def saved_form(trained: Trained, targets: Sequence[str], base: str, digest: str) -> dict[str, Any] | None:
    """Return what a checkpoint says of adapters and their base; None where the whole network is trained.

    Args:
        trained: What is trained.
        targets: Of adapters that name none.
        base: What the base is called.
        digest: Of its weights.
    """
    if not trained.adapters:
        return None
    return {
        "base": base,
        "base_digest": digest,
        "base_precision": trained.base_precision,
        "adapters": described(trained.adapters, targets),
        **({} if trained.gate is None else {"gate": {**asdict(trained.gate), "gated": list(trained.mixed)}}),
    }


def check_adapters(own: Mapping[str, Any] | None, saved: Mapping[str, Any] | None, trains: bool) -> None:
    """Refuse a checkpoint of other adapters, or of the same ones beside another base.

    Args:
        own: This run's, with `base`, `base_digest`, `base_precision` and `adapters`; None: it trains the whole network.
        saved: The checkpoint's.
        trains: Training goes on: what names a beginning, and how the base is kept, must be the same, too.

    Raises:
        UserError: Names the first difference.
    """
    if own is None or saved is None:
        if own is not saved:
            here, there = (FULL if part is None else "a LoRA" for part in (own, saved))
            wanted = "trained: null" if saved is None else f"trained: {_trained(saved['adapters'])}"
            raise UserError(
                f"This run trains {here}, but the checkpoint holds {there}. A checkpoint goes with what was trained. "
                f"Write model.init_args.{wanted}, or start without checkpoint."
            )
        return
    _check_base(own, saved)
    if trains and own["base_precision"] != saved["base_precision"]:
        raise UserError(
            f"base_precision is {own['base_precision']}, but the checkpoint's LoRA is trained beside a base in "
            f"{saved['base_precision']}. Training goes on only beside the same. Write base_precision: "
            f"{saved['base_precision']}, or start a new run (without --ckpt_path)."
        )
    if own["adapters"].keys() != saved["adapters"].keys():
        raise UserError(
            f"This run has the adapters {_list(own['adapters'])}, the checkpoint {_list(saved['adapters'])}. Both must "
            f"be the same. Write model.init_args.trained: {_trained(saved['adapters'])}, or start without checkpoint."
        )
    if own.get("gate") != saved.get("gate"):
        here, there = ("none" if part.get("gate") is None else str(part["gate"]) for part in (own, saved))
        raise UserError(
            f"The gate of this run is {here}, that of the checkpoint {there}. It lies in the weights, so both must be "
            "the same. Write model.init_args.trained.gate and gated as the checkpoint has them, or start without it."
        )
    for name, adapter in own["adapters"].items():
        for setting, value in adapter.items():
            found = saved["adapters"][name].get(setting, value)
            if value != found and (trains or setting != _NAMES_BEGINNING):
                raise UserError(
                    f"{setting} of the LoRA is {_shown(value)}, but the checkpoint's has {_shown(found)}. Its weights "
                    f"fit no other. Write {setting}: {_shown(found)}, or start without checkpoint."
                )


def _check_base(own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    if own["base_digest"] != saved["base_digest"] and own["base_digest"]:
        raise UserError(
            f"The base of this run is {own['base']} ({own['base_digest']}), but the checkpoint's LoRA was trained "
            f"beside {saved['base']} ({saved['base_digest']}). Beside other weights it means nothing. Configure that "
            "base, or start without checkpoint."
        )


def _trained(adapters: Mapping[str, Any]) -> str:
    lora = _written(next(iter(adapters.values())))
    experts = "" if list(adapters) == [ADAPTER] else f", experts: [{_list(adapters)}]"
    return f"{{lora: {lora}{experts}}}"


def _written(adapter: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {_shown(value)}" for name, value in adapter.items()) + "}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return (
        f"[{', '.join(map(str, value))}]"
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _list(names: Mapping[str, Any]) -> str:
    return ", ".join(names)
