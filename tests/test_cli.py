"""The front door: quick help, one paragraph for a mistake, an end by signal that says how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest

from evolvedirector.cli import FURTHER_WORDS, LIGHTNING_WORDS, main

BORING = "lightning.pytorch.demos.boring_classes.Boring"
CHECKPOINT = "evolvedirector.callbacks.checkpoint.RunCheckpoint"
PARTS = ["--model", f"{BORING}Model", "--data", f"{BORING}DataModule"]
TOYS = """
import time
import torch
from lightning.pytorch.demos.boring_classes import BoringModel


class Toy(BoringModel):
    def __init__(self, guidance_scale: float = 3.0, times: list[float] | None = None, name: str = "toy") -> None:
        super().__init__()
        if guidance_scale < 0:
            raise ValueError(f"guidance_scale is {guidance_scale}. It is 0 or more. Write 3.0.")


class Slow(BoringModel):
    def training_step(self, batch, batch_idx):
        time.sleep(0.05)
        return super().training_step(batch, batch_idx)


class Broken(BoringModel):
    def training_step(self, batch, batch_idx):
        return int("not a number")
"""
RUN = """
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 1
  limit_train_batches: 2
  limit_val_batches: 0
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: run
  callbacks:
    - class_path: evolvedirector.callbacks.checkpoint.RunCheckpoint
model:
  class_path: toys_of_cli.Toy
data:
  class_path: lightning.pytorch.demos.boring_classes.BoringDataModule
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a runnable `run.yaml`, made the current one."""
    (tmp_path / "run.yaml").write_text(RUN, encoding="utf-8")
    (tmp_path / "toys_of_cli.py").write_text(TOYS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toys_of_cli", raising=False)
    return tmp_path


@pytest.fixture
def seed_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning seeds through the environment; the test gives the variables back."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "1")


def paragraph(capsys: pytest.CaptureFixture[str]) -> str:
    """Return stderr as one line."""
    return " ".join(capsys.readouterr().err.split())


def test_help_answers_within_two_seconds_and_without_torch() -> None:
    code = (
        "import sys; from evolvedirector.cli import main; code = main(['--help'])\n"
        "assert code == 0 and not {'torch', 'lightning', 'jsonargparse'} & set(sys.modules)"
    )
    start = time.monotonic()
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert time.monotonic() - start < 2.0
    assert all(f"  {word} " in printed for word in (*LIGHTNING_WORDS[:2], *FURTHER_WORDS))


def test_the_module_runs_like_the_command() -> None:
    printed = subprocess.run([sys.executable, "-m", "evolvedirector", "--version"], capture_output=True, text=True)
    assert (printed.returncode, printed.stdout.strip()) == (0, __import__("evolvedirector").__version__)


def test_an_unknown_word_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fitt"]) == 2
    assert paragraph(capsys) == "`fitt` is not a command of evolvedirector. Did you mean `fit`?"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--model.guidance_scal=2"],
            "`--model.guidance_scal` is not an option of Toy. Did you mean `guidance_scale`?",
        ),
        (["--model.guidance_scale", "abc"], "`model.guidance_scale` is 'abc'. It takes float."),
        (["--model.times=[1,a]"], "`model.times` does not fit list[float] | null: Expected a float. Got value: a"),
        (["--model=toys_of_cli.Toi"], "which does not exist. Did you mean `toys_of_cli.Toy`?"),
        (["--model=toys_of_clu.Toy"], "but there is no module `toys_of_clu`."),
        (["--model=torch.nn.Linear"], "does not correspond to a subclass of LightningModule"),
        (["--trainer.max_epoch=3"], "`--trainer.max_epoch` is not an option of Trainer. Did you mean `max_epochs`?"),
        (["--trainer.max_epochs=x"], "`trainer.max_epochs` is 'x'. It takes int | null."),
        (["--modle=3"], "`--modle` is not an option. Did you mean `model`?"),
        (
            ["-c", "rum.yaml"],
            "The config file rum.yaml does not exist, and no packaged recipe has that name. Did you mean `run.yaml`?",
        ),
        (
            [f"--trainer.callbacks={{class_path: {CHECKPOINT}, init_args: {{keep_last: 0}}}}"],
            "keep_last is 0. At least 1",
        ),
    ],
)
def test_a_mistake_in_flags_is_one_paragraph(
    here: Path, seed_variables: None, capsys: pytest.CaptureFixture[str], flags: list[str], sentence: str
) -> None:
    assert main(["fit", "-c", "run.yaml", *flags]) == 2
    printed = paragraph(capsys)
    assert sentence in printed
    for noise in ("usage:", "Traceback", "Union subtypes"):
        assert noise not in printed
    assert len(printed) < 400


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model:\n  init_args:\n    guidance_scal: 2\n", "`model.init_args.guidance_scal` is not an option of Toy."),
        ("model:\n  class_path: toys_of_cli.Toy\n  init_arg: {}\n", "`model.init_arg` is not an option."),
        ("modle:\n  class_path: a.B\n", "`modle` is not an option. Did you mean `model`?"),
        ("model:\n  class_path: a\n    init_args: {}\n", "not valid YAML at line 3, column 14"),
        ("- a\n- b\n", "holds a list. A config is a mapping."),
        ("trainer:\n  max_epochs: ${nothing.here}\n", "`trainer.max_epochs` cannot be filled in"),
        (
            "trainer:\n  callbacks:\n    - class_path: evolvedirector.callbacks.checkpoint.RunCheckpoint\n"
            "      init_args: {keep_lst: 2}\n",
            "`trainer.callbacks[0].init_args.keep_lst` is not an option of RunCheckpoint. Did you mean `keep_last`?",
        ),
        (
            "trainer:\n  callbacks:\n    - class_path: evolvedirector.policies.BestOfN\n"
            "      init_args: {aspects: {sharpness: {rewrd: sharpness}}}\n",
            "aspects.sharpness.rewrd` is not an option of Aspect. Did you mean `reward`?",
        ),
    ],
)
def test_a_mistake_in_yaml_names_file_path_and_nearest_name(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    (here / "bad.yaml").write_text(text, encoding="utf-8")
    assert main(["fit", "-c", "run.yaml", "-c", "bad.yaml"]) == 2
    printed = paragraph(capsys)
    assert sentence in printed
    assert len(printed) < 400


def test_a_file_that_belongs_on_top_of_others_says_so_and_shows_its_command(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "top.yaml").write_text("# Command: evolvedirector fit -c run.yaml -c top.yaml\nmodel: {init_args: {}}\n")
    assert main(["fit", "-c", "top.yaml"]) == 2
    printed = paragraph(capsys)
    assert "no file or flag gives `model.class_path`" in printed
    assert "Write `evolvedirector fit -c run.yaml -c top.yaml`." in printed


def test_a_list_that_is_added_to_is_no_mistake_beside_another_one(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "top.yaml").write_text("trainer:\n  callbacks+:\n    - class_path: evolvedirector.callbacks.RunSummary\n")
    assert main(["fit", "-c", "run.yaml", "-c", "top.yaml", "--modle=3"]) == 2
    assert "`--modle` is not an option. Did you mean `model`?" in paragraph(capsys)


def test_a_missing_part_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *PARTS[:2]]) == 2
    assert "`data` must be given" in paragraph(capsys)


def test_debug_shows_the_traceback(here: Path, monkeypatch: pytest.MonkeyPatch, seed_variables: None) -> None:
    monkeypatch.setenv("EVOLVEDIRECTOR_DEBUG", "1")
    with pytest.raises(ValueError, match="guidance_scale is -1"):
        main(["fit", "-c", "run.yaml", "--model.guidance_scale=-1"])


def test_what_nobody_expected_keeps_its_traceback(here: Path, seed_variables: None) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        main(["fit", "-c", "run.yaml", "--model=toys_of_cli.Broken"])


def test_the_run_folder_holds_the_merged_config_which_runs_again(here: Path, seed_variables: None) -> None:
    assert main(["fit", "-c", "run.yaml", "--model.name=mine"]) == 0
    assert "name: mine" in (here / "run/config.yaml").read_text()
    assert main(["fit", "-c", "run/config.yaml", "--trainer.default_root_dir=again"]) == 0
    assert (here / "again/checkpoints/step-00000002/COMMIT.json").is_file()


def test_last_starts_from_scratch_then_goes_on(
    here: Path, seed_variables: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "-c", "run.yaml", "--ckpt_path=last"]) == 0
    assert "No finished checkpoint in run yet: starting from scratch." in capsys.readouterr().out
    assert main(["fit", "-c", "run.yaml", "--ckpt_path=last", "--trainer.max_epochs=2"]) == 0
    assert "Going on from run/checkpoints/step-00000002/state.ckpt." in capsys.readouterr().out
    assert (here / "run/checkpoints/step-00000004/COMMIT.json").is_file()


def test_last_without_a_checkpoint_is_refused_where_nothing_is_trained(
    here: Path, seed_variables: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", "-c", "run.yaml", "--ckpt_path=last"]) == 2
    assert "No finished checkpoint lies in run." in paragraph(capsys)


def test_a_checkpoint_never_overrides_what_is_written(here: Path, seed_variables: None) -> None:
    import torch

    assert main(["fit", "-c", "run.yaml"]) == 0
    path = here / "run/checkpoints/step-00000002/state.ckpt"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "hyper_parameters": {"name": "from the checkpoint"}}, path)
    assert main(["fit", "-c", "run.yaml", "--ckpt_path", str(path), "--model.name=written"]) == 0
    assert "name: written" in (here / "run/config.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_and_says_how_to_go_on(here: Path, number: signal.Signals, code: int) -> None:
    words = ["fit", "-c", "run.yaml", "--model=toys_of_cli.Slow", "--trainer.max_epochs=1000"]
    command = [sys.executable, "-W", "ignore", "-m", "evolvedirector", *words]
    process = subprocess.Popen(
        command, cwd=here, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(here)}
    )
    deadline = time.monotonic() + 120
    while not list(here.glob("run/checkpoints/*/COMMIT.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == code, printed
    assert f"Ended by {number.name}. Go on with: evolvedirector {' '.join(words)} --ckpt_path last" in printed
    again = [*command, "--ckpt_path=last", "--trainer.max_epochs=1"]
    went_on = subprocess.run(
        again, cwd=here, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(here)}
    )
    assert went_on.returncode == 0, went_on.stderr
    assert "Going on from run/checkpoints/" in went_on.stdout


def test_the_number_of_threads_that_was_found_stands_in_the_config(
    here: Path, seed_variables: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["fit", "-c", "run.yaml", "--cpu_threads=auto"]) == 0
    assert "cpu_threads: 1 (as OMP_NUM_THREADS says)." in capsys.readouterr().out
    assert "\ncpu_threads: 1\n" in "\n" + (here / "run/config.yaml").read_text()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert main(["fit", "-c", "run.yaml", "--cpu_threads=auto", "--ckpt_path=last", "--trainer.max_epochs=2"]) == 0
    assert "cpu_threads: 1 (as in the checkpoint)." in capsys.readouterr().out
    assert main(["fit", "-c", "run.yaml", "--cpu_threads=0"]) == 2
