"""The prior: learns, repeats itself exactly, draws through a frozen decoder, and says what does not fit."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.utils.data import DataLoader

from evolvedirector.errors import RunError, UserError
from evolvedirector.lightning_modules import (
    DiffusionPriorObjective,
    EclipseObjective,
    ImagePrior,
    ProjectionObjective,
    image_prior,
)
from evolvedirector.lightning_modules.priors.prior_condition import condition_of_batch
from evolvedirector.lightning_modules.priors.prior_network import PriorNetwork
from evolvedirector.lightning_modules.priors.prior_objective import draw_for_prior
from evolvedirector.models.exported_student import NETWORK
from evolvedirector.planning.roles import EmbeddingFigures, WeighsLosses, loss_in_words
from evolvedirector.records import LossRequest
from tests.lightning_modules.priors.prior_toys import DIM, LENGTH, PairBatches, ToyEmbedder, pairs, prior, request

CONFIG = """
model:
  class_path: evolvedirector.lightning_modules.ImagePrior
  init_args:
    objective:
      class_path: evolvedirector.lightning_modules.EclipseObjective
      init_args: {contrastive_weight: 0.2, reduction: sum, temperature: 0.07}
    embedder: {class_path: tests.lightning_modules.priors.prior_toys.ToyEmbedder}
    decoder: {class_path: tests.lightning_modules.priors.prior_toys.ToyDecoder}
    network: {embedding_dim: 12, heads: 2, head_dim: 8, layers: 1, text_length: 6}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 5.0e-5}}
    lr_scheduler:
      class_path: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
      init_args: {T_0: 4, T_mult: 2}
"""

DROPPING = PriorNetwork(DIM, heads=2, head_dim=8, layers=2, text_length=LENGTH, dropout=0.3)


def fit(
    module: ImagePrior, batches: list[Any], steps: int | None = None, resume: Path | None = None, **settings: Any
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps or len(batches),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None) if type(batches) is list else batches, ckpt_path=resume)
    return trainer


def losses(module: ImagePrior, batch: dict[str, Any]) -> torch.Tensor:
    """Return the losses of a batch as a step has them, without training on it."""
    module.configure_model()
    draws = draw_for_prior(batch["sample_seed"], module.objective, DIM)
    condition = condition_of_batch(batch)
    with torch.no_grad():
        return module.objective.losses(
            module._predict, batch["image_embedding"], condition, draws, batch["prompt"]
        ).total


def part_of(batch: dict[str, Any], rows: slice) -> dict[str, Any]:
    return {name: values[rows] for name, values in batch.items()}


def weights(module: ImagePrior) -> dict[str, torch.Tensor]:
    return {name: part.detach().clone() for name, part in module.named_parameters()}


@pytest.mark.parametrize("objective", [EclipseObjective(0.5), DiffusionPriorObjective(condition_dropout=0.2)])
def test_it_learns(objective: Any) -> None:
    module = prior(objective, optimizer=lambda parameters: torch.optim.AdamW(parameters, 1e-2))
    before = losses(module, pairs()).mean()
    fit(module, [pairs(number) for number in range(25)])
    assert losses(module, pairs()).mean() < 0.6 * before
    assert module.images_seen == 25 * 8


def test_lambda_0_is_projection_to_the_bit() -> None:
    one, other = prior(EclipseObjective(contrastive_weight=0, reduction="mean")), prior(ProjectionObjective("mean"))
    for module in (one, other):
        fit(module, [pairs(number) for number in range(3)])
    assert all(torch.equal(part, weights(other)[name]) for name, part in weights(one).items())
    fit(third := prior(EclipseObjective(contrastive_weight=0.2, reduction="mean")), [pairs(n) for n in range(3)])
    assert not torch.equal(third.transformer.proj_in.weight, one.transformer.proj_in.weight)  # type: ignore[union-attr]


def test_the_loss_of_a_global_batch_is_that_of_its_parts() -> None:
    for objective in (ProjectionObjective(), DiffusionPriorObjective()):
        module, batch = prior(objective), pairs()
        whole = losses(module, batch)
        torch.manual_seed(7)  # draws come from the samples' seeds alone
        parts = [losses(module, part_of(batch, rows)) for rows in (slice(0, 4), slice(4, 8))]
        torch.testing.assert_close(torch.cat(parts), whole)


def test_a_resumed_run_is_exact_schedule_and_optimizer_included(tmp_path: Path) -> None:
    def module() -> ImagePrior:
        return prior(
            DiffusionPriorObjective(condition_dropout=0.5),
            network=DROPPING,
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4, 2),
        )

    batches = [pairs(number) for number in range(6)]
    whole = fit(module(), PairBatches(batches))
    first = fit(module(), PairBatches(batches), steps=3)
    first.save_checkpoint(tmp_path / "middle.ckpt")
    resumed = fit(module(), PairBatches(batches), steps=6, resume=tmp_path / "middle.ckpt")
    for one, other in ((whole, resumed),):
        assert all(torch.equal(part, weights(other.model)[name]) for name, part in weights(one.model).items())  # type: ignore[arg-type]
        assert one.optimizers[0].param_groups[0]["lr"] == other.optimizers[0].param_groups[0]["lr"] != 3e-3
        state, again = (trainer.optimizers[0].state_dict()["state"] for trainer in (one, other))
        assert all(torch.equal(state[key]["exp_avg_sq"], again[key]["exp_avg_sq"]) for key in state)
    assert resumed.model.images_seen == 48  # type: ignore[union-attr]


def test_dropout_follows_from_the_samples_seeds_and_not_from_the_length_of_texts() -> None:
    module, batch = prior(ProjectionObjective(), network=DROPPING), pairs()
    module.configure_model()
    short = {name: batch[name][:, :4] for name in ("text_states", "text_mask")}

    def dropping(rows: slice, **changes: torch.Tensor) -> torch.Tensor:
        some = part_of(batch | changes, rows)
        network, condition = module.transformer.train(), condition_of_batch(some)  # type: ignore[union-attr]
        given = (condition.text_embedding, condition.text_states, condition.text_mask)
        noise = torch.ones(len(some["key"]), DIM)
        return network(noise, *given, pads=False, dropout_seeds=some["sample_seed"]).detach()

    whole = dropping(slice(0, 8))
    torch.manual_seed(7)
    torch.testing.assert_close(torch.cat([dropping(slice(0, 4)), dropping(slice(4, 8))]), whole)
    torch.testing.assert_close(dropping(slice(0, 8), **short), whole)
    assert not torch.allclose(dropping(slice(0, 8), sample_seed=batch["sample_seed"] + 1), whole, atol=1e-3)
    with pytest.raises(UserError, match=r"dropout 0.3 and trains.* dropout_seeds"):
        module.transformer.train()(*module_inputs(batch))  # type: ignore[union-attr]
    assert torch.equal(module.transformer.eval()(*module_inputs(batch)), module.transformer(*module_inputs(batch)))  # type: ignore[union-attr]


def module_inputs(batch: dict[str, Any]) -> list[torch.Tensor]:
    return [torch.ones(8, DIM), *(batch[name] for name in ("text_embedding", "text_states", "text_mask"))]


@pytest.mark.filterwarnings("ignore:.*Treespec.*", "ignore:.*treespec.*")
def test_loggers_get_every_figure_in_the_same_steps(tmp_path: Path) -> None:
    trainer = Trainer(
        accelerator="cpu", max_steps=4, accumulate_grad_batches=2, log_every_n_steps=2, gradient_clip_val=1.0,
        logger=CSVLogger(tmp_path), enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(prior(), DataLoader([pairs(number) for number in range(8)], batch_size=None))  # type: ignore[arg-type]
    (path,) = tmp_path.rglob("metrics.csv")
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [row["step"] for row in rows] == ["1", "3"]
    for name in ("projection_loss", "contrastive_loss", "learning_rate", "gradient_norm"):
        assert all(row[f"train/{name}"] for row in rows), name


def test_frozen_parts_are_in_no_checkpoint_but_compared(tmp_path: Path) -> None:
    trainer = fit(prior(), [pairs()])
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in saved["state_dict"]} == {NETWORK}
    assert saved["image_prior"]["frozen_parts"] == {"embedder": "toy-embedder", "decoder": "toy-decoder"}
    assert not any("decoder" in name for name, _ in prior().named_parameters())
    other = prior()
    other.embedder.fingerprint = "another"  # type: ignore[misc]
    with pytest.raises(UserError, match="This run has the embedder 'another'"):
        other.on_load_checkpoint(saved)
    with pytest.raises(UserError, match="seed is 1, but"):
        fit(prior(seed=1), [pairs()], steps=2, resume=tmp_path / "one.ckpt")


def test_an_image_follows_from_prompt_and_seed_whatever_stands_beside_it() -> None:
    module = prior()
    wanted = [request("a fox", 1), request("two red dogs", 2), request("a fox", 3), request("a fox", 1, side=6)]
    images = module.generate(wanted)
    assert [image.shape for image in images] == [(3, 4, 4)] * 3 + [(3, 6, 6)]
    assert all(image.dtype == torch.uint8 for image in images)
    assert torch.equal(module.generate(wanted[1:2])[0], images[1])
    assert torch.equal(images[0][:, 0, 0], images[3][:, 0, 0]) and not torch.equal(images[0], images[2])
    embedded = module.embed(wanted)
    assert torch.equal(module.embed(wanted[2:3])[0], embedded[2]) and module.embed([]).shape == (0, DIM)
    assert module.training and not embedded.requires_grad


def test_the_diffusion_baseline_draws_with_the_empty_text() -> None:
    module = prior(DiffusionPriorObjective(sampling_steps=2, guidance_scale=4.0))
    assert not torch.equal(module.embed([request("a fox")]), module.embed([request("")]))


def test_without_a_decoder_it_trains_and_embeds_and_does_not_draw() -> None:
    module = prior(decoder=None)
    fit(module, [pairs()])
    assert module.embed([request("a fox")]).shape == (1, DIM)
    with pytest.raises(UserError, match="has no decoder"):
        module.generate([request("a fox")])


def test_pairs_for_validation_are_measured() -> None:
    module = prior()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    found = trainer.validate(module, DataLoader([pairs()], batch_size=None), verbose=False)[0]  # type: ignore[arg-type]
    assert found.keys() == {"val/squared_distance", "val/cosine_to_image", "val/cosine_to_text"}


def test_edges_and_subjects_of_a_batch_are_trained_on() -> None:
    network = PriorNetwork(DIM, heads=2, head_dim=8, layers=1, text_length=LENGTH, reads_edges=True)
    module = prior(network=network)
    batch = pairs() | {"edge_embedding": torch.ones(8, DIM)}
    subjects = {
        "subject_tokens": torch.zeros(8, 1, LENGTH, dtype=torch.bool),
        "subject_embeddings": torch.ones(8, 1, DIM),
    }
    subjects["subject_tokens"][0, 0, 1] = True
    plain, found = losses(module, batch), losses(module, batch | subjects)
    assert found[0] != plain[0]
    fit(module, [batch | subjects])
    assert module.embed([request("a fox")]).isfinite().all()  # beside a black image


def test_the_loss_of_a_sample_is_its_own() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 10, 60)).save(buffer, "PNG")
    asked = [LossRequest(text, buffer.getvalue(), text, (5, 6)) for text in ("a fox", "two dogs", "a hat")]
    for objective in (EclipseObjective(0.5), DiffusionPriorObjective()):
        module = prior(objective)
        found = module.sample_losses(asked)
        assert module.sample_losses(asked[1:2]) == found[1:2] and len(set(found)) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"image_embedding": torch.zeros(8, 5)}, "image_embedding of the training batch has the width 5"),
     ({"text_embedding": torch.full((8, DIM), torch.nan)}, "of 'word0 and word10' is not finite (8 of 8"),
     ({"text_mask": None}, "has no text_mask"), ({"image_embedding": None}, "has no image_embedding"),
     ({"text_mask": torch.ones(8, LENGTH)}, "text_mask is torch.float32"),
     ({"text_states": torch.zeros(8, LENGTH, 5)}, "have the widths (12, 12, 5), but this prior reads (12, 12, 12)")],
)  # fmt: skip
def test_pairs_that_cannot_be_trained_on_are_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        fit(prior(), [pairs() | changes])
    assert said in str(error.value)


def test_states_that_are_not_finite_end_the_run_with_their_samples() -> None:
    batch = pairs()
    batch["text_states"][2, 1] = torch.nan
    with pytest.raises(RunError, match="samples word2 and word11"):
        fit(prior(EclipseObjective(0), nonfinite_limit=1), [batch])


def test_a_config_states_the_schedule_and_all_that_lambda_needs(tmp_path: Path) -> None:
    (tmp_path / "prior.yaml").write_text(CONFIG)
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    parser.add_argument("--config", action="config")
    module = parser.instantiate_classes(parser.parse_args([f"--config={tmp_path / 'prior.yaml'}"])).model
    assert isinstance(module, ImagePrior) and isinstance(module, WeighsLosses)
    module.configure_model()
    configured = module.configure_optimizers()
    schedule, rates = configured["lr_scheduler"]["scheduler"], []
    for _ in range(13):
        rates.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        schedule.step()
    assert [place for place, rate in enumerate(rates) if rate == 5e-5] == [0, 4, 12]  # T_0 4, then twice as long

    class Data:
        def embedding_figures(self) -> EmbeddingFigures:
            return EmbeddingFigures(5_000_000, 16.04, 768, 768)

    said = loss_in_words(module, Data())
    assert said == (
        "contrastive weight 0.2, reduction sum, temperature 0.07, negatives of each rank's batch, embedding norm 16, "
        "pairs 5,000,000"
    )
    assert "known when samples are embedded" in loss_in_words(module, None)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="temperature 0"):
        EclipseObjective(temperature=0)
    for objective in (EclipseObjective, ProjectionObjective):
        with pytest.raises(UserError, match=r"reduction is 'Sum'.* sum or mean"):
            objective(reduction="Sum")
    with pytest.raises(UserError, match="generation_chunk_size is 0"):
        ImagePrior(EclipseObjective(), ToyEmbedder(), generation_chunk_size=0)


def test_draws_lie_where_the_network_does_though_seeds_stay_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def drawn(seeds: torch.Tensor, *_: object) -> None:
        seen.append(seeds.device.type)
        raise InterruptedError

    monkeypatch.setattr(image_prior, "draw_for_prior", drawn)
    batch = {k: v.to("meta") if torch.is_tensor(v) and k != "sample_seed" else v for k, v in pairs(0).items()}
    with pytest.raises(InterruptedError):
        prior(EclipseObjective()).to("meta").training_step(batch, 0)
    assert seen == ["meta"]
