"""The recipe of evolving pairs runs as it is, with smaller numbers, and its report tells the rounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest
import yaml

import evolvedirector.configs
from evolvedirector.cli import main
from evolvedirector.store import DatasetStore

RECIPE = evolvedirector.configs.path() / "experiment" / "evolving_pairs.yaml"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*", "ignore:.*logging interval.*"),
]


def shrunk(recipe: dict[str, Any]) -> dict[str, Any]:
    """Keep everything but the numbers: two rounds of few pairs and looks."""
    model, data, trainer = recipe["model"]["init_args"], recipe["data"]["init_args"], recipe["trainer"]
    model["lr_scheduler"]["init_args"] |= {"total_steps": 6, "warmup_steps": 1}
    model |= {"sampling_steps": 2, "generation_chunk_size": 6}
    data |= {"root": "run/data", "global_batch_size": 4, "batches_per_epoch": 2, "generation_chunk_size": 6}
    trainer |= {"default_root_dir": "run", "max_steps": 6}
    (evolution,) = [c for c in trainer["callbacks"] if c["class_path"].endswith(".EvolutionCallback")]
    evolution["init_args"]["pairs"]["init_args"] |= {"pairs_per_round": 12, "looks_per_round": 6}
    return recipe


def test_it_runs_and_tells_its_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    recipe = shrunk(yaml.safe_load(RECIPE.read_text(encoding="utf-8").replace("${trainer.default_root_dir}", "run")))
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert main(["fit", "-c", "recipe.yaml"]) in (None, 0)
    with DatasetStore("run/data") as store:
        first, second = store.ledger.rounds.all()
    assert sum(first.figures.pairs["asked"].values()) == sum(second.figures.pairs["asked"].values()) == 12
    assert sum(second.figures.screened.values()) == 6
    assert json.loads(Path("run/summary.json").read_text())["rounds"] == 2
    page = Path("run/report/index.html").read_text(encoding="utf-8")
    assert "drawings of subjects that are never trained on" in page and "Asked of the builder" in page
