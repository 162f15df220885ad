"""Run a script in one process, or in several ranks under torchrun, on one thread each."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

TIMEOUT_S = 280


def accelerators(ranks: int) -> list[Any]:
    """Return what to run the same test on: CPU processes, and, under the mark `gpu`, one GPU for each rank.

    Args:
        ranks: Processes.
    """
    too_few = pytest.mark.skipif(torch.cuda.device_count() < ranks, reason=f"needs {ranks} CUDA devices")
    return ["cpu", pytest.param("gpu", marks=[pytest.mark.gpu, too_few])]


def end(code: int = 0) -> NoReturn:
    """End a rank that is done, as its last act.

    A sharded module holds its group even when it was left; a thread of it that is at work while the interpreter ends
    aborts the process.

    Args:
        code: Exit code.
    """
    atexit._run_exitfuncs()  # what was measured is written
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def launch(script: Path, *words: object, ranks: int = 1) -> None:
    """Run it to its end.

    Args:
        script: A Python file.
        words: Its arguments.
        ranks: Processes. 1: without torchrun, so that there is no process group.

    Raises:
        AssertionError: It failed; says what it printed last.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *torchrun, str(script), *map(str, words)],
        timeout=TIMEOUT_S, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
