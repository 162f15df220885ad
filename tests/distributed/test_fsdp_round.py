"""A round with a sharded student on CPU processes: all ranks render, and training goes on after it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from evolvedirector.callbacks.checkpoint import is_whole

SCRIPT = """
import json, os, sys
from pathlib import Path
import lightning.pytorch as pl
import torch
from evolvedirector.callbacks import EMA, EvolutionCallback, RunCheckpoint, RunSummary
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evolution import Budget
from evolvedirector.lightning_modules import FlowMatching, PixArt, RandomTextEncoder, ShardedStrategy, TextToImage
from evolvedirector.worlds.shapes import MiniatureJudge, MiniaturePrompts, MiniatureTeacher, MiniatureWriter

folder = Path(sys.argv[1])
module = TextToImage(
    PixArt(RandomTextEncoder(16), 32, text_length=12, patch_size=8, layers=2, heads=2, head_dim=16),
    FlowMatching(prediction="x0"), 32, sampling_steps=2, generation_chunk_size=4,
)
drawn, read = [], []
generate = module.generate
module.generate = lambda requests: drawn.append(len(requests)) or generate(requests)
data = EvolvingDataModule(folder / "data", seeds=MiniaturePrompts(count=10), global_batch_size=8, batches_per_epoch=3)
evolution = EvolutionCallback(
    {"exact": MiniatureTeacher()}, MiniatureJudge(), MiniatureWriter(), budget=Budget(budget_teacher_calls=30),
    mode=sys.argv[2],
)


class Reads(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        read.append(data.revision_sha)


trainer = pl.Trainer(
    default_root_dir=folder, accelerator="cpu", devices=int(os.environ["WORLD_SIZE"]),
    strategy=ShardedStrategy(replicas=int(sys.argv[3])), max_epochs=4, logger=False,
    reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False, gradient_clip_val=1.0,
    enable_progress_bar=False, enable_model_summary=False, 
    callbacks=[EMA(), evolution, RunSummary(), RunCheckpoint(asynchronous=sys.argv[3] != "1"), Reads()],
)
trainer.fit(module, datamodule=data)
report = {"drawn": drawn, "steps": trainer.global_step, "revisions": read}
(folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(report))
torch.distributed.destroy_process_group()
os._exit(0)  # the module is still there and holds its group, of which a thread may be at work
"""


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "rounds"), [("between_epochs", 3), ("background", 2)])
def test_both_ranks_render_and_training_goes_on(tmp_path: Path, mode: str, rounds: int) -> None:
    hold_rounds(tmp_path, mode, rounds, ranks=2, replicas=1)


@pytest.mark.crash
def test_ranks_of_replicas_render_and_training_goes_on(tmp_path: Path) -> None:
    hold_rounds(tmp_path, "between_epochs", 3, ranks=4, replicas=2)
    saved = [path.name for path in (tmp_path / "checkpoints").iterdir() if is_whole(path)]  # beside training, too
    assert sorted(saved) == ["step-00000009", "step-00000012"] == sorted(os.listdir(tmp_path / "checkpoints"))


def hold_rounds(tmp_path: Path, mode: str, rounds: int, ranks: int, replicas: int) -> None:
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}", f"--master_port={port}"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path), mode, str(replicas)],
        capture_output=True, text=True, timeout=250, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    first, *others = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(ranks)]
    assert all(other == first for other in others) and sum(first["drawn"]) > 0
    assert first["steps"] == 12 and len(set(first["revisions"])) == rounds + 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["rounds"] == rounds and summary["teacher_calls"] > 10
