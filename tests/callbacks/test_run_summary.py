import json
from pathlib import Path

import lightning.pytorch as pl
import pytest

from evolvedirector.callbacks import EvolutionCallback, PreviewCallback, RunCheckpoint, RunSummary
from evolvedirector.callbacks.checkpoint import latest_committed
from evolvedirector.callbacks.run_summary import headlines
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evolution import Budget
from evolvedirector.policies import EvolveDirectorPolicy
from evolvedirector.report.summary import SUMMARY_KEYS
from tests import toys


def run(folder: Path, epochs: int, ckpt: Path | None = None) -> dict:
    data = EvolvingDataModule(
        folder / "data", seeds=toys.ToyPrompts(6), global_batch_size=4, batches_per_epoch=3, image_size_px=8
    )
    evolution = EvolutionCallback(
        {"toy": toys.ToyTeacher()}, toys.ToyJudge(), toys.ToyWriter(), EvolveDirectorPolicy(), Budget(20)
    )
    callbacks = [evolution, PreviewCallback(["tone 9"]), RunSummary(), RunCheckpoint()]
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, max_epochs=epochs, callbacks=callbacks,
        reload_dataloaders_every_n_epochs=1, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(toys.ToyStudent(), datamodule=data, ckpt_path=ckpt, weights_only=False if ckpt else None)
    return json.loads((folder / "summary.json").read_text())


def test_the_summary_has_its_keys_its_figures_and_says_where_to_look(tmp_path: Path, capsys) -> None:
    figures = run(tmp_path, 3)
    assert tuple(figures) == SUMMARY_KEYS
    assert (figures["rounds"], figures["rounds_skipped"]) == (2, 0)
    assert figures["teacher_calls"] == 20 == figures["live"] + figures["retired"]
    assert figures["images_seen"] == 3 * 3 * 4
    assert figures["accuracy"] is None and figures["accuracy_mean"] is None
    assert figures["teacher_share"] == {"tone": {"toy": 1.0}}
    assert figures["budget"]["budget_teacher_calls"] == 20
    bought = [detail["bought_by_skill"].get("tone", 0) for detail in figures["rounds_detail"]]
    assert [detail["teacher_calls"] for detail in figures["rounds_detail"]] == [6 + bought[0], 6 + sum(bought)]
    assert 6 + sum(bought) == 20
    said = capsys.readouterr().out
    assert "Spent: 20 teacher calls, " in said
    assert "accuracy" not in said and "Win rate" not in said, "what was not measured is not printed"
    assert f"Summary: {tmp_path / 'summary.json'}" in said
    assert f"Images:  {tmp_path / 'previews' / 'step-00000009.png'}" in said
    assert "round 1/2: wrote " in said and "so far 20 of 20 calls, $0.00" in said


def test_counting_goes_on_after_a_resume(tmp_path: Path) -> None:
    first = run(tmp_path, 2)
    second = run(tmp_path, 4, latest_committed(tmp_path))
    assert second["images_seen"] == 2 * first["images_seen"] == 4 * 3 * 4
    assert second["wall_s"] > first["wall_s"]


def test_headlines_name_each_share_with_its_interval() -> None:
    figures = {
        "accuracy": {"counting": 0.3125, "single_object": 0.8},
        "accuracy_interval": {"counting": [0.2, 0.45], "single_object": [0.7, 0.9]},
        "accuracy_prompts": {"counting": 12, "single_object": 1},
        "accuracy_mean": 0.55625,
        "accuracy_mean_interval": [0.48, 0.63],
        "win_rate_held_out": {
            "exact": {"win_rate": 0.25, "interval": [0.1, 0.4], "prompts": 48},
            "silent": {"win_rate": None, "interval": None, "prompts": 0},
        },
        "forgetting": {"share": 0.05, "interval": [0.01, 0.2], "prompts": 20, "unreadable": 0},
        "teacher_calls": 1000,
        "judge_calls": 2345,
        "cost_usd": 1.5,
        "evaluation_teacher_calls": 40,
        "other/evaluation_teacher_calls": 8,  # of a second suite of that class
    }
    assert headlines(figures) == [
        "Held-out accuracy: counting 0.31 [0.20, 0.45] (12 prompts), single_object 0.80 [0.70, 0.90] (1 prompt), "
        "mean 0.56 [0.48, 0.63]",
        "Win rate against: exact 0.25 [0.10, 0.40] of 48, silent unknown of 0",
        "Forgotten: 0.05 [0.01, 0.20] of 20 mastered prompts",
        "Spent: 1,000 teacher calls, 2,345 looks, 1.50 USD, 48 teacher calls for evaluation",
    ]


def test_figures_without_intervals_are_printed_all_the_same() -> None:
    kinds = {"tone": {"held_out": {"share": 0.5, "prompts": 2}, "trained": {"share": 1.0, "prompts": 10}}}
    parted = {"accuracy": {"tone": 0.92}, "accuracy_mean": 0.92, "accuracy_prompts": {"tone": 12}}
    assert headlines({**parted, "accuracy_by_kind": kinds}) == [
        "Accuracy: tone 0.92 (12 prompts: 0.50 of 2 held-out, 1.00 of 10 trained), mean 0.92"
    ]
    assert headlines({"accuracy": {"tone": 0.5}, "accuracy_mean": 0.5}) == ["Held-out accuracy: tone 0.50, mean 0.50"]
    assert headlines({}) == []


def test_suites_that_have_no_key_of_their_own_have_a_line() -> None:
    row = {"value": 0.625, "interval": [0.5, 0.75], "of": 16, "unit": "prompts"}
    told = {"mean": {**row, "value": 0.5}, "tone": {**row, "value": 0.5}}
    suites = {"held_out": told, "geneval": {"mean": row, "tone": row}}  # a skill may be called as another suite's task
    assert headlines({"accuracy": {"tone": 0.5}, "accuracy_mean": 0.5, "suites": suites}) == [
        "Held-out accuracy: tone 0.50, mean 0.50",
        "geneval: mean 0.62 [0.50, 0.75] of 16 prompts",
    ]


@pytest.mark.parametrize("text", ["", "[1]"])
def test_a_damaged_summary_of_an_earlier_run_ends_nothing(tmp_path: Path, capsys, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    trainer = pl.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_checkpointing=False)
    RunSummary().on_fit_end(trainer, toys.ToyStudent())
    assert capsys.readouterr().out == f"Summary: {tmp_path / 'summary.json'}\n"
