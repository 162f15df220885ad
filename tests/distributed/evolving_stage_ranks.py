"""Train experts for skills that rounds see fail, in one or two processes, and write what came out: run by the tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from evolvedirector.execution.ranks import leaving_process_group
from evolvedirector.lightning_modules import ShardedStrategy
from tests.callbacks.failing_toys import run
from tests.distributed.stage_ranks import full


def main(strategy: str, root: Path, folder: Path, checkpoint: str) -> None:
    torch.set_num_threads(1)
    strategies: dict[str, Any] = {"single": "auto", "ddp": "ddp_find_unused_parameters_true", "fsdp": ShardedStrategy()}
    made = run(
        folder, root, strategy=strategies[strategy], devices=1 if strategy == "single" else 2,
        use_distributed_sampler=False,
    )  # fmt: skip
    made.fit(None if checkpoint == "-" else checkpoint)
    weights = {name: full(part) for name, part in made.module.named_parameters() if part.requires_grad}
    drawn: Any = made.drawn  # type: ignore[attr-defined]
    if made.trainer.is_global_zero:
        torch.save(weights, folder / "result.pt")
        skills = {step: sorted(seen[0]) for step, seen in made.module.seen.items()}
        (folder / "seen.json").write_text(json.dumps({"skills": skills, "drew with": dict(drawn)}))


if __name__ == "__main__":
    with leaving_process_group():
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
