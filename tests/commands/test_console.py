"""What reaches the screen of a run is news, once, in sentences."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest

from evolvedirector.cli import main
from evolvedirector.commands.console import QUIET_LINES, QUIET_WARNINGS, format_warning, readable_console
from tests.commands.console_run import RUN, TOYS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run.yaml").write_text(RUN, encoding="utf-8")
    (tmp_path / "toys_of_console.py").write_text(TOYS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toys_of_console", raising=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "1")
    return tmp_path


@pytest.mark.slow
def test_a_whole_run_says_only_this(here: Path) -> None:
    """Every line of a run as a newcomer sees it, from a process of its own."""
    command = [sys.executable, "-m", "evolvedirector", "fit", "-c", "run.yaml"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    first, *steps, last = done.stdout.splitlines()
    assert first == "Training Toy (66 parameters), 4 steps on 1 x cpu, into run. Ctrl-C stops it; nothing is lost."
    assert [line.split(",")[0] for line in steps] == [f"step {n} of 4" for n in (1, 2, 3, 4)]
    assert last.startswith("Finished at step 4 after ") and last.endswith("Curves: tensorboard --logdir run/logs")


def test_a_second_run_in_the_same_folder_is_refused_with_both_ways_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "-c", "run.yaml"]) == 0
    before = sorted(path.name for path in (here / "run/checkpoints").iterdir())
    capsys.readouterr()
    assert main(["fit", "-c", "run.yaml"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "run holds a run already (its newest checkpoint is step-00000004)" in said
    assert "--ckpt_path last" in said and "--trainer.default_root_dir run-2 --data.init_args.root run-2/data" in said
    assert sorted(path.name for path in (here / "run/checkpoints").iterdir()) == before
    assert main(["fit", "-c", "run.yaml", "--trainer.default_root_dir=run-2"]) == 0


def test_going_on_when_nothing_is_left_says_how_to_train_longer(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-c", "run.yaml"]) == 0
    assert main(["fit", "-c", "run.yaml", "--ckpt_path", "last"]) == 0
    assert "Nothing was left to train: this run ended at step 4. To train longer, raise" in capsys.readouterr().out
    assert main(["fit", "-c", "run.yaml", "--ckpt_path", "last", "--trainer.max_steps=6"]) == 0
    said = capsys.readouterr().out
    assert "Training Toy (66 parameters), steps 4 to 6 on" in said and "Finished at step 6 after" in said


def test_a_bar_of_the_config_or_none_is_respected(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--trainer.enable_progress_bar=false", "--trainer.default_root_dir=none"]
    assert main(["fit", "-c", "run.yaml", *flags]) == 0
    assert "step 1 of 4" not in capsys.readouterr().out
    bar = "{class_path: evolvedirector.callbacks.run_progress.RunProgress, init_args: {plain_lines: 2}}"
    assert main(["fit", "-c", "run.yaml", f"--trainer.callbacks+={bar}", "--trainer.default_root_dir=two"]) == 0
    assert capsys.readouterr().out.count("step ") == 3, "two lines, and the one at the end"


@pytest.mark.parametrize(
    ("logger", "sentence"),
    [
        ("toys_of_console.Refuses", "Refuses is left out of this run, training goes on: OSError: no room"),
        ("toys_of_console.BreaksHalfWay", "BreaksHalfWay is left out of this run, training goes on: ConnectionError"),
    ],
)
def test_a_logger_of_a_yaml_that_fails_is_one_warning(here: Path, logger: str, sentence: str) -> None:
    with pytest.warns(UserWarning, match=sentence) as caught:
        assert main(["fit", "-c", "run.yaml", f"--trainer.logger={{class_path: {logger}}}"]) == 0
    assert len([w for w in caught if "left out" in str(w.message)]) == 1
    assert (here / "run/checkpoints/step-00000004/COMMIT.json").is_file()


def test_lightning_lines_that_are_no_news_are_left_out_and_come_back_afterwards(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "lightning.pytorch")
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    seen: list[str] = []
    listen = logging.Handler()
    listen.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("lightning.pytorch").addHandler(listen)
    try:
        with readable_console():
            log.info("GPU available: False, used: False")
            log.info("`Trainer.fit` stopped: `max_steps=8` reached.")
            log.info("`Trainer.fit` stopped: No training batches.")
        log.info("Seed set to 3")
    finally:
        logging.getLogger("lightning.pytorch").removeHandler(listen)
    assert seen == ["`Trainer.fit` stopped: No training batches.", "Seed set to 3"]
    assert listen.filters == []


def test_every_quiet_line_and_warning_has_a_reason() -> None:
    assert all(len(reason) > 5 for *_, reason in (*QUIET_LINES, *QUIET_WARNINGS))


def test_warnings_are_sentences_and_nothing_of_python_changes_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    assert format_warning("It is\n  so.", UserWarning, "x.py", 3) == "Warning: It is so.\n"
    path = "/env/lib/python3.11/site-packages/torch/nn.py"
    assert format_warning("Old.", FutureWarning, path, 3) == "Warning (FutureWarning of torch): Old.\n"
    long = format_warning("word " * 60, UserWarning, "x.py", 3)
    assert all(len(line) <= 120 for line in long.splitlines()) and long.count("\n") > 2
    before, filters = warnings.formatwarning, list(warnings.filters)
    with readable_console():
        assert warnings.formatwarning is format_warning
    assert warnings.formatwarning is before and warnings.filters == filters


def test_debug_shows_everything_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLVEDIRECTOR_DEBUG", "1")
    before = warnings.formatwarning
    with readable_console():
        assert warnings.formatwarning is before
