"""`evolvedirector bench` measures a run's training and drawing, and leaves nothing behind."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest
import torch
import yaml
from jsonargparse import Namespace

from evolvedirector.callbacks._run.stopwatch import PARTS, StepFigures
from evolvedirector.cli import main
from evolvedirector.commands.bench import fill
from evolvedirector.commands.bench_figures import BenchFigures, OtherParts, PartFigures, no_effect
from evolvedirector.commands.bench_run import _for_one_process
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import TextToImage
from tests.commands.test_generate import SIDE, STUDENT
from tests.lightning_modules.test_training_caches import Halving
from tests.lightning_modules.test_training_caches import student as latent_student

BATCH, STEPS = 4, 2


def config(here: Path) -> Path:
    student = copy.deepcopy(STUDENT)
    student["init_args"]["compute"] = {"gradient_checkpointing": True}  # type: ignore[index]
    student["init_args"]["text_cache_folder"] = str(here / "texts")  # type: ignore[index]
    arguments = {"root": str(here / "data"), "global_batch_size": BATCH, "batches_per_epoch": 3, "image_size_px": SIDE}
    tree = {
        "seed_everything": 0,
        "model": student,
        "data": {"class_path": "evolvedirector.datamodules.EvolvingDataModule", "init_args": arguments},
        "trainer": {
            "default_root_dir": str(here / "run"), "accelerator": "cpu", "max_steps": 1000,
            "callbacks": [{"class_path": "evolvedirector.callbacks.EMA", "init_args": {"decay": 0.5}}],
        },
    }  # fmt: skip
    (here / "bench.yaml").write_text(yaml.safe_dump(tree))
    return here / "bench.yaml"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config and the figures of its bench."""
    here = tmp_path_factory.mktemp("bench")
    words = ["bench", "-c", str(config(here)), "--steps", str(STEPS), "--json", str(here / "figures.json")]
    assert not main([*words, "--peak-tflops", "0.5"])
    return here


def test_the_whole_step_is_timed_in_its_parts_and_nothing_of_the_run_is_written(here: Path) -> None:
    figures = json.loads((here / "figures.json").read_text())
    train = figures["train"]
    assert train["steps_timed"] == STEPS and tuple(train["parts_s"]) == PARTS
    assert all(seconds > 0 for seconds in train["parts_s"].values())
    assert train["images_per_s"] == pytest.approx(BATCH / train["step_s"])
    assert train["images_per_s_without_caches"] < train["images_per_s"]
    assert figures["generate"]["images_per_s"] > 0 and "2 steps, guidance 1.5" in figures["generate"]["what"]
    assert sorted(path.name for path in here.iterdir()) == ["bench.yaml", "figures.json"]


def test_what_is_computed_again_counts_for_no_utilisation(here: Path) -> None:
    figures = json.loads((here / "figures.json").read_text())
    flops = figures["flops_per_image"]
    assert 0 < flops["computed_again"] <= flops["forward"]
    assert 1.5 * flops["forward"] < flops["backward"] < 2.6 * flops["forward"]
    network = flops["forward"] + flops["backward"]
    assert figures["mfu"] == pytest.approx(network * figures["train"]["images_per_s"] / 0.5e12)
    # two steps, each with and without prompt, in place of one forward pass
    assert flops["draw"] == pytest.approx(4 * flops["forward"], rel=0.01)
    assert figures["matmul_tflops"] > 0
    weights = sum(part.numel() * 4 for part in _parameters())
    assert figures["peak_bytes"]["train"] > 5 * weights  # weights, gradients, two moments, an average


def _parameters() -> list[torch.Tensor]:
    from tests.commands.test_generate import FlowMatching, PixArt, RandomTextEncoder

    family = PixArt(RandomTextEncoder(16), SIDE, text_length=4, patch_size=4, layers=1, heads=2, head_dim=8)
    student = TextToImage(family, FlowMatching(), SIDE)
    student.configure_model()
    return list(student.parameters())


def test_the_codec_of_a_step_is_no_part_of_the_network() -> None:
    steps = StepFigures([0.5], {}, forward_flops=1000, backward_flops=1200, batch_size=4)
    codec = PartFigures(0.01, 50.0, 7)
    figures = BenchFigures("cpu", 1, "32-true", steps, OtherParts(PartFigures(0.1, 9.0, 8), codec), 1.0, None, "")
    # four images are encoded in a chunk of eight
    assert figures.forward_flops == (1000 - 8 * 50) / 4 and figures.network_flops == (1000 - 8 * 50 + 1200) / 4
    assert figures.codec_s_in_step == pytest.approx(0.08)
    assert figures.images_per_s_without_caches == pytest.approx(1 / (1 / 8 + 0.1))
    assert "no peak of this device is stated" in figures.rows()["FLOPs of one image"]["MFU"]


def test_an_update_that_one_batch_of_four_makes_is_counted_in() -> None:
    steps = StepFigures([1.0, 1.0, 1.0, 3.0] * 2 + [1.0], {"optimizer": [0.0, 0.0, 0.0, 2.0]}, batch_size=6)
    steps.batches_per_update = 4
    figures = BenchFigures("cpu", 1, "32-true", steps, OtherParts(), 1.0, None, "")
    assert figures.images_per_s == pytest.approx(6 / 1.5) and figures.parts_s() == {"optimizer": 0.5}
    assert "mean of 9 batches, 4 an update" in figures.rows()["training"]["images/s"]


def test_one_process_is_one_replica() -> None:
    strategy = Namespace(class_path="evolvedirector.lightning_modules.ShardedStrategy", init_args=Namespace(replicas=2))
    for written in (strategy, Namespace(class_path="Other"), "ddp", None):
        trainer = Namespace(devices=8, num_nodes=2, strategy=written)
        _for_one_process(trainer)
        assert (trainer.devices, trainer.num_nodes) == (1, 1)
    assert strategy.init_args.replicas == 1


def test_options_that_were_seen_to_change_nothing_are_named() -> None:
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda")))
    module = latent_student(Halving(), compute={"gradient_checkpointing": True, "compile_blocks": True})
    seen = no_effect(trainer, module, StepFigures(), "auto")
    assert [line.split(":")[0] for line in seen] == [
        "cpu_threads", "compute.gradient_checkpointing", "compute.compile_blocks", "latent_cache_gib",
    ]  # fmt: skip
    trainer.strategy.root_device = torch.device("cpu")
    seen = no_effect(trainer, latent_student(Halving()), StepFigures(reads_latents=True), "auto")
    assert seen == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "No config is given"),
        (["-c", "x.yaml", "--steps", "0"], "--steps is 0"),
        (["-c", "x.yaml", "--json", "nowhere/x.json"], "whose folder does not exist"),
    ],
)
def test_bad_input_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert said in capsys.readouterr().err


def test_fewer_batches_than_an_update_takes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "-c", str(config(tmp_path)), "--steps", "3", "--trainer.accumulate_grad_batches", "4"]
    assert main(words) == 2
    assert "Allowed is at least one whole update. Write `--steps 4`" in " ".join(capsys.readouterr().err.split())


def test_a_role_of_unknown_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names depth, whose form is not known"):
        fill(EvolvingDataModule(tmp_path, roles=["image", "depth"]))


def test_a_prior_is_timed_on_random_embeddings_of_full_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toys = "tests.lightning_modules.priors.prior_toys"
    network = {"embedding_dim": 12, "heads": 2, "head_dim": 8, "layers": 1, "text_length": 6, "reads_edges": True}
    objective = {"class_path": "evolvedirector.lightning_modules.EclipseObjective"}
    parts = {"embedder": {"class_path": f"{toys}.ToyEmbedder"}, "decoder": {"class_path": f"{toys}.ToyDecoder"}}
    model = {"objective": objective, **parts, "network": network, "image_size_px": 4, "generation_chunk_size": 2}
    data = {"root": str(tmp_path / "data"), "global_batch_size": BATCH, "batches_per_epoch": 3}
    data |= {"validation_share": 0.1, "subjects": True, "edges": True, "image_size_px": 4}
    tree = {
        "seed_everything": 0,
        "model": {"class_path": "evolvedirector.lightning_modules.ImagePrior", "init_args": model},
        "data": {"class_path": "evolvedirector.datamodules.EmbeddingDataModule", "init_args": data},
        "trainer": {"default_root_dir": str(tmp_path / "run"), "accelerator": "cpu", "max_steps": 9},
    }
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(tree))
    assert not main(
        ["bench", "-c", str(tmp_path / "bench.yaml"), "--steps", "2", "--json", str(tmp_path / "found.json")]
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["train"]["steps_timed"] == 2 and found["train"]["images_per_s"] > 0
    assert found["generate"]["images_per_s"] > 0 and set(found["peak_bytes"]) == {"train", "draw"}
    said = capsys.readouterr().out
    assert "steps/s" in said and "most memory" in said
    assert not (tmp_path / "data").exists() and not (tmp_path / "run").exists()
