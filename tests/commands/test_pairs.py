from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

from evolvedirector.cli import main

SHAPES = {"class_path": "evolvedirector.worlds.shapes.cut_outs.ShapeCutOuts"}
RAW = {"class_path": "evolvedirector.pairs.RawPatches"}


def recipe(folder: Path, **settings: object) -> str:
    """Write the YAML of a builder of few small pairs."""

    def part(name: str, **arguments: object) -> dict[str, object]:
        return {"class_path": f"evolvedirector.pairs.{name}", "init_args": arguments}

    reader = part("DrawnReader", world=SHAPES, encoder=RAW, learned=8, side_px=32)
    loose = {kind: {"identity": -1.0, "change": -1.0} for kind in ("place", "tint")}
    content = part(
        "SubjectPairBuilder",
        **{
            "subjects": part("DrawnSubjects", world=SHAPES, looks=["flat"]),
            "prompt": part("DrawnPrompts", looks=["flat", "bold"]),
            "draft": part("DrawnDraft", world=SHAPES),
            "refine": part("MatchedPixels", encoder=RAW),
            "mask": part("AlphaMask"),
            "filter": part("PairFilter", identity=RAW, change=reader, side_px=32),
            "thresholds": loose,
            "kinds": ["place", "tint"],
            "image_size_px": 32,
            "most_subjects": 5,
            "editing_share": 0.5,
            "budget": part("PairBudget", calls={"draft": 100}),
            **settings,
        },
    )
    (folder / "pairs.yaml").write_text(yaml.safe_dump({"builder": content}))
    return str(folder / "pairs.yaml")


def test_pairs_are_built_shown_and_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(tmp_path / "root")
    assert main(["pairs", "build", root, "--builder", recipe(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "10 of 10 pairs kept (5 place, 5 tint)" in said and "draft: 10 calls (0 lost)" in said
    assert main(["pairs", "show", root, "--out", str(tmp_path / "pairs.png"), "--pairs", "4"]) == 0
    assert "4 kept pairs" in capsys.readouterr().out
    with Image.open(tmp_path / "pairs.png") as grid:
        assert grid.width > 6 * 128 and grid.height > 4 * 128
    assert main(["pairs", "export", root, str(tmp_path / "out")]) == 0
    counts = {}
    for use, further in (("generation", set()), ("editing", {"source.png", "mask.png"})):
        folder = tmp_path / "out" / use
        with tarfile.open(next(folder.glob("train-*.tar"))) as tar:
            names = tar.getnames()
            about = json.loads(tar.extractfile(next(n for n in names if n.endswith("pair.json"))).read())  # type: ignore[union-attr]
        keys = {name.partition(".")[0] for name in names}
        counts[use] = len(keys)
        members = {name.partition(".")[2] for name in names}
        always = {"png", "txt", "json", "reference.png", "reference_mask.png", "subject_box.npy", "pair.json"}
        assert members == always | further
        card = (folder / "README.md").read_text()
        assert f"Subject pairs for {use}" in card and "10 of 10 pairs kept" in card and about["use"] == use
    assert counts["generation"] + counts["editing"] == 10 and min(counts.values()) > 0


def test_a_build_that_keeps_nothing_says_why_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, nothing = str(tmp_path / "root"), {kind: {"identity": 2.0} for kind in ("place", "tint")}
    assert main(["pairs", "build", root, "--builder", recipe(tmp_path, most_subjects=1, thresholds=nothing)]) == 1
    said = capsys.readouterr()
    assert "0 of 2 pairs kept" in said.out
    assert "No pair was kept. Most were rejected for 'identity': identity" in said.err and "--rejected" in said.err


def test_a_root_without_pairs_and_a_builder_that_does_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pairs", "show", str(tmp_path)]) == 1
    assert "The record of pairs" in capsys.readouterr().err
    file = recipe(tmp_path, kinds=["place", "size"])
    assert main(["pairs", "build", str(tmp_path / "root"), "--builder", file]) == 2
    assert "kinds" in capsys.readouterr().err
    assert not (tmp_path / "root").exists()
