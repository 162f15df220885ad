"""How a part of a round is spread over a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evolvedirector.errors import UserError


@dataclass(frozen=True, slots=True)
class RayPlacement:
    """Say how a part is spread over a cluster.

    Args:
        replicas: Actors, each with a copy of the part; a cluster that grows by itself grows for them.
        gpus: GPUs of each; a part of one may share it: 0.5.
        cpus: Cores that each reserves.
        batch_size: Requests that a replica is handed at once; replies come back one by one.
        max_in_flight: Batches that a replica has at most, the one it works on included: no more requests than these
            are open, so that is all that a lost replica costs.
        resources: Further resources of the cluster that each needs, by name.

    Raises:
        UserError: A number is out of range.
    """

    replicas: int = 1
    gpus: float = 0.0
    cpus: float = 1.0
    batch_size: int = 8
    max_in_flight: int = 2
    resources: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name in ("replicas", "batch_size", "max_in_flight"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of a placement is {getattr(self, name)}. It must be at least 1. Leave it out.")
        for name in ("gpus", "cpus"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} of a placement is {getattr(self, name)}. It must be 0 or more. Leave it out.")
