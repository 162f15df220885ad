"""A run whose paid teacher works on a cluster of its own: `python -m tests.execution.ray_run FOLDER`."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from evolvedirector.evolution import Budget
from evolvedirector.execution.ray_cluster import RayCluster
from evolvedirector.execution.ray_placement import RayPlacement
from evolvedirector.records import ImageReply, ImageRequest
from tests.callbacks.test_evolution_resume import Run
from tests.toys import ToyTeacher

BUDGET = 24


class ServedTeacher(ToyTeacher):
    """Stands for a service without idempotency keys: it notes each request that reaches it, then answers slowly."""

    requests_in_flight = 2

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        for request in requests:
            with open(self.folder / f"{os.getpid()}.served", "a") as file:
                print(request.request_id, file=file, flush=True)
            time.sleep(0.2)
            yield from super().generate([request])


def served(folder: Path) -> int:
    return sum(len(path.read_text().split()) for path in folder.glob("*.served"))


def main(folder: Path) -> None:
    placements = {"teachers.toy": RayPlacement(replicas=1, cpus=0.5, batch_size=2, max_in_flight=1)}
    made = Run(folder, teacher=ServedTeacher(folder))
    made.evolution.__init__(  # type: ignore[misc]
        made.evolution.teachers, made.judge, made.evolution.writer, made.evolution.policy, Budget(BUDGET),
        cluster=RayCluster(placements, address=None, start_timeout_s=60),
    )  # fmt: skip
    saved = sorted(path.parent.name for path in (folder / "checkpoints").glob("*/*"))
    made.fit(saved[-1] if saved else None)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
