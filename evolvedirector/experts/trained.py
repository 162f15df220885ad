"""What of a network is trained: all of it, one LoRA, or several experts and a gate over them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from evolvedirector.errors import UserError
from evolvedirector.experts.gate import GatedLoRA
from evolvedirector.experts.lora import ADAPTER, LoRA
from evolvedirector.models.quantised import BASE_PRECISIONS, BasePrecision
from evolvedirector.records.plain_settings import settings_of

_EXPERT_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Trained:
    """Say what of a network is trained: all of it, or a LoRA beside weights that are frozen.

    What is trained is kept in float32 whatever the precision of the rest. Frozen weights are in no checkpoint,
    optimizer, average or shard: every device has all of them.

    Args:
        lora: What is trained. None: the whole network.
        base_precision: How frozen weights are kept. `bfloat16` computes what `float32` does under
            trainer.precision: bf16-mixed, which rounds them anyway. `nf4` (QLoRA, arXiv:2305.14314) and `int8`
            (arXiv:2208.07339) quantise the linear layers of the blocks through bitsandbytes: memory falls, speed too.
        experts: Names of several LoRAs of these settings, one per skill or aspect, all of one beginning; which of them
            is trained when is told by `ExpertStages`. Empty: one LoRA without a name.
        gate: Mixes experts anew for each input; trained in a stage of its own, while they are frozen. None: no gate.
        gated: The experts that it mixes. None: all.

    Raises:
        UserError: The whole network is to be trained in less than float32, or the experts cannot be.
    """

    lora: LoRA | None = None
    base_precision: BasePrecision = "float32"
    experts: Sequence[str] = ()
    gate: GatedLoRA | None = None
    gated: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.lora, Mapping):
            object.__setattr__(self, "lora", settings_of(LoRA, self.lora, "lora"))  # frozen
        if isinstance(self.gate, Mapping):
            object.__setattr__(self, "gate", settings_of(GatedLoRA, self.gate, "gate"))
        if self.base_precision not in BASE_PRECISIONS:
            raise UserError(
                f"base_precision is {self.base_precision!r}. Allowed: {', '.join(BASE_PRECISIONS)}. "
                "Write base_precision: nf4 for the least memory."
            )
        if self.base_precision == "int8" and self.lora is not None and self.lora.dora:
            raise UserError(
                "dora is true and base_precision int8. DoRA reads the weights of a layer in every step, and those of "
                "int8 layers lose their scales then. Write base_precision: nf4, or dora: false."
            )
        if self.lora is None and self.base_precision != "float32":
            raise UserError(
                f"base_precision is {self.base_precision}, but the whole network is trained (lora is null). Updates "
                "would be rounded away: only frozen weights may be kept in less than float32. Write trained: "
                "{lora: {rank: 16}, base_precision: " + self.base_precision + "}, or base_precision: float32."
            )
        self._check_experts()
        if self.gate is not None or self.gated is not None:
            self._check_gate()

    def _check_experts(self) -> None:
        if not self.experts and not isinstance(self.experts, str):
            return
        if isinstance(self.experts, str) or len(set(self.experts)) < len(self.experts):
            raise UserError(
                f"experts is {self.experts!r}. It lists names, each once. Write experts: [counting, colour], say."
            )
        for name in self.experts:
            # peft keeps adapters in module dicts, by names that must be no word of theirs; files are named so, too
            if not _EXPERT_NAME.fullmatch(name) or hasattr(nn.ModuleDict, name) or hasattr(nn.ParameterDict, name):
                raise UserError(
                    f"An expert is called {name!r}. Allowed are letters, digits, - and _, up to 64, and no word of "
                    "torch's modules. Call it by its skill or aspect: counting, say."
                )
        if self.lora is None:
            raise UserError(
                f"experts is [{', '.join(self.experts)}], but the whole network is trained (lora is null). Experts are "
                "LoRAs. Write trained: {lora: {rank: 16}, experts: [" + ", ".join(self.experts) + "]}, or leave "
                "experts out."
            )
        if self.lora.dora:
            raise UserError(
                "dora is true, and there are experts. The lengths of a DoRA's columns belong to its own directions and "
                "to no sum of several. Write dora: false."
            )

    def _check_gate(self) -> None:
        gated = self.mixed
        unknown = sorted(set(gated) - set(self.experts))
        if (
            self.gate is None
            or isinstance(self.gated, str)
            or unknown
            or len(gated) < 2
            or len(set(gated)) < len(gated)
        ):
            raise UserError(
                f"gate is {'null' if self.gate is None else 'set'} and gated {self.gated!r}, with experts "
                f"[{', '.join(self.experts)}]. A gate mixes two or more of the experts, each named once. Write gate: "
                "{kind: pooled}, gated: [two, of, them], or leave both out."
            )

    @property
    def mixed(self) -> tuple[str, ...]:
        """Names of the experts that the gate mixes."""
        return tuple(self.experts if self.gated is None else self.gated)

    @property
    def adapters(self) -> dict[str, LoRA]:
        """The adapters by name; none where the whole network is trained."""
        return {} if self.lora is None else dict.fromkeys(self.experts or (ADAPTER,), self.lora)
