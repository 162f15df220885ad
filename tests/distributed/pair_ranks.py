"""Train with rounds over subject pairs on one or two processes and write what came out: run by the tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from evolvedirector.execution.ranks import leaving_process_group
from tests.pairs.evolving_toys import Run


def main(folder: Path, ranks: int) -> None:
    torch.set_num_threads(1)
    run = Run(folder, fails={"texture"}, devices=ranks, strategy="ddp" if ranks > 1 else "auto").fit()
    rank = run.trainer.global_rank
    found = {"revision": run.data.revision_sha, "weight": run.student.weight.item(), "drawn": len(run.student.drawn)}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    with leaving_process_group():
        main(Path(sys.argv[1]), int(sys.argv[2]))
