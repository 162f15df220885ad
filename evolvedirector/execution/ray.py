"""A round's work on a Ray cluster, as far as its parts are placed there."""

from __future__ import annotations

from evolvedirector.execution.pool import PoolExecutor


class RayExecutor(PoolExecutor):
    """Carry requests to replicas on a Ray cluster (`RayPool`), and all others to another executor."""
