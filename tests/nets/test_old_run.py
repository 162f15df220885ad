"""A run that an earlier day began and left unfinished is read, shown and continued as it was meant.

Nothing that these tests compare with is ever recorded again (README.md).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import numpy as np
import pytest
import yaml

from evolvedirector.cli import main
from evolvedirector.store import DatasetStore
from tests.nets import made, old

RUN, ROOT = "runs/old", "runs/old/data"
CHECKPOINT_STEP = 18
LOSS_SHARE = 1e-4
GREY_LEVELS = 1

pytestmark = pytest.mark.filterwarnings(
    "default",  # an old name costs a warning that says the new one; here it may
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",
    "ignore:Be aware that when using `ckpt_path`",  # callbacks left out on purpose
)


@pytest.fixture(autouse=True)
def _seed_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning seeds through the environment; the test gives the variables back."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old run, in the current folder."""
    return old.copied("old_run", tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def then() -> dict[str, Any]:
    """What the code of that day gave."""
    return old.expected("old_run")


def assert_frames(step: int) -> None:
    """The averaged student draws what it drew."""
    wanted, found = old.expected_frames(step), old.frames_of(RUN, step)
    assert wanted and found.keys() == wanted.keys()
    for prompt, frame in found.items():
        assert np.abs(frame.astype(int) - wanted[prompt]).max() <= GREY_LEVELS, prompt


def test_the_root_opens_with_its_revisions_their_order_and_its_spending(then: dict[str, Any]) -> None:
    with DatasetStore(Path(ROOT)) as store:
        shas = [revision["sha"] for revision in then["revisions"]]
        assert store.revisions() == [f"{number:06d}-{sha[:12]}" for number, sha in enumerate(shas, start=1)]
        assert store.current() == shas[-1]
        spend = store.ledger.spend()
        assert [spend.teacher_calls, spend.judge_calls, spend.lost_calls] == then["spend"][:3]
        assert spend.cost_usd == pytest.approx(then["spend"][3])
    for revision in then["revisions"]:
        if revision["rows"]:  # the first one has prompts only
            assert made.rows_of(Path(ROOT), revision["sha"]) == revision["rows"]
            assert made.keys_of(Path(ROOT), revision["sha"]) == revision["keys"]


def test_data_show_tells_every_revision(then: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    for revision in then["revisions"]:
        assert old.shown(ROOT, capsys, "--revision", revision["sha"]) == revision["shown"]


def test_the_report_tells_its_rounds(then: dict[str, Any]) -> None:
    page = old.page_of(RUN)
    assert old.rounds_told(page) == then["rounds told"]
    assert old.verdicts_told(page) == then["verdicts told"]


def test_training_goes_on_from_its_checkpoint(then: dict[str, Any]) -> None:
    # Without the parts of a round, whose settings take seconds to parse; the next test takes the config as it is.
    config = yaml.safe_load(Path(RUN, "config.yaml").read_text(encoding="utf-8"))
    kept = ("EMA", "PreviewCallback", "RunCheckpoint")
    callbacks = [part for part in config["trainer"]["callbacks"] if part["class_path"].rpartition(".")[2] in kept]
    assert len(callbacks) == len(kept)
    callbacks[1]["init_args"]["teacher"] = None
    config["trainer"]["callbacks"] = callbacks
    config["data"]["init_args"] |= {"seeds": None, "held_out": None}
    Path("short.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    words = ["fit", "-c", "short.yaml", "--ckpt_path", "last", "--trainer.max_steps=24"]
    assert main(words) in (None, 0)
    assert old.losses_of(RUN) == pytest.approx(then["losses before the next round"], rel=LOSS_SHARE)
    assert_frames(24)


@pytest.mark.slow
def test_the_yaml_of_that_day_trains_on_and_leaves_the_dataset_alone(
    then: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {part: old.files_below(f"{ROOT}/{part}") for part in ("revisions", "shards", "blobs")}
    # No round follows the last epoch: nobody would train on what it buys.
    words = ["fit", "-c", "recipe.yaml", "--ckpt_path", "last", "--trainer.max_steps=24"]
    assert main(words) in (None, 0)
    assert old.losses_of(RUN) == pytest.approx(then["losses before the next round"], rel=LOSS_SHARE)
    assert_frames(24)
    assert {part: old.files_below(f"{ROOT}/{part}") for part in before} == before
    assert old.shown(ROOT, capsys) == then["revisions"][-1]["shown"]


@pytest.mark.slow
def test_the_run_goes_on_to_its_end(then: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    before = {part: old.files_below(f"{ROOT}/{part}") for part in ("revisions", "shards", "blobs")}
    assert main(["fit", "-c", f"{RUN}/config.yaml", "--ckpt_path", "last"]) in (None, 0)

    # what was there is there
    after = {part: old.files_below(f"{ROOT}/{part}") for part in before}
    for part, files in before.items():
        assert files.items() <= after[part].items()
    for revision in then["revisions"]:
        assert (
            old.shown(ROOT, capsys, "--revision", revision["sha"])["published by"]
            == (revision["shown"]["published by"])
        )
        if revision["rows"]:
            assert made.rows_of(Path(ROOT), revision["sha"]) == revision["rows"]
    page = old.page_of(RUN)
    assert old.rounds_told(page)[:-1] == then["rounds told"]

    # what follows: the next round, on the revision that the run had left; a round's id names who takes part in it by
    # their fingerprints, so what it writes and buys may differ from what that day's code would have
    losses = old.losses_of(RUN)
    assert {step: losses[step] for step in then["losses before the next round"]} == pytest.approx(
        then["losses before the next round"], rel=LOSS_SHARE
    )
    assert len(old.rounds_told(page)) == len(then["rounds told"]) + 1
    with DatasetStore(Path(ROOT)) as store:
        newest = store.current()
        assert newest is not None and store.number(newest) == len(then["revisions"]) + 1
        parent = then["revisions"][-1]["sha"]
        was, now = store.state(parent).entries, store.state(newest).entries
        assert was.keys() <= now.keys(), "a prompt was lost"
        spend = store.ledger.spend()
    summary = json.loads(Path(RUN, "summary.json").read_text(encoding="utf-8"))
    assert summary["teacher_calls"] == spend.teacher_calls <= summary["budget"]["budget_teacher_calls"]
    assert spend.teacher_calls >= then["spend"][0] and max(map(int, losses)) == 29
