"""The recipes of priors run as they are, with tiny models of the same classes and names: train, draw, export, draw."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import numpy as np
import pytest
import torch
import webdataset
import yaml
from PIL import Image

import evolvedirector.configs
from evolvedirector.cli import main
from evolvedirector.models.exported_student import check_export, exported_student
from evolvedirector.teachers import SelfTeacher
from tests.lightning_modules.decoders.tiny_decoders import WIDTH
from tests.tiny_hub import VARIABLE, tiny_hub

CONFIGS = evolvedirector.configs.path()
BIGG, CLIP_L = "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", "openai/clip-vit-large-patch14"
PRIOR, KANDINSKY = "kandinsky-community/kandinsky-2-2-prior", "kandinsky-community/kandinsky-2-2-decoder"
KARLO = "kakaobrain/karlo-v1-alpha"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*", "ignore:.*bitsandbytes.*"),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder made the current one, with images, their captions, and a held-out prompt."""
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number, words in enumerate(("a red circle", "a blue square", "two stars", "a cat")):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / f"images/{number}.png")
        (tmp_path / f"images/{number}.txt").write_text(words, encoding="utf-8")
    row = json.dumps({"prompt": "a green square", "skill": "shapes"})
    (tmp_path / "held_out.jsonl").write_text(row, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    return tmp_path


def options_of(
    model: str, decoder: dict[str, Any], embedder: dict[str, Any], experiment: str = "prior_pairs.yaml"
) -> list[str]:
    """Return the recipe's files, with the numbers of the stand-ins and of a run of two steps behind them."""
    numbers = {
        "embedder": {"init_args": {"batch_size": 2, "device": "cpu"} | embedder},
        "decoder": {"init_args": {"embedding_dim": WIDTH, "chunk_size": 2, "dtype": "float32"} | decoder},
        "network": {"embedding_dim": WIDTH, "heads": 2, "head_dim": 8, "layers": 1},
        "image_size_px": 16,
        "generation_chunk_size": 2,
    }
    data = {
        "root": "run/data", "held_out": "held_out.jsonl", "global_batch_size": 2, "batches_per_epoch": 1,
        "validation_share": 0.0, "num_workers": 0, "generation_chunk_size": 2,
    }  # fmt: skip
    trainer = {
        "default_root_dir": "run", "accelerator": "cpu", "precision": "32-true", "max_steps": 2, "log_every_n_steps": 1,
    }  # fmt: skip
    tree = {"model": {"init_args": numbers}, "data": {"init_args": data}, "trainer": trainer}
    Path("tiny.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    files = [CONFIGS / "base.yaml", CONFIGS / "model" / model, CONFIGS / "experiment" / experiment, "tiny.yaml"]
    return [word for path in files for word in ("-c", str(path))]


def trained(
    options: list[str],
    clip: list[str],
    capsys: pytest.CaptureFixture[str],
    source: Sequence[str] = ("--images", "images/**"),
) -> str:
    """Import and embed the images, check and fit; return what `check` said."""
    assert main(["data", "import", "run/data", *source]) in (None, 0), capsys.readouterr()
    assert main(["embed", "run/data", "--device", "cpu", "--batch-size", "2", *clip]) in (None, 0), capsys.readouterr()
    assert main(["check", *options]) == 0, capsys.readouterr()
    plan = capsys.readouterr().out
    assert main(["fit", *options]) in (None, 0), capsys.readouterr()
    return plan


def drawn(source: str, out: str, *words: str) -> list[np.ndarray]:
    """Draw two prompts with `evolvedirector generate`, and return the pixels."""
    given = ["--prompts", "a red circle", "two stars", "--seeds", "3", "--out", out, *words]
    assert main(["generate", source, *given]) in (None, 0)
    lines = Path(out, "images.jsonl").read_text(encoding="utf-8").splitlines()
    return [np.asarray(Image.open(Path(out, json.loads(line)["image"]))) for line in lines]


def test_a_prior_for_kandinsky_trains_draws_and_is_exported_for_its_thin_pipeline(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_hub(here / "hub", {BIGG, PRIOR, KANDINSKY}, monkeypatch)
    options = options_of("prior_kandinsky22.yaml", {"sampling_steps": 2}, {"projection_dim": WIDTH})
    clip = ["--model", BIGG, "--image-model", PRIOR, "--projection-dim", str(WIDTH)]
    plan = trained(options, clip, capsys)
    assert "0.07" in plan and "sum" in plan, plan
    memory = plan.split("memory of one device")[1]
    assert "draw" in memory and "+ work" in memory and "not predicted" not in memory, plan
    from_run = drawn("run", "of_run", "--trainer.accelerator=cpu")
    assert from_run[0].shape == (16, 16, 3) and from_run[0].std() > 5
    assert main(["export", "run", "out", "--samples", "1"]) in (None, 0)
    assert {path.name for path in Path("out").iterdir()} == {
        "README.md", "samples.png", "student.yaml", "transformer",
    }  # fmt: skip
    check_export(Path("out"))
    from_export = drawn("out", "of_export")
    assert all(np.array_equal(one, other) for one, other in zip(from_run, from_export, strict=True))
    teacher = SelfTeacher("out", dtype="float32", device="cpu")
    teacher.verify()
    thin = by_card("out", here)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    images = thin(["a red circle", "two stars"], height=16, width=16, decoder_steps=2, generator=generators).images
    for one, other in zip(from_run, images, strict=True):
        assert np.abs(one.astype(int) - np.asarray(other).astype(int)).max() <= 1  # other kernels of text batches
    refused(capsys)


def by_card(folder: str, here: Path) -> Any:
    """Run the Python of an export's card, with the stand-ins' folders for names on the hub; return its pipeline."""
    card = Path(folder, "README.md").read_text(encoding="utf-8")
    assert "contrastive weight" in card and "KandinskyDecoder" in card and str(here) not in card
    code = card.split("```python\n")[1].split("```")[0]
    for name in (BIGG, PRIOR, KANDINSKY):
        code = code.replace(f'"{name}"', repr(str(Path(os.environ[VARIABLE]) / name)))
    code = re.sub(r', revision="main"', "", code.replace('"transformer"', f'"{folder}/transformer"'))
    found: dict[str, Any] = {}
    exec(code.split("image = ")[0], found)
    found["pipeline"].set_progress_bar_config(disable=True)
    return found["pipeline"]


def refused(capsys: pytest.CaptureFixture[str]) -> None:
    """See what means nothing for a prior refused in one paragraph."""
    for words, reason in (
        (["generate", "out", "--prompts", "a cat", "--steps", "9"], "samples no images itself"),
        (["generate", "run", "--prompts", "a cat", "--guidance", "2"], "samples no images itself"),
        (["generate", "run", "--prompts", "a cat", "--model.init_args.decoder=null"], "has no decoder"),
        (["export", "run", "again", "--merged"], "a prior is trained whole"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            raise SystemExit(main(words))
        assert ended.value.code not in (None, 0)
        assert reason in " ".join(capsys.readouterr().err.split()), words


def test_a_prior_for_karlo_trains_draws_and_is_exported(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_hub(here / "hub", {CLIP_L, KARLO}, monkeypatch)
    steps = {"sampling_steps": 2, "super_resolution_steps": 2}
    trained(options_of("prior_karlo.yaml", steps, {}), ["--model", CLIP_L], capsys)
    from_run = drawn("run", "of_run", "--trainer.accelerator=cpu")
    assert from_run[0].shape == (16, 16, 3) and from_run[0].std() > 5
    assert main(["export", "run", "out", "--samples", "0"]) in (None, 0)
    module = exported_student(Path("out"))
    assert module.generation_chunk_size == 2 and module.image_size_px == 16
    from_export = drawn("out", "of_export")
    assert all(np.array_equal(one, other) for one, other in zip(from_run, from_export, strict=True))
    assert "EclipsePriorPipeline" in Path("out/README.md").read_text(encoding="utf-8")


def tar_of_subjects(path: Path) -> None:
    """Write images with captions, two, one and no subjects, and edges of some."""
    samples = [
        ("a cat and a dog", ["cat", "dog"], True), ("a red hat", [{"name": "hat", "begin": 6}], False),
        ("two stars", [], True), ("a dog", ["dog"], False),
    ]  # fmt: skip
    with webdataset.TarWriter(str(path)) as tar:
        for number, (text, subjects, edge) in enumerate(samples):
            members: dict[str, Any] = {"txt": text, "png": Path(f"images/{number}.png").read_bytes()}
            if subjects:
                members["subjects.json"] = json.dumps(subjects).encode()
            for role, _ in zip(("subject", "subject_2"), subjects, strict=False):
                members[f"{role}.png"] = Path(f"images/{3 - number}.png").read_bytes()
            if edge:
                members["edge.png"] = Path("images/0.png").read_bytes()
            tar.write({"__key__": f"s{number}", **members})


def test_a_prior_with_subjects_trains_draws_with_them_and_is_exported(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_hub(here / "hub", {BIGG, PRIOR, KANDINSKY}, monkeypatch)
    tar_of_subjects(here / "pairs.tar")
    decoder, embedder = {"sampling_steps": 2}, {"projection_dim": WIDTH}
    options = options_of("prior_lambda_kandinsky22.yaml", decoder, embedder, "prior_subjects.yaml")
    tree = yaml.safe_load(Path("tiny.yaml").read_text(encoding="utf-8"))
    tree["model"]["init_args"]["edge_dropout"] = 0.5  # of 4 samples 1 % would be none
    tree["data"]["init_args"] |= {"global_batch_size": 4}
    Path("tiny.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    clip = ["--model", BIGG, "--image-model", PRIOR, "--projection-dim", str(WIDTH)]
    roles = ["--webdataset", "pairs.tar", "--roles", "subjects?,subject?,subject_2?,subject_3?,subject_4?,edge?"]
    trained(options, clip, capsys, roles)
    words = ["--subject", "circle=images/1.png", "--trainer.accelerator=cpu"]
    with pytest.raises(SystemExit) as ended:  # the second prompt, two stars, names no circle
        raise SystemExit(main(["generate", "run", "--prompts", "a red circle", "two stars", *words]))
    assert ended.value.code not in (None, 0)
    assert "The subject 'circle' does not stand in 'two stars'" in " ".join(capsys.readouterr().err.split())
    plain = pictures_of("run", "plain", "--trainer.accelerator=cpu")
    shown = pictures_of("run", "shown", *words)
    both = pictures_of("run", "both", *words, "--edge", "images/2.png")
    assert not np.array_equal(plain, shown) and not np.array_equal(shown, both)
    assert main(["export", "run", "out", "--samples", "0"]) in (None, 0)
    exported = pictures_of("out", "exported", *words[:2], "--edge", "images/2.png")
    assert np.array_equal(exported, both)
    config = json.loads(Path("out/transformer/config.json").read_text(encoding="utf-8"))
    assert config["reads_edges"] and config["additional_embeddings"] == 4
    for wrong, said in (
        (["--subject", "circle"], "Allowed is NAME=PICTURE"),
        (["--subject", "circle=tiny.yaml"], "cannot be used"),
        (["--subject", "circle=images/1.png"] * 5, "There are 5 subjects"),
    ):
        with pytest.raises(SystemExit) as ended:
            raise SystemExit(main(["generate", "out", "--prompts", "a red circle", *wrong]))
        assert ended.value.code not in (None, 0) and said in " ".join(capsys.readouterr().err.split())


def pictures_of(source: str, out: str, *words: str) -> np.ndarray:
    """Draw one prompt and return its pixels."""
    assert main(["generate", source, "--prompts", "a red circle", "--seeds", "3", "--out", out, *words]) in (None, 0)
    (line,) = Path(out, "images.jsonl").read_text(encoding="utf-8").splitlines()
    return np.asarray(Image.open(Path(out, json.loads(line)["image"])))
