"""Muon for the matrices inside the blocks, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from evolvedirector.errors import UserError

NOT_MATRICES = ("embed", "norm", "table", "proj_in", "proj_out", "caption_projection", "adaln", "modulation")


@dataclass(frozen=True)
class Muon:
    """Train weight matrices by orthogonalised momentum, everything else by AdamW.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the
    nearest orthogonal one. Only parameters of two dimensions are matrices, and of those the ones that map in or out of
    the network, tables and what modulates norms go to AdamW, too. Steps are scaled to the size of AdamW's (Liu et al.
    2025, arXiv:2502.16982, eq. 4), so that one learning rate serves both.

    Args:
        lr: Learning rate of both.
        weight_decay: Decoupled weight decay of both.
        momentum: Of Muon.
        betas: Of AdamW.
        eps: Of AdamW.
        adamw_names: A matrix with one of these in its name is trained by AdamW.

    Example:
        ```yaml
        optimizer:
          class_path: evolvedirector.lightning_modules.Muon
          init_args: {lr: 1.0e-3}
        ```
    """

    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    adamw_names: Sequence[str] = NOT_MATRICES

    def from_named(self, parameters: Sequence[tuple[str, nn.Parameter]]) -> Optimizer:
        """Make the optimizer.

        Raises:
            UserError: No parameter is a matrix for Muon.
        """
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in parameters:
            by_adamw = parameter.ndim != 2 or any(word in name for word in self.adamw_names)
            (others if by_adamw else matrices).append(parameter)
        if not matrices:
            raise UserError(
                f"Muon finds no matrix among {len(parameters)} trained parameters: it takes those of two dimensions "
                f"whose names hold none of adamw_names. Write optimizer: torch.optim.AdamW, or fewer adamw_names."
            )
        return MuonWithAdamW(matrices, others, self)


class MuonWithAdamW(Optimizer):
    """Step two groups of parameters, each by its own rule of torch, as one optimizer with one state.

    Args:
        matrices: Parameters of two dimensions, stepped by Muon.
        others: Stepped by AdamW; may be empty.
        settings: Of both.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], others: Sequence[nn.Parameter], settings: Muon) -> None:
        made: list[Optimizer] = [
            torch.optim.Muon(
                matrices,
                lr=settings.lr,
                weight_decay=settings.weight_decay,
                momentum=settings.momentum,
                adjust_lr_fn="match_rms_adamw",
            )
        ]
        if others:
            made.append(
                torch.optim.AdamW(others, settings.lr, settings.betas, settings.eps, weight_decay=settings.weight_decay)
            )
        self._rules = made
        self._values = sum(part.numel() for part in matrices), sum(part.numel() for part in others)
        super().__init__([group for rule in made for group in rule.param_groups], {})

    def bytes_per_value(self) -> float:
        """Return the bytes of state per trained value: one fp32 momentum for matrices, two moments for the others."""
        matrices, others = self._values
        return (4 * matrices + 8 * others) / (matrices + others)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step by both rules."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for rule, group in zip(self._rules, self.param_groups, strict=True):
            rule.param_groups, rule.state = [group], self.state  # both are new objects once a checkpoint was read
            rule.step()
        return loss
