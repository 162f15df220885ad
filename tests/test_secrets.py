"""A whole run with a key, then every byte it produced is searched: the key is nowhere."""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest

from evolvedirector.cli import main
from tests.chaos.script import Script, always
from tests.chaos.server import ChaosServer

CANARY = "canary-4be1d70c9f/Zk+3q"
SPELLINGS = (CANARY, "canary-4be1d70c9f%2FZk%2B3q", "canary-4be1d70c9f")
RUN = """
seed_everything: 0
model:
  class_path: evolvedirector.lightning_modules.TextToImage
  init_args:
    family:
      class_path: evolvedirector.lightning_modules.PixArt
      init_args:
        text_encoder: {class_path: evolvedirector.lightning_modules.RandomTextEncoder}
        text_length: 8
        sample_size: 16
        patch_size: 8
        layers: 1
        heads: 1
        head_dim: 16
    objective: {class_path: evolvedirector.lightning_modules.FlowMatching}
    image_size_px: 16
    sampling_steps: 1
    generation_chunk_size: 4
data:
  class_path: evolvedirector.datamodules.EvolvingDataModule
  init_args: {root: run/data, seeds: prompts.txt, global_batch_size: 4, batches_per_epoch: 2, image_size_px: 16}
trainer:
  default_root_dir: run
  accelerator: cpu
  max_steps: 4
  reload_dataloaders_every_n_epochs: 1
  use_distributed_sampler: false
  num_sanity_val_steps: 0
  log_every_n_steps: 1
  logger:
    class_path: lightning.pytorch.loggers.TensorBoardLogger
    init_args: {save_dir: run, name: logs}
  callbacks:
    - class_path: evolvedirector.callbacks.EvolutionCallback
      init_args:
        teachers: {web: TEACHER}
        judge_health: false  # most of what this server says is no answer, and the run is to go on
        judge:
          class_path: evolvedirector.judges.openai_vision_judge.OpenAIVisionJudge
          init_args: {endpoint: {base_url: URL/v1, LIMITS}, model: toy-vlm, image_size_px: 32, cost_usd_per_look: 0.001}
        writer: {class_path: evolvedirector.worlds.shapes.MiniatureWriter}
        budget: {budget_teacher_calls: 12, budget_cost_usd: 1.0, price_per_look_usd: 0.0001}
    - class_path: evolvedirector.callbacks.RunSummary
    - class_path: evolvedirector.callbacks.ReportCallback
    - class_path: evolvedirector.callbacks.RunCheckpoint
"""
LIMITS = "api_key_env: CANARY_API_KEY, attempts: 2, deadline_s: 10"
SYNCHRONOUS = """{class_path: evolvedirector.teachers.OpenAIImagesTeacher,
          init_args: {endpoint: {base_url: URL/v1, LIMITS}, model: toy-image, cost_usd_per_image: 0.01}}"""
QUEUED = """{class_path: evolvedirector.teachers.BFLTeacher,
          init_args: {endpoint: {base_url: URL/bfl, LIMITS}, poll_every_s: 0.01}}"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*", "ignore:.*refused in this round.*"),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder made the current one, with seeds and a key in the environment."""
    (tmp_path / "prompts.txt").write_text("".join(f"tone {tone}\n" for tone in range(40, 200, 20)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANARY_API_KEY", CANARY)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # where the journal of jobs lies
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    yield tmp_path


def files_with_the_key(folder: Path) -> list[str]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and any(spelt.encode() in path.read_bytes() for spelt in SPELLINGS):
            found.append(str(path.relative_to(folder)))
    return found


def config_of(teacher: str, url: str) -> str:
    return RUN.replace("TEACHER", teacher).replace("LIMITS", LIMITS).replace("URL", url)


@pytest.mark.parametrize(
    ("teacher", "path", "header"),
    [(SYNCHRONOUS, "/v1/images", "authorization"), (QUEUED, "/bfl/v1/flux", "x-key")],
    ids=["synchronous", "queued"],
)
def test_a_whole_run_leaves_the_key_nowhere(
    here: Path, capfd: pytest.CaptureFixture[str], teacher: str, path: str, header: str
) -> None:
    faults = {"busy": 0.1, "error_500": 0.1, "cut_late": 0.1, "error_inside": 0.1, "garbage": 0.1}
    faults |= {"error_state": 0.05, "torn_image": 0.05} if teacher is QUEUED else {}
    with ChaosServer(Script(shares=faults), api_key=CANARY) as server:
        (here / "run.yaml").write_text(config_of(teacher, server.url), encoding="utf-8")
        assert main(["fit", "-c", "run.yaml"]) in (None, 0)
        sent = [request.headers.get(header, "") for request in server.sent(path)]
    assert any(CANARY in value for value in sent), "the key was never used: nothing was tested"
    journals = list((here / "state").rglob("jobs.sqlite"))
    assert len(journals) == (teacher is QUEUED)
    for journal in journals:
        with closing(sqlite3.connect(journal)) as file:
            assert file.execute("SELECT COUNT(*) FROM jobs").fetchone()[0] > 0
    said = capfd.readouterr()
    assert not any(spelt in said.out + said.err for spelt in SPELLINGS)
    kinds = {path.name.partition(".")[0] if "tfevents" in path.name else path.suffix for path in here.rglob("*")}
    assert {".sqlite", ".png", ".ckpt", ".yaml", ".json", ".html"} <= kinds, kinds
    assert any("tfevents" in path.name for path in here.rglob("*"))
    assert files_with_the_key(here) == []


def test_a_key_that_is_refused_ends_the_start_and_no_traceback_shows_it(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ChaosServer(Script(submit=always("bad_key")), api_key="another-key") as server:
        (here / "run.yaml").write_text(config_of(SYNCHRONOUS, server.url), encoding="utf-8")
        assert main(["fit", "-c", "run.yaml"]) == 2
        said = capfd.readouterr()
        assert "401" in said.err and "EvolutionCallback.teachers.web" in said.err and "judge" in said.err
        monkeypatch.setenv("EVOLVEDIRECTOR_DEBUG", "1")
        with pytest.raises(ValueError) as refused:
            main(["fit", "-c", "run.yaml"])
        assert server.sent("/v1/images") == server.sent("/v1/chat") == []
    shown = said.out + said.err + "".join(traceback.format_exception(refused.value)) + "".join(capfd.readouterr())
    assert not any(spelt in shown for spelt in SPELLINGS)
    assert files_with_the_key(here) == []
