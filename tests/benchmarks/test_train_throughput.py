"""What training is measured against: the shares of computing, the rival's loss, turns and their interval."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule

from benchmarks.diffusers_recipe import DiffusersRecipe
from benchmarks.interleaved import median_interval, take_turns
from benchmarks.tiny_pixart import PUBLISHED, SIDE_PX, count_shares, save_pipeline
from benchmarks.train_throughput import compared, student
from evolvedirector.lightning_modules import FlowMatching, TextToImage
from evolvedirector.lightning_modules.draws import draw
from tests.lightning_modules.tiny_student import SIDE, Batches, family

PROMPTS = ["a red circle", "two blue stars"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("throughput") / "pipeline"
    save_pipeline(folder, PROMPTS)
    return folder


@pytest.fixture(scope="module")
def recipe(pipeline: Path) -> DiffusersRecipe:
    return DiffusersRecipe(pipeline, [Path("unread.png")] * 2, PROMPTS, 2)


def test_the_parts_keep_the_published_shares_of_computing(recipe: DiffusersRecipe) -> None:
    shares = count_shares(recipe.pipeline)
    for part, published in zip(shares, PUBLISHED, strict=True):
        assert part / shares.step == pytest.approx(published / PUBLISHED[2], rel=0.02)
    assert shares.ceiling == pytest.approx(1.68, abs=0.02)


def test_our_loss_is_that_of_the_recipe_at_equal_draws(pipeline: Path, recipe: DiffusersRecipe) -> None:
    module = student(pipeline, condition_dropout=0.0)
    module.configure_model()
    module._log_training = lambda *_: None  # type: ignore[method-assign]
    images = torch.randint(256, (2, 3, SIDE_PX, SIDE_PX), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    batch: dict[str, Any] = {"image": images, "prompt": PROMPTS, "sample_seed": torch.tensor([5, 9])}
    ours = module.training_step(batch, 0)

    draws = draw(batch["sample_seed"], module.objective, 0.0, (4, 8, 8), latent=True)
    with torch.no_grad():
        posterior = recipe.pipeline.vae.encode(images.float() / 127.5 - 1).latent_dist
        latents = (posterior.mean + posterior.std * draws.latent_noise) * recipe.pipeline.vae.config.scaling_factor
        states, mask, _, _ = recipe.pipeline.encode_prompt(
            PROMPTS, do_classifier_free_guidance=False, max_sequence_length=24, clean_caption=False
        )
        theirs = recipe.loss(latents, draws.noise, draws.time.long(), states, mask)
    assert float(ours.detach()) == pytest.approx(float(theirs), rel=1e-5)


class Data(LightningDataModule):
    def train_dataloader(self) -> Batches:
        return Batches()


def test_turns_alternate_and_leave_the_warm_up_out() -> None:
    numbers: list[int] = []
    ticks = iter(range(1000))
    module = TextToImage(family(), FlowMatching(prediction="x0"), SIDE)
    turns = take_turns(module, Data(), numbers.append, lambda: float(next(ticks)), warm_up=2)
    assert numbers == list(range(len(numbers))) and len(numbers) > 2
    assert turns.seconds == [(1.0, 1.0)] * (len(numbers) - 2)


def test_a_bar_is_held_only_where_the_whole_interval_is_past_it(capsys: pytest.CaptureFixture[str]) -> None:
    found = median_interval([1.0, 1.1, 1.2, 1.3, 1.4] * 20)
    assert found.median == 1.2 and 1.0 < found.low <= 1.2 <= found.high < 1.4
    assert compared("train", [(1.0, 1.1)] * 5, 8)["bar_is"] == "held"
    assert compared("train", [(1.0, 0.9)] * 5, 8)["bar_is"] == "missed"
    assert compared("train", [(1.0, 0.5), (1.0, 1.5), (1.0, 1.1)], 8)["bar_is"] == "open"
    assert "bar 1.0: open" in capsys.readouterr().out
