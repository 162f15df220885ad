"""A stock LightningCLI project with its own module, data and `callbacks` folder uses our callback by class path."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evolvedirector.store import DatasetStore, RevisionFiles

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parent / "project"


def fit(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "main.py", "fit", "-c", "config.yaml", *more]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_rounds_run_in_a_project_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    done = fit(folder, "--trainer.default_root_dir", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "counted 9 steps" in done.stdout  # its own callbacks package was imported, not ours
    read = [line for line in done.stdout.splitlines() if line.startswith("reading revision")]
    assert [line.split()[2] for line in read] == ["2", "3", "4"]  # the seeds' images, then one revision per round
    with DatasetStore(folder / "runs" / "data") as store:
        assert [row.global_step for row in store.ledger.rounds.all()] == [3, 6]
        assert all(row.child_sha for row in store.ledger.rounds.all())
    assert RevisionFiles(folder / "runs" / "data").current()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--trainer.reload_dataloaders_every_n_epochs", "0"], "reload_dataloaders_every_n_epochs: 1"),
    ],
)
def test_a_refusal_ends_with_the_line_to_write(tmp_path: Path, flags: list[str], line: str) -> None:
    folder = tmp_path / "project"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    done = fit(folder, *flags)
    assert done.returncode != 0
    assert line in done.stderr
    assert not (folder / "runs" / "data" / "blobs").exists()  # refused before anything was bought
