"""A ledger of an earlier day is read with its meaning: every verdict, duel, result and decision that there was.

Nothing that these tests compare with is ever recorded again (README.md).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest
import yaml

from evolvedirector.cli import main
from tests.nets import old

RUN, ROOT = "runs/noisy", "runs/noisy/data"

pytestmark = pytest.mark.filterwarnings(
    "default",  # an old name costs a warning that says the new one; here it may
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",
    "ignore:Be aware that when using `ckpt_path`",  # callbacks left out on purpose
)


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old run folder, in the current folder; Lightning's seed variables are given back."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    return old.copied("old_ledger", tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def then() -> dict[str, Any]:
    """What the code of that day gave."""
    return old.expected("old_ledger")


def test_data_show_tells_what_it_holds(then: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert old.shown(ROOT, capsys) == then["shown"]


def test_the_report_tells_every_verdict(then: dict[str, Any]) -> None:
    page = old.page_of(RUN)
    assert old.rounds_told(page) == then["rounds told"]
    assert old.verdicts_told(page) == then["verdicts told"]
    assert then["verdicts told"].keys() == {"student", "teacher", "tie", "invalid"}


@pytest.mark.slow
def test_a_run_on_its_root_sums_it_up_as_then(then: dict[str, Any]) -> None:
    # A run that buys nothing: its summary.json counts what the ledger holds.
    config = yaml.safe_load(Path(RUN, "config.yaml").read_text(encoding="utf-8"))
    kept = ("EvolutionCallback", "RunSummary")
    callbacks = [part for part in config["trainer"]["callbacks"] if part["class_path"].rpartition(".")[2] in kept]
    assert len(callbacks) == len(kept)
    callbacks[0]["init_args"]["budget"]["budget_teacher_calls"] = 0
    config["trainer"] |= {"callbacks": callbacks, "max_steps": 1, "logger": False, "default_root_dir": "runs/again"}
    Path("again.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["fit", "-c", "again.yaml"]) in (None, 0)
    found = json.loads(Path("runs/again/summary.json").read_text(encoding="utf-8"))
    assert {name: found[name] for name in then["summary"]} == then["summary"]
