"""Parts on a Ray cluster: how many replicas of each, on what, and the actors that hold them."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from evolvedirector.errors import UserError
from evolvedirector.execution.executor import Executor, Phase
from evolvedirector.execution.pool import place_key
from evolvedirector.execution.ray_placement import RayPlacement
from evolvedirector.records.part import Part, close_parts
from evolvedirector.records.plain_settings import settings_of

if TYPE_CHECKING:
    from evolvedirector.execution.ray_pool import RayPool

_INSTALL = "pip install 'evolvedirector[ray]'"
_KNOCK_S = 10.0


class RayCluster:
    """Let judge, writer, teachers or rewards of a round work in actors of a Ray cluster, which keep their models.

    What is not named here works where it always does; the student always stays with the trainer. Every node has the
    same packages and environment variables (keys are read there). The driver stays the only writer of the ledger:
    requests are reserved there before they leave, and a lost replica costs what it had open and no more.

    Example:
        ```yaml
        cluster:
          class_path: evolvedirector.execution.ray_cluster.RayCluster
          init_args:
            address: auto
            placements:
              judge: {replicas: 4, gpus: 1, batch_size: 16}
              teachers.flux: {replicas: 8, gpus: 1, batch_size: 4}
        ```
    """

    def __init__(
        self,
        placements: dict[str, RayPlacement],
        address: str | None = "auto",
        start_timeout_s: float = 900.0,
    ) -> None:
        """Describe the cluster; nothing is connected or started before a part is asked.

        Args:
            placements: By the place where the part is written: `judge`, `writer`, `teachers.NAME`, `rewards.NAME`, or
                `pairs.builder.draft` and the like.
            address: Of the cluster: `auto` (the one that this machine belongs to), `ray://host:10001`, `host:6379`.
                None: a cluster of this machine alone is started, and ended with the run.
            start_timeout_s: How long to wait for the first replica of a part, while a cluster grows, say.

        Raises:
            UserError: No part, or the student, is named.
        """
        if not placements or "student" in placements:
            what = "names the student" if placements else "is empty"
            raise UserError(
                f"placements {what}. Parts beside the student can work on a cluster. Write `placements: {{judge: "
                "{replicas: 2}}`."
            )
        self.placements = {n: settings_of(RayPlacement, p, f"placements.{n}") for n, p in placements.items()}
        self.address = address
        self.start_timeout_s = start_timeout_s
        self._pools: dict[str, RayPool] = {}
        self._connected = False

    @property
    def placed(self) -> frozenset[str]:
        """The places of the parts that work on the cluster."""
        return frozenset(self.placements)

    def verify(self) -> None:
        """Refuse a cluster that cannot be reached.

        Raises:
            UserError: Ray is not installed, or nothing answers at the address.
        """
        if importlib.util.find_spec("ray") is None:
            raise UserError(
                f"RayCluster needs Ray, which is not installed. Version 2.50 or newer works. Run {_INSTALL}."
            )
        self._connect()

    def over(self, inner: Executor, place_of: Callable[[Part], tuple[Phase, str]]) -> Executor:
        """Return an executor that carries requests to the cluster for parts that are placed there.

        Args:
            inner: Carries all other requests.
            place_of: Returns phase and name of a part.
        """
        from evolvedirector.execution.ray import RayExecutor

        return RayExecutor(inner, place_of, self.pool_of)

    def pool_of(self, place: tuple[Phase, str], part: Part) -> RayPool | None:
        """Return the replicas of a part, started at the first call; None where it is not placed here.

        Args:
            place: Phase and name.
            part: Pickled without its models, which load where it works.
        """
        from evolvedirector.execution.ray_pool import RayPool

        key = place_key(place)
        placement = self.placements.get(key or "")
        if key is None or placement is None:
            return None
        if key not in self._pools:
            self._connect()
            close_parts(part)
            self._pools[key] = RayPool(key, part, placement, self.start_timeout_s)
        return self._pools[key]

    def close(self) -> None:
        """End the actors, and the cluster where this process started it."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        if self._connected:
            import ray

            ray.shutdown()
            self._connected = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave actors and connection behind."""
        return {**self.__dict__, "_pools": {}, "_connected": False}

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own: dict[str, Any] = {} if self.address else {"include_dashboard": False}
        try:
            _knock(self.address)
            ray.init(address=self.address or "local", log_to_driver=False, configure_logging=False, **own)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"No Ray cluster answers at {self.address!r} ({' '.join(str(error).split())[:200]}). Allowed is the "
                "address of one that runs. Start it with `ray start --head`, or write `address: null` for this machine "
                "alone."
            ) from error
        self._connected = True


def _knock(address: str | None) -> None:
    """Raise where nobody listens at an address with a port: Ray itself would wait for minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
