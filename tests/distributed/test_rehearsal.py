"""The rehearsal on two CPU processes, replicated and sharded: nothing of it is left on any rank."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import hashlib, json, os, sys
from pathlib import Path
import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from evolvedirector.callbacks import EMA, CpuThreads, EvolutionCallback, RunCheckpoint
from evolvedirector.callbacks._run import rehearsal
from evolvedirector.callbacks.ema import local, trainable
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evolution import Budget
from evolvedirector.lightning_modules import FlowMatching, PixArt, RandomTextEncoder, ShardedStrategy, TextToImage
from tests.toys import ToyJudge, ToyPrompts, ToyTeacher, ToyWriter

folder = Path(sys.argv[1])

def fit(name, strategy, rehearse, steps, ckpt=None):
    pl.seed_everything(1)
    module = TextToImage(
        PixArt(RandomTextEncoder(8), 8, text_length=4, patch_size=4, layers=1, heads=2, head_dim=4),
        FlowMatching(prediction="x0"), 8, sampling_steps=1, generation_chunk_size=2,
    )
    data = EvolvingDataModule(folder / "data", ToyPrompts(6), None, 4, 3, 8)
    evolution = EvolutionCallback(
        {"toy": ToyTeacher()}, ToyJudge(), ToyWriter(), budget=Budget(40), max_rounds=0, rehearse=rehearse
    )
    trainer = pl.Trainer(
        default_root_dir=folder / name, accelerator="cpu", devices=2, strategy=strategy, max_steps=steps, logger=False,
        reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False, gradient_clip_val=1.0,
        accumulate_grad_batches=2, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[CpuThreads(1), EMA(0.5), evolution, RunCheckpoint()],
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt)
    weights = torch.cat([part.flatten() for part in local(trainable(module))])
    average = torch.cat([part.flatten() for part in local(trainer.callbacks[1]._average)])
    said = [hashlib.sha256(t.detach().numpy().tobytes()).hexdigest() for t in (weights, average, torch.get_rng_state())]
    return said, module.images_seen

taken = []
step = rehearsal.trial_step
rehearsal.trial_step = lambda *args: taken.append(1) or step(*args)
found = {}
for kind, strategy in (("ddp", DDPStrategy), ("sharded", ShardedStrategy)):
    ways = [fit(f"{kind}-{rehearse}", strategy(), rehearse, 4) for rehearse in (True, False)]
    ckpt = folder / f"{kind}-False/checkpoints/step-00000004/state.ckpt"
    again = [fit(f"{kind}-again-{rehearse}", strategy(), rehearse, 6, ckpt) for rehearse in (True, False)]
    found[kind] = [*ways, *again]
left = [path.name for path in folder.glob("*/checkpoints/*rehearsal*")]
rank = torch.distributed.get_rank()
(folder / f"rank{rank}.json").write_text(json.dumps({"found": found, "taken": len(taken), "left": left}))
torch.distributed.destroy_process_group()
os._exit(0)  # the module is still there and holds its group, of which a thread may be at work
"""


@pytest.mark.slow
def test_two_ranks_train_alike_with_and_without_it(tmp_path: Path) -> None:
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", str(script),
         str(tmp_path)],
        capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    for rank in (0, 1):
        said = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert said["taken"] == 4 and said["left"] == []
        for first, second, *again in said["found"].values():
            assert first == second
            assert again[0] == again[1] != first
