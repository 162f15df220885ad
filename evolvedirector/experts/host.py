"""What stages need of the project that hosts them: a module that holds experts, data that can be cut into subsets."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from evolvedirector.experts.network_experts import NetworkExperts
from evolvedirector.experts.trained import Trained
from evolvedirector.records.subset import Subset


@runtime_checkable
class HoldsExperts(Protocol):
    """A module whose network has several experts."""

    trained: Trained
    """Names them, and the gate over them."""

    def experts(self) -> NetworkExperts:
        """Return them; the network is there by then."""
        ...


@runtime_checkable
class TrainsOnSubsets(Protocol):
    """A datamodule that can train on some of its samples."""

    def train_on(self, subset: Subset | None) -> Any:
        """Let the epoch of which nothing was read yet train on these, from their first batch on; None: all."""
        ...

    def check_subset(self, subset: Subset) -> Any:
        """Raise where there is no sample of it."""
        ...
