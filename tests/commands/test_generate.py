"""`evolvedirector generate` and `export`: a finished run becomes pictures, a folder of weights, and a card."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from evolvedirector.cli import main
from evolvedirector.commands.export import check_form
from evolvedirector.commands.generate import new_folder, requests_of
from evolvedirector.errors import UserError
from evolvedirector.experts import LoRA, Trained
from evolvedirector.lightning_modules import FlowMatching, PixArt, RandomTextEncoder, TextToImage
from evolvedirector.records import ImageRequest
from tests.lightning_modules.tiny_student import SIDE, student_tree
from tests.lightning_modules.tiny_student import family as awake_family

STUDENT: dict[str, Any] = student_tree(layers=1, head_dim=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps, with averaged weights."""
    return finished(tmp_path_factory.mktemp("run"), STUDENT)


def finished(here: Path, model: dict[str, Any]) -> Path:
    """Train three steps on six pictures."""
    for shade in range(6):
        Image.new("RGB", (SIDE, SIDE), (40 * shade, 0, 90)).save(here / f"{shade}.png")
        (here / f"{shade}.txt").write_text(f"shade {shade}")
    assert main(["data", "import", str(here / "data"), "--images", str(here / "*.png")]) == 0
    (here / "held_out.txt").write_text("a shade of night\na shade of day\n")
    data = {
        "root": str(here / "data"), "held_out": str(here / "held_out.txt"), "global_batch_size": 4,
        "batches_per_epoch": 3, "image_size_px": SIDE,
    }  # fmt: skip
    callbacks = [
        {"class_path": f"evolvedirector.callbacks.{name}", "init_args": init_args}
        for name, init_args in (("EMA", {"decay": 0.5}), ("RunCheckpoint", {}), ("RunSummary", {}))
    ]
    tree = {
        "seed_everything": 0,
        "model": model,
        "data": {"class_path": "evolvedirector.datamodules.EvolvingDataModule", "init_args": data},
        "trainer": {
            "default_root_dir": str(here / "run"), "accelerator": "cpu", "max_steps": 3, "logger": False,
            "enable_progress_bar": False, "callbacks": callbacks,
        },
    }  # fmt: skip
    (here / "run.yaml").write_text(yaml.safe_dump(tree))
    assert not main(["fit", "-c", str(here / "run.yaml")])
    return here / "run"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def student(run: Path, averaged: bool) -> TextToImage:
    """The student of the run, built and loaded by hand."""
    checkpoint = torch.load(next(run.glob("checkpoints/*/state.ckpt")), weights_only=True)
    family = PixArt(RandomTextEncoder(16), SIDE, text_length=4, patch_size=4, layers=1, heads=2, head_dim=8)
    module = TextToImage(family, FlowMatching(), SIDE, sampling_steps=2, generation_chunk_size=4, guidance_scale=1.5)
    module.configure_model()
    module.load_state_dict(checkpoint["state_dict"])
    if averaged:
        module.load_state_dict(next(iter(checkpoint["ema"].values()))["weights"], strict=False)
    return module


@pytest.mark.parametrize("averaged", [True, False])
def test_pictures_are_those_of_the_weights_asked_for(run: Path, tmp_path: Path, averaged: bool) -> None:
    out = tmp_path / "out"
    words = ["generate", str(run), "--prompts", "a shade of night", "two", "--seeds", "0,3-4", "--out", str(out)]
    assert main([*words, *([] if averaged else ["--raw"])]) == 0
    lines = [json.loads(line) for line in (out / "images.jsonl").read_text().splitlines()]
    assert [(line["prompt"], line["seed"]) for line in lines] == [
        (prompt, seed) for prompt in ("a shade of night", "two") for seed in (0, 3, 4)
    ]
    requests = [ImageRequest(str(n), line["prompt"], line["seed"], SIDE, SIDE) for n, line in enumerate(lines)]
    for line, image in zip(lines, student(run, averaged).generate(requests), strict=True):
        assert np.array_equal(pixels(out / line["image"]), image.permute(1, 2, 0).numpy()), line
    assert pixels(out / "grid.png").ndim == 3
    other = student(run, not averaged).generate(requests[:1])[0].permute(1, 2, 0).numpy()
    assert not np.array_equal(pixels(out / lines[0]["image"]), other), "both kinds of weights draw the same"


def test_a_checkpoint_is_a_source_and_earlier_pictures_stay(run: Path) -> None:
    checkpoint = next(run.glob("checkpoints/*/state.ckpt"))
    for _ in range(2):
        assert main(["generate", str(checkpoint), "--prompts", "x", "--steps", "1", "--guidance", "1"]) == 0
    assert (run / "generated" / "grid.png").exists() and (run / "generated-2" / "grid.png").exists()


def test_what_cannot_be_drawn_is_one_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        ([str(run)], "There is nothing to draw"),
        ([str(tmp_path / "none"), "--prompts", "x"], "Nothing lies at"),
        ([str(run), "--prompts", "x", "--seeds", "a"], "--seeds is 'a'"),
        ([str(run), "--prompts", "x", "--seeds", "4-1"], "Allowed are whole numbers and ranges"),
        ([str(run), "--prompts", "x", "--size", "0x8"], "--size is '0x8'"),
        ([str(run), "--prompts", "x", "--size", "9x9"], "multiples"),
        ([str(run), "--prompts", "x", "--out", str(run)], "not empty"),
    ):
        assert main(["generate", *words]) == 2, words
        assert said in capsys.readouterr().err, words


def test_names_are_safe_and_in_order() -> None:
    named = requests_of(["../../A Red Circle!", "日本"], [0, 1], 8, 16)
    assert [name for name, _ in named] == [
        "0000-a-red-circle-seed0.png", "0000-a-red-circle-seed1.png", "0001-prompt-seed0.png", "0001-prompt-seed1.png",
    ]  # fmt: skip
    assert {(request.height_px, request.width_px) for _, request in named} == {(8, 16)}
    assert len({request.request_id for _, request in named}) == 4


def test_a_folder_with_files_is_never_written_into(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="Name another"):
        new_folder(str(tmp_path / "full"), tmp_path)
    assert new_folder(None, tmp_path).name == "generated" and new_folder(None, tmp_path).name == "generated-2"


def test_an_export_has_the_weights_a_card_and_samples(run: Path, tmp_path: Path) -> None:
    from diffusers import PixArtTransformer2DModel

    out = tmp_path / "export"
    words = ["export", str(run), str(out), "--license", "mit", "--teacher-license", "import=cc0-1.0"]
    assert main(words) == 0
    loaded = PixArtTransformer2DModel.from_pretrained(out / "transformer")
    expected = student(run, averaged=True).transformer
    assert expected is not None
    for name, value in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "mit" and front["pipeline_tag"] == "text-to-image"
    assert "averaged (EMA) weights of step 3" in card and "| 6 |" in card and "Training images seen: 12" in card
    assert Image.open(io.BytesIO((out / "samples.png").read_bytes())).size[0] > SIDE
    assert main(words) == 2, "an export is never written over"
    assert not list(tmp_path.glob("*.tmp.*"))


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a LoRA with averaged weights, beside a base that lies in a folder."""
    here = tmp_path_factory.mktemp("lora")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = awake_family(**NUMBERS).build()
    base.save_pretrained(here / "base")  # type: ignore[operator]
    family = yaml.safe_load(yaml.safe_dump(STUDENT["init_args"]["family"]))
    family["init_args"]["pretrained"] = str(here / "base")
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1}}
    trained = {"lora": {"rank": 2, "alpha": 4.0}, "base_precision": "float32"}
    model = STUDENT | {
        "init_args": STUDENT["init_args"] | {"family": family, "trained": trained, "optimizer": optimizer}
    }
    return finished(here, model)


NUMBERS = {"text_length": 4, "patch_size": 4, "layers": 1, "heads": 2, "head_dim": 8}


@pytest.mark.parametrize("weights", [[], pytest.param(["--raw"], marks=pytest.mark.slow)])
def test_a_merged_export_without_stock_pipeline_draws_what_the_run_draws(
    lora_run: Path, tmp_path: Path, weights: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["--prompts", "a shade of night", "--seeds", "0-1"]
    assert main(["generate", str(lora_run), *asked, *weights, "--out", str(tmp_path / "run")]) == 0
    assert main(["export", str(lora_run), str(tmp_path / "export"), "--merged", *weights]) == 0
    kept = yaml.safe_load((tmp_path / "export" / "student.yaml").read_text())["model"]["init_args"]
    assert not kept.keys() & {"optimizer", "lr_scheduler", "trained", "compute", "text_cache_folder"}
    with monkeypatch.context() as patch:  # the export needs no base
        patch.setattr(PixArt, "verify", lambda _: pytest.fail("the base is asked for"))
        assert main(["generate", str(tmp_path / "export"), *asked, "--out", str(tmp_path / "drawn")]) == 0
    for path in sorted((tmp_path / "run").glob("0*.png")):
        assert np.abs(pixels(path).astype(int) - pixels(tmp_path / "drawn" / path.name)).max() <= 1, path.name
    card = (tmp_path / "export" / "README.md").read_text()
    assert "LoRA of rank 2 and alpha 4, trained beside a base in float32; fused into the base here" in card


@pytest.mark.slow
def test_a_lora_that_nobody_could_load_is_refused(
    run: Path, lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, words, said in (
        (run, ["--merged"], "Leave --merged out"),
        (run, ["--layout", "kohya"], "Leave --layout kohya out"),
        (lora_run, ["--layout", "kohya"], "no published kohya names for PixArt"),
        (lora_run, ["--layout", "diffusers", "--merged"], "Leave the other out"),
        (lora_run, [], "No stock pipeline could load the LoRA alone"),
    ):
        assert main(["export", str(source), str(tmp_path / "out"), *words]) == 2, words
        assert said in " ".join(capsys.readouterr().err.split()), words
    assert not list(tmp_path.iterdir()), "something is left behind"
    with pytest.raises(UserError, match="random weights of seed 0, which nobody else has"):
        check_form(TextToImage(awake_family(), FlowMatching(), SIDE, trained=Trained(LoRA(2))), None, merged=False)


@pytest.mark.slow
def test_a_base_that_is_not_here_is_one_sentence(lora_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = lora_run.parent / "base"
    base.rename(base.with_name("away"))
    try:
        assert main(["generate", str(lora_run), "--prompts", "x"]) == 2
    finally:
        base.with_name("away").rename(base)
    said = " ".join(capsys.readouterr().err.split())
    assert "which is not there" in said and "Traceback" not in said, said
    (base / "config.json").rename(base / "kept.json")
    try:
        assert main(["export", str(lora_run), str(lora_run.parent / "out"), "--merged"]) == 2
    finally:
        (base / "kept.json").rename(base / "config.json")
    said = capsys.readouterr().err
    assert "Traceback" not in said, said


@pytest.mark.slow
def test_an_export_that_was_changed_is_one_sentence(
    lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "export"
    assert main(["export", str(lora_run), str(out), "--merged", "--samples", "0"]) == 0
    kept = (out / "student.yaml").read_text()
    for text, said in (
        (kept.replace("layers: 1", "layers: 2"), "Write layers: 1"),
        (kept.replace("TextToImage", "Nobody"), "Nobody"),
        ("[", "cannot be read"),
    ):
        (out / "student.yaml").write_text(text)
        assert main(["generate", str(out), "--prompts", "x"]) == 2
        shown = " ".join(capsys.readouterr().err.split())
        assert said in shown and "Traceback" not in shown, shown
    (out / "student.yaml").write_text(kept)
    next((out / "transformer").glob("*.safetensors")).write_bytes(b"damaged")
    assert main(["generate", str(out), "--prompts", "x"]) == 2
    assert "is damaged" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_the_commands_of_the_page_work(
    run: Path, lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "generate.md").read_text("utf-8")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run)
    (tmp_path / "runs" / "lora").symlink_to(lora_run)
    (tmp_path / "prompts.txt").write_text("a shade of night")
    monkeypatch.chdir(tmp_path)
    lines = [
        line for line in page.splitlines() if line.startswith(("evolvedirector generate", "evolvedirector export"))
    ]
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line.replace("768x512", "16x8"))[1:]
        refused = "--layout" in words  # of this family: tests/commands/test_exported_loras.py writes the others
        assert main(words) == (2 if refused else 0), line
    assert (tmp_path / "my_pictures" / "grid.png").is_file() and (tmp_path / "my_model" / "README.md").is_file()
