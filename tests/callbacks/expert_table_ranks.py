"""Make the table of a toy student's experts in one or two processes; run by the tests, not collected."""

from __future__ import annotations

import sys
from pathlib import Path

from evolvedirector.callbacks import ExpertTable
from evolvedirector.experts.gate import GatedLoRA, install_gates
from tests.callbacks.expert_toys import CHANGES, Data, Painter, evaluators, trainer_of, write_experts


def main(folder: Path, ranks: int) -> None:
    painter, scores = Painter(), evaluators()
    install_gates(painter.network, list(CHANGES), GatedLoRA("token"))
    strategy = "ddp_find_unused_parameters_true" if ranks > 1 else "auto"
    trainer = trainer_of(folder, ExpertTable(scores), devices=ranks, strategy=strategy, use_distributed_sampler=False)
    trainer.fit(painter, datamodule=Data())
    (folder / f"rank{trainer.global_rank}.txt").write_text(f"{painter.asked} {scores['red'].scored}")


if __name__ == "__main__":
    where, count = Path(sys.argv[1]), int(sys.argv[2])
    if not (where / "experts").exists():
        write_experts(where)
    main(where, count)
