"""`check` prints what a run would do and cost, and starts nothing."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest
import torch

from evolvedirector.callbacks import ExpertStages, ExpertTable
from evolvedirector.cli import main
from evolvedirector.commands.check import device_problems
from evolvedirector.evaluation.validation_split import ValidationSplit
from evolvedirector.experts.merge_settings import Merge
from evolvedirector.experts.stages import Stage
from evolvedirector.lightning_modules import FlowMatching, PixArt, RandomTextEncoder, TextToImage
from evolvedirector.planning.run_costs import drawings_rows, readers_of
from tests.callbacks.expert_toys import Measures
from tests.callbacks.measuring import held_out, mastered, win_rate
from tests.toys import ToyJudge, ToyPrompts, ToyTeacher

TOYS = """
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule

from evolvedirector.planning.roles import EmbeddingFigures
from evolvedirector.records import (
    ImageAndPrompt, ImageReply, ImageRequest, Look, OrderedPair, Prompt, WriteReply, WriteRequest,
)


class Student(LightningModule):
    def __init__(self, width: int = 100_000) -> None:
        super().__init__()
        self.width, self.layer, self.text_cache_gib = width, None, 1.0

    def configure_model(self) -> None:
        if self.layer is None:
            self.layer = torch.nn.Linear(self.width, self.width, bias=False)  # 40 GB were it built

    def text_bytes(self) -> int:
        return 2**20


class Words:
    def __init__(self, count: int = 3) -> None:
        self.count = count

    def prompts(self) -> list[Prompt]:
        if self.count == 0:
            raise ValueError("There are no prompts.")
        return [Prompt.create(f"prompt {number}") for number in range(self.count)]


class Data(LightningDataModule):
    def __init__(self, root: str = "run/data", seeds: Words | str | None = None) -> None:
        super().__init__()
        self.data_root, self.seeds = root, seeds
        self.global_batch_size, self.batches_per_epoch, self.image_size_px = 64, 100, 32

    def train_dataloader(self):
        raise AssertionError("check must not read data")


class Prior(Student):
    def loss_settings(self) -> dict[str, str]:
        return {"contrastive weight": "0.2", "reduction": "sum", "temperature": "0.07"}


class Pairs(Data):
    def embedding_figures(self) -> EmbeddingFigures:
        return EmbeddingFigures(200, 16.0, 128, 384)


class Teacher:
    fingerprint = "web"

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        raise AssertionError("check must not buy anything")

    def close(self) -> Any: ...

    def verify(self) -> None:
        raise ValueError("Nobody answers.")

    def price_usd(self) -> float | None:
        return None


class Judge:
    fingerprint = "large"

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        raise AssertionError("check must not ask anything")

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        raise AssertionError("check must not ask anything")

    def close(self) -> Any: ...

    def price_usd(self) -> float | None:
        return 0.002

    def estimated_bytes(self) -> int | None:
        return 2 << 30


class Writer:
    fingerprint = "toy writer"

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        raise AssertionError("check must not ask anything")


class Evolution(Callback):
    def setup(self, trainer, pl_module, stage):
        raise AssertionError("check must not start anything")

    def plan_summary(self) -> dict[str, str]:
        return {"rounds": "every 1 epochs", "teacher calls (most)": "600", "cost (most)": "1.5 USD"}
"""
RUN = """
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 10
  max_steps: 300
  accumulate_grad_batches: 2
  gradient_clip_val: 0.5
  default_root_dir: run
  callbacks:
    - class_path: evolvedirector.callbacks.checkpoint.RunCheckpoint
    - class_path: toys_of_check.Evolution
model:
  class_path: toys_of_check.Student
data:
  class_path: toys_of_check.Data
  init_args:
    seeds: {class_path: toys_of_check.Words}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a runnable `run.yaml`, made the current one."""
    (tmp_path / "run.yaml").write_text(RUN, encoding="utf-8")
    (tmp_path / "toys_of_check.py").write_text(TOYS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toys_of_check", raising=False)
    return tmp_path


def check(*flags: str) -> int | None:
    return main(["check", "-c", "run.yaml", *flags])


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_the_plan_names_prompts_length_size_limits_and_disk(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    assert check() == 0
    plan = printed(capsys)
    for row in (
        "root run/data (new)",
        "seed prompts 3",
        "trainable parameters 10,000,000,000",
        "length 600 batches = 6 epochs of 100, 300 optimizer steps",
        "images seen 38,400 (64 per batch",
        "devices 1 x cpu on 1 node(s)",
        "gradient clipping norm 0.5",
        "accumulation 2 batches per step",
        "averaged weights (EMA) off",
        "rounds every 1 epochs",
        "teacher calls (most) 600",
        "cost (most) 1.5 USD",
        "checkpoints about 335.3 GiB",
        "teacher images about 1.8 MiB at most",
        "text states about 603.0 MiB at most (603 prompts of 1.0 MiB; text_cache_gib: 1)",
    ):
        assert row in plan
    assert not (here / "run").exists(), "check wrote something"


def test_numbers_of_a_loss_that_mean_something_only_together_stand_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--model=toys_of_check.Prior", "--data=toys_of_check.Pairs") == 0
    plan = printed(capsys)
    assert "loss contrastive weight 0.2, reduction sum, temperature 0.07, embedding norm 16, pairs 200" in plan


def test_devices_that_are_not_here_are_planned_for_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--trainer.accelerator=gpu", "--trainer.devices=64", "--trainer.precision=bf16-mixed") == 0
    plan = printed(capsys)
    assert "devices 64 x gpu on 1 node(s)" in plan
    assert "not on this machine" in plan
    assert "precision bf16-mixed" in plan


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"replicas": "3"}, "replicas is 3, but there are 4 ranks"),
        ({"cpu_offload": "true"}, "precision is 16-mixed and cpu_offload is true"),
    ],
)
def test_what_a_strategy_that_shards_cannot_do_is_found(
    capsys: pytest.CaptureFixture[str], arguments: dict[str, str], said: str
) -> None:
    words = [f"--trainer.strategy.{name}={value}" for name, value in arguments.items()]
    sharded = ["--trainer.strategy=evolvedirector.lightning_modules.ShardedStrategy", *words]
    ranks = ["--trainer.accelerator=cuda", "--trainer.devices=4", "--trainer.precision=16-mixed"]
    assert check("--config=run.yaml", *sharded, *ranks) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_run_without_evolution_or_end_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--trainer.callbacks=[]", "--trainer.max_epochs=-1", "--trainer.max_steps=-1") == 0
    plan = printed(capsys)
    assert "no callback of this config evolves the dataset" in plan
    assert "no end is set: write trainer.max_steps" in plan
    memory = plan.split("memory of one device")[1]
    assert "train" in memory and "judge" not in memory.partition("counted")[0], plan


@pytest.mark.parametrize("option", ["--trainer.default_root_dir", "--data.root"])
def test_a_folder_that_cannot_be_made_is_refused(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert check(f"{option}=run.yaml/inside") == 2
    assert "run.yaml/inside, which cannot be written" in printed(capsys)


def test_a_prompt_file_that_is_missing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--data.seeds=nowhere.txt") in (1, 2)
    assert "nowhere.txt" in printed(capsys)


def test_a_mistake_is_explained_as_by_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--model.widht=3") == 2
    assert "`--model.widht` is not an option of Student. Did you mean `width`?" in printed(capsys)


def test_the_images_of_an_existing_root_are_counted(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    from evolvedirector.records import Prompt, RevisionChange
    from evolvedirector.store.dataset import DatasetStore, create_root

    create_root(here / "data")
    store = DatasetStore(here / "data")
    store.publish(
        None, "first", RevisionChange(prompts=(Prompt.create("a red circle"), Prompt.create("a blue square")))
    )
    store.close()
    assert check("--data.root=data") == 0
    plan = printed(capsys)
    assert "root data, revision" in plan
    assert "prompts now 2 candidate" in plan


def test_every_problem_is_told_beside_the_plan(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "more.yaml").write_text(REFUSED, encoding="utf-8")
    assert check("-c", "more.yaml", "--model.width=1_000_000") == 2
    plan = printed(capsys)
    for row in (
        "web at most 600 images, price unknown: set budget.prices_usd.web",
        "judge calls (most) 700 x 0.002 USD = 1.40 USD (budget_judge_calls)",
        "rounds planned 5",
        "train 14901.2 GiB: student 14901.2 GiB",
        "warning The phase `judge` cannot fit: the student keeps 14901.2 GiB and the judge takes 2.0 GiB",
        "Problem 1 of 2: budget_cost_usd is 5, but the price of an image by web is unknown",
        "Problem 2 of 2: EvolutionCallback.teachers.web: Nobody answers.",
        "Nothing was started",
    ):
        assert row in plan
    assert not (here / "run").exists(), "check wrote something"


REFUSED = """
trainer:
  callbacks:
    - class_path: evolvedirector.callbacks.EvolutionCallback
      init_args:
        teachers:
          web: {class_path: toys_of_check.Teacher}
        judge: {class_path: toys_of_check.Judge}
        writer: {class_path: toys_of_check.Writer}
        budget: {budget_teacher_calls: 600, budget_judge_calls: 700, budget_cost_usd: 5.0}
"""


@pytest.mark.parametrize(
    ("flag", "code", "said"),
    [
        ("--trainer.limit_train_batches=0.001", 2, "limit_train_batches is 0.001, which leaves 0 of 100 batches"),
        ("--trainer.overfit_batches=1", 2, "trainer.overfit_batches is 1"),
        ("--trainer.fast_dev_run=1", 0, "smoke test fast_dev_run: nothing is bought, judged or saved"),
    ],
)
def test_options_that_would_buy_in_vain_are_named(
    capsys: pytest.CaptureFixture[str], here: Path, flag: str, code: int, said: str
) -> None:
    free = REFUSED.replace(", budget_cost_usd: 5.0", "").replace("toys_of_check.Teacher", "tests.toys.ToyTeacher")
    (here / "more.yaml").write_text(free, encoding="utf-8")
    assert check("-c", "more.yaml", "--model.width=8", "--trainer.max_steps=10", flag) == code
    assert said in printed(capsys)


@pytest.mark.parametrize(
    ("epochs", "trainer", "looks"),
    [
        (20, {}, [10 * (4 + 3), 64, 2 * 10 * 3]),
        (20, {"num_sanity_val_steps": 2, "val_check_interval": 0.5}, [10 * (8 + 1 + 3), 64, 60]),
        (20, {"limit_val_batches": 0}, [30, 64, 60]),
        (20, {"val_check_interval": 100}, [None, 64, 60]),
        (None, {}, [None, 64, None]),
    ],
)
def test_looks_of_the_figures_are_counted_over_the_whole_training(epochs, trainer, looks) -> None:
    callbacks = [
        held_out(ToyJudge(), seeds_per_prompt=3),
        mastered(ToyJudge()),
        win_rate(ToyJudge(), {"toy": ToyTeacher()}, max_prompts=16, every_n_epochs=9),
    ]
    settings = {"limit_val_batches": 1.0, "check_val_every_n_epoch": 5, "val_check_interval": 1.0}
    settings |= {"num_sanity_val_steps": 0, "callbacks": callbacks, **trainer}
    data = SimpleNamespace(held_out_prompts=ToyPrompts(10).prompts)
    readers = readers_of(SimpleNamespace(trainer=SimpleNamespace(**settings), datamodule=data), epochs)
    assert [reader.looks for reader in readers] == looks


def test_what_experts_cost_is_counted_arm_by_arm() -> None:
    stages = [Stage("one", 2), Stage("two", 2), Stage("gate", 2, kind="gate")]
    chosen = Merge("task_arithmetic", experts=["one", "two"], scales=[0.5, 1.0])
    split = ValidationSplit(ToyPrompts(3), Measures("validation", (1.0, 0.0, 0.0)), images_per_prompt=2)
    callbacks = [
        ExpertStages(stages, merges={"uniform": Merge(experts=["one", "two"]), "scaled": chosen}, validation=split),
        ExpertTable({"red": Measures("red", (1.0, 0.0, 0.0))}, images_per_prompt=4),
    ]
    data = SimpleNamespace(held_out_prompts=ToyPrompts(10).prompts)
    run = SimpleNamespace(trainer=SimpleNamespace(callbacks=callbacks, limit_val_batches=0), datamodule=data)
    arms = 6  # base, two experts, gate, two merges
    assert [reader.looks for reader in readers_of(run, 3)] == [2 * 3 * 2, arms * 10 * 4]
    assert drawings_rows(run, 3) == {
        "images drawn for ExpertStages": "at most 12", "images drawn for ExpertTable": "at most 240"
    }  # fmt: skip


PIXART = """
model:
  class_path: evolvedirector.lightning_modules.TextToImage
  init_args:
    image_size_px: 8
    objective: {class_path: evolvedirector.lightning_modules.FlowMatching}
    family:
      class_path: evolvedirector.lightning_modules.PixArt
      init_args:
        text_encoder: {class_path: evolvedirector.lightning_modules.RandomTextEncoder}
        sample_size: 8
        patch_size: 4
        pretrained: nobody/nothing
        revision: 0123abc
        pretrained_subfolder: transformer
"""


def test_weights_that_were_never_downloaded_are_named_in_one_sentence(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import PixArtTransformer2DModel

    def away(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr(PixArtTransformer2DModel, "load_config", away)
    (here / "pixart.yaml").write_text(PIXART, encoding="utf-8")
    assert check("-c", "pixart.yaml") == 2
    said = printed(capsys)
    assert "transformer/config.json of the pretrained network 'nobody/nothing'" in said
    assert "Run: hf download nobody/nothing --revision 0123abc" in said and "Traceback" not in said


def test_an_optimizer_that_keeps_less_of_some_values_is_counted_by_names(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    random = PIXART.partition("        pretrained:")[0] + "        layers: 1\n        heads: 16\n        head_dim: 64\n"
    (here / "pixart.yaml").write_text(random, encoding="utf-8")
    (here / "more.yaml").write_text(REFUSED, encoding="utf-8")
    kept = []
    for optimizer in ("torch.optim.AdamW", "evolvedirector.lightning_modules.Muon"):
        check("-c", "more.yaml", "-c", "pixart.yaml", f"--model.optimizer={optimizer}")
        (found,) = re.findall(r"train [\d.]+ MiB: student ([\d.]+) MiB", printed(capsys))
        kept.append(float(found))
    attention_and_mlp = (8 + 8) * 1024**2  # two of attention, and one of four times the width
    assert kept[0] - kept[1] == pytest.approx(4 * attention_and_mlp / 2**20, abs=0.2)


def test_a_device_without_bfloat16_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    family = PixArt(RandomTextEncoder(8), 8, patch_size=4, layers=1, heads=2, head_dim=4)
    strategy = SimpleNamespace(root_device=torch.device("cuda", 0))

    def problems(precision: str, unavailable: str = "") -> list[str]:
        trainer = SimpleNamespace(precision=precision, strategy=strategy)
        model = TextToImage(family, FlowMatching(), 8)
        return device_problems(SimpleNamespace(model=model, trainer=trainer, unavailable=unavailable))  # type: ignore[arg-type]

    (said,) = problems("bf16-mixed")
    assert "Tesla T4 has no arithmetic for bfloat16" in said
    assert problems("16-mixed") == [] == problems("bf16-mixed", unavailable="no GPU is here")
