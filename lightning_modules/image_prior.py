"""The prior of ECLIPSE as a LightningModule: from texts to image embeddings, which a decoder draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.assemble import Where, built_by_seed, make_ready
from evolvedirector.lightning_modules.compute import Compute
from evolvedirector.lightning_modules.families.pretrained import Pretrained
from evolvedirector.lightning_modules.finite_steps import FiniteSteps, OnNonFinite
from evolvedirector.lightning_modules.optimisation import (
    clip_and_settle,
    goes_to_loggers,
    log_training,
    optimizer_and_schedule,
)
from evolvedirector.lightning_modules.optimizers.factory import OptimizerFactory
from evolvedirector.lightning_modules.part_checks import check_device, check_frozen_parts, check_precision, check_seed
from evolvedirector.lightning_modules.priors.prior_condition import PriorCondition, check_pairs
from evolvedirector.lightning_modules.priors.prior_memory import PriorWork, predict_prior_work
from evolvedirector.lightning_modules.priors.prior_network import PriorNetwork
from evolvedirector.lightning_modules.priors.prior_objective import PriorDraws, PriorObjective, draw_for_prior
from evolvedirector.lightning_modules.priors.prior_space import PriorSpace
from evolvedirector.lightning_modules.priors.request_condition import ConditionReader
from evolvedirector.lightning_modules.priors.subject_states import Subject
from evolvedirector.lightning_modules.sample_losses import images_of
from evolvedirector.lightning_modules.sampling import chunks_of_one_size, drawing, initial_noise
from evolvedirector.lightning_modules.throughput import Throughput
from evolvedirector.models.embedder import IMAGE_EMBEDDING, Embedder
from evolvedirector.models.embedding_decoder import EmbeddingDecoder
from evolvedirector.models.evaluated_weights import evaluate_weights, evaluated_weights, train_weights
from evolvedirector.planning.memory import WorkBytes
from evolvedirector.records import ImageRequest, LossRequest
from evolvedirector.records.part import Part
from evolvedirector.records.plain_settings import settings_of

if TYPE_CHECKING:
    from jaxtyping import Float


class ImagePrior(LightningModule):
    """Train a small prior to turn texts into image embeddings, and draw images from these with a frozen decoder.

    ECLIPSE (Patel et al. 2023, arXiv:2312.04655), its projection baseline and its diffusion baseline are this module
    with one objective or another; lambda-ECLIPSE (arXiv:2402.05195) is it with subjects or edges in its batches.

    Training batches are dicts: `text_states` float (batch, token, width), `text_mask` bool (batch, token),
    `text_embedding` and `image_embedding` float (batch, embedding), all raw, `sample_seed` int64 (batch), `prompt` list
    of str, `edge_embedding` where the network reads edges, and `subject_tokens` bool (batch, subject, token) with
    `subject_embeddings` (batch, subject, embedding) where texts have subjects. Every draw of a step follows from
    `sample_seed`. Validation batches of that form are measured; those that are lists of `ImageRequest` are drawn.
    Embedder and decoder are frozen and stay outside checkpoints; their fingerprints are inside.

    Args:
        objective: What is learned, and how an embedding is drawn.
        embedder: Embeds texts where something is drawn; its space is the one that is learned.
        decoder: Draws what embeddings say. None: the prior trains and embeds, and does not draw.
        network: Numbers of the network. None: those of ECLIPSE beside Karlo.
        pretrained: Folder or repository of weights to start from, such as a released ECLIPSE prior. None: random ones.
        revision: Git revision of the repository; None for a folder.
        optimizer: Makes the optimizer from the parameters, or from the parameters and their names (`Muon`).
        lr_scheduler: Makes the learning-rate schedule, stepped once per optimizer step; None keeps the rate constant.
            ECLIPSE uses `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`, without saying its T_0.
        image_size_px: Side of the square images that are drawn where nobody asks for another size.
        generation_chunk_size: Images drawn at once. Chunks always have this size, so that an image does not depend on
            how many were asked for.
        seed: Names the initial weights.
        on_nonfinite: What ends a run whose loss or gradient is not finite, as in `TextToImage`.
        nonfinite_limit: Steps in a row.
        compute: Memory against time, kernels and compilation of the network. None: as torch chooses.
        edge_dropout: Share of training samples that lose their edge picture, where the network reads edges; they read a
            black one, as do samples without any. lambda-ECLIPSE has 0.01.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(
        self,
        objective: PriorObjective,
        embedder: Embedder,
        decoder: EmbeddingDecoder | None = None,
        network: PriorNetwork | None = None,
        pretrained: str | None = None,
        revision: str | None = None,
        optimizer: OptimizerCallable | OptimizerFactory = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        image_size_px: int = 512,
        generation_chunk_size: int = 16,
        seed: int = 0,
        on_nonfinite: OnNonFinite = "stop",
        nonfinite_limit: int = 5,
        compute: Compute | None = None,
        edge_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.network = settings_of(PriorNetwork, network or PriorNetwork(), "network")
        self.pretrained = None if pretrained is None else Pretrained(pretrained, revision)
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.image_size_px = image_size_px
        self.generation_chunk_size = generation_chunk_size
        self.seed = seed
        self.compute = settings_of(Compute, compute or Compute(), "compute")
        # held apart: one that is an nn.Module would be trained, averaged and saved as a child of this one
        self._space = PriorSpace(self.network, objective.reads_time, self.pretrained, embedder, decoder)
        # the trained network, under the name by which checkpoints, averages and shards know weights
        self.transformer: nn.Module | None = None
        reads = (self.network.text_length, self.network.reads_edges, image_size_px, edge_dropout)
        self._conditions = ConditionReader(embedder, *reads)
        self.register_state_dict_pre_hook(lambda *_: evaluate_weights(self._optimizers))
        self.images_seen = 0
        """Training pairs so far, over all ranks."""
        self._throughput = Throughput()
        self._finite_steps = FiniteSteps(on_nonfinite, nonfinite_limit)
        if generation_chunk_size < 1 or image_size_px < 1:
            raise UserError(
                f"generation_chunk_size is {generation_chunk_size} and image_size_px {image_size_px}. Both must be at "
                "least 1. Write generation_chunk_size: 16, image_size_px: 512."
            )

    @property
    def embedder(self) -> Embedder:
        """Return the frozen embedder."""
        return self._space.embedder

    @property
    def decoder(self) -> EmbeddingDecoder | None:
        """Return the frozen decoder."""
        return self._space.decoder

    def parts(self) -> Mapping[str, Part]:
        """Name what the prior is built of: verified, sized and closed with the other parts of a run."""
        parts: dict[str, Part] = {"network": self._space, "embedder": self.embedder}
        return parts if self.decoder is None else parts | {"decoder": self.decoder}

    def starts_from(self) -> str | None:
        """Name the pretrained weights that the network is built with; None: random ones."""
        return None if self.pretrained is None else self.pretrained.name

    @property
    def draws(self) -> bool:
        """Whether there is a decoder to draw with."""
        return self.decoder is not None

    def loss_settings(self) -> Mapping[str, str]:
        """Name the numbers of the loss, which mean something only together."""
        return self.objective.loss_settings()

    def work_bytes(self, batch_size: int, size_px: tuple[int, int], precision: str) -> WorkBytes:
        """Predict what training and drawing take on a device beside weights, gradients and optimizer.

        Args:
            batch_size: Pairs of one device and step.
            size_px: Not read: pairs have no size.
            precision: Of the trainer.
        """
        with torch.device("meta"):
            network = self.network.build(self.objective.reads_time, None)
        make_ready(network, list(cast(Any, network).transformer_blocks), self.compute, Where(precision))
        drawn = (self.generation_chunk_size, self.image_size_px)
        work = PriorWork(network, self.network, self.objective, self.decoder, batch_size, precision, *drawn)
        return predict_prior_work(work)

    def check_precision(self, precision: str) -> None:
        """Refuse a precision of the trainer that keeps the weights themselves in half precision."""
        check_precision(precision)

    def setup(self, stage: str) -> None:
        """Refuse a precision that cannot work, and parts of different spaces.

        Raises:
            UserError: One of them does not fit.
        """
        self.check_precision(str(self.trainer.precision))
        check_device(str(self.trainer.precision), self.trainer.strategy.root_device)
        self._space.check()

    def configure_model(self) -> None:
        """Build the network with weights named by `seed`, or the pretrained ones, and its shards where there are."""
        if self.transformer is not None:
            return
        where = Where() if self._trainer is None else Where.of(self.trainer, self._device_mesh)
        build = partial(self.network.build, self.objective.reads_time, self.pretrained)
        network: Any = built_by_seed(build, self.seed, torch.get_default_device())
        make_ready(network, list(network.transformer_blocks), self.compute, where)
        self.transformer = network

    def configure_optimizers(self) -> Any:
        """Make optimizer and learning-rate schedule for the trainable parameters."""
        precision = "32-true" if self._trainer is None else str(self.trainer.precision)
        return optimizer_and_schedule(self, self.make_optimizer, self.make_lr_scheduler, precision)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip, log the norm before clipping, and drop an update that is not finite; called before every update."""
        clip_and_settle(self, self._finite_steps, optimizer, gradient_clip_val, gradient_clip_algorithm)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the mean loss of the local batch; its mean over ranks is that of the global batch.

        Raises:
            UserError: An embedding is not finite or has another width.
        """
        check_pairs(batch, self.network.embedding_dim)
        seeds = batch["sample_seed"].to(self.device)
        condition = self._conditions.of_batch(batch, seeds).to(self.device)
        draws = draw_for_prior(seeds, self.objective, self.network.embedding_dim)
        if self.objective.condition_dropout:
            condition = condition.without_text(self._conditions.empty_text().to(self.device), draws.dropped)
        predict = partial(self._predict, dropout_seeds=seeds) if self.network.dropout else self._predict
        found = self.objective.losses(predict, batch[IMAGE_EMBEDDING].float(), condition, draws, list(batch["prompt"]))
        for name, values in found.parts.items() if goes_to_loggers(self.trainer) else ():
            self.log(f"train/{name}", values.detach().mean(), batch_size=len(values))
        self.images_seen += log_training(self, found.total, batch, self._finite_steps, self._throughput)
        return found.total.mean()

    def validation_step(  # type: ignore[override]
        self, batch: Any, batch_idx: int
    ) -> list[Tensor] | None:
        """Draw requested images; of a batch of pairs, log how near predictions come to images and texts."""
        if not isinstance(batch, Mapping):
            return self.generate(batch)
        check_pairs(batch, self.network.embedding_dim)
        with evaluated_weights(self._optimizers), drawing(self), self._precision():
            condition, target = self._conditions.of_batch(batch).to(self.device), batch[IMAGE_EMBEDDING].float()
            predicted = self._sample(condition, batch["sample_seed"].tolist())
        figures = {
            "squared_distance": ((predicted - target) ** 2).sum(-1),
            "cosine_to_image": F.cosine_similarity(predicted, target),
            "cosine_to_text": F.cosine_similarity(predicted, condition.text_embedding),
        }
        for name, values in figures.items():
            self.log(f"val/{name}", values.mean(), batch_size=len(values), sync_dist=True)
        return None

    def test_step(  # type: ignore[override]
        self, batch: list[ImageRequest], batch_idx: int
    ) -> list[Tensor]:
        """Draw the requested images."""
        return self.generate(batch)

    def predict_step(self, batch: list[ImageRequest], batch_idx: int) -> list[Tensor]:
        """Draw the requested images."""
        return self.generate(batch)

    def generate(self, requests: Sequence[ImageRequest]) -> list[Tensor]:
        """Draw one uint8 image (3, height, width) per request, on the CPU.

        An image follows from prompt, size, files and seed alone: chunks have one size (the last is padded) and hold
        images of one size, and texts have one length.

        Args:
            requests: Prompts with seeds, in any sizes that the decoder takes.

        Raises:
            UserError: There is no decoder.
        """
        decoder = self.decoder
        if decoder is None:
            raise UserError(
                "This prior has no decoder, so it predicts embeddings and draws no images. Allowed without one are "
                "training, and embed(requests). Write model.init_args.decoder, say "
                "{class_path: evolvedirector.lightning_modules.KandinskyDecoder, ...}."
            )
        embeddings, images = self.embed(requests), dict[int, Tensor]()
        decoder.to(self.device)
        for places, chunk in chunks_of_one_size(requests, self.generation_chunk_size):
            padded = embeddings[places + places[-1:] * (len(chunk) - len(places))]
            with torch.no_grad():
                drawn = decoder.decode(padded.to(self.device), None, chunk)
            images |= dict(zip(places, drawn, strict=False))
        return [images[place] for place in range(len(requests))]

    def embed(
        self,
        requests: Sequence[ImageRequest],
        subjects: Sequence[Sequence[Subject]] | None = None,
        edges: Float[Tensor, "batch embedding"] | None = None,
    ) -> Float[Tensor, "batch embedding"]:
        """Return the embedding that is predicted for each request, raw, on the CPU in float32.

        Args:
            requests: Prompts with seeds, and perhaps the files `subjects`, `subject` to `subject_4`, and `edge`.
            subjects: Of each prompt, as lambda-ECLIPSE reads them, in place of those of its files. None: those.
            edges: Embedding of an edge image for each. None: that of its file or of a black image, where the network
                reads edges.

        Raises:
            UserError: A subject does not stand in its prompt, or nobody says which tokens stand for it.
        """
        size, found = self.generation_chunk_size, []
        for start in range(0, len(requests), size):
            places = list(range(start, min(start + size, len(requests))))
            padded = places + places[-1:] * (size - len(places))
            named = None if subjects is None else [subjects[place] for place in padded]
            chunk = [requests[place] for place in padded]
            condition = self._conditions.of_requests(chunk, named, None if edges is None else edges[padded])
            self.configure_model()
            with evaluated_weights(self._optimizers), drawing(self), self._precision():
                predicted = self._sample(condition.to(self.device), [requests[place].seed for place in padded])
            found.append(predicted[: len(places)].float().cpu())
        return torch.cat(found) if found else torch.empty(0, self.network.embedding_dim)

    def sample_losses(self, requests: Sequence[LossRequest]) -> list[float]:
        """Return the mean training loss of each sample over its noise seeds, without its contrast with other samples.

        A loss follows from sample and seeds alone: its image is embedded anew, and chunks have one size.

        Args:
            requests: Samples with the seeds of their noise, all of as many.
        """
        losses: list[float] = []
        for start in range(0, len(requests), self.generation_chunk_size):
            chunk = list(requests[start : start + self.generation_chunk_size])
            padded = chunk + chunk[-1:] * (self.generation_chunk_size - len(chunk))
            losses += self._losses_of_chunk(padded)[: len(chunk)]
        return losses

    def on_train_epoch_start(self) -> None:
        """Start a throughput measurement, which what lies between epochs is no part of."""
        self._throughput.start()

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Train the weights that are trained, where the optimizer evaluates others."""
        train_weights(self._optimizers)

    def on_train_end(self) -> None:
        """Refuse to end well in a row of steps that are not finite; the last checkpoint is saved by now.

        Raises:
            RunError: The last step was not finite, unless such steps are to be skipped.
        """
        evaluate_weights(self._optimizers)
        self._finite_steps.at_end(self.trainer.global_step)

    @property
    def nonfinite_in_a_row(self) -> int:
        """Steps in a row, up to the last one, whose loss or gradient was not finite."""
        return self._finite_steps.in_a_row

    def summary_entries(self) -> dict[str, Any]:
        """Return this module's part of `summary.json`."""
        return {"nonfinite_steps": self._finite_steps.count, "nonfinite_at": list(self._finite_steps.steps)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store pairs seen, the fingerprints of the frozen parts, the seed and the steps that were not finite."""
        checkpoint["image_prior"] = {
            "images_seen": self.images_seen,
            "frozen_parts": self._frozen_parts,
            "finite_steps": self._finite_steps.state(),
            "seed": self.seed,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore pairs seen; refuse a checkpoint of another space, or one that began from other weights.

        Raises:
            UserError: Embedder, decoder or, where training goes on, the seed differs.
        """
        state = checkpoint.get("image_prior", {})
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            check_seed(self.seed, state.get("seed", self.seed))
        self.images_seen = state.get("images_seen", 0)
        self._finite_steps.restore(state.get("finite_steps", {}))
        check_frozen_parts(self._frozen_parts, state.get("frozen_parts", {}))

    @property
    def _frozen_parts(self) -> dict[str, str]:
        parts = {"embedder": self.embedder.fingerprint}
        return parts if self.decoder is None else parts | {"decoder": self.decoder.fingerprint}

    @property
    def _optimizers(self) -> Sequence[torch.optim.Optimizer]:
        return [] if self._trainer is None else self.trainer.optimizers

    def _precision(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._trainer is None else self.trainer.precision_plugin.forward_context()

    def _predict(
        self, noise: Tensor, time: Tensor | None, condition: PriorCondition, dropout_seeds: Tensor | None = None
    ) -> Tensor:
        """Predict without padding texts further: for drawing they have one length, and training is quicker without."""
        network = cast(nn.Module, self.transformer)
        predicted: Tensor = network(
            noise,
            condition.text_embedding,
            condition.text_states,
            condition.text_mask,
            time,
            condition.edge_embedding,
            self.compute.compile_blocks,  # which would compile anew for each length
            dropout_seeds,
        )
        return predicted

    def _sample(self, condition: PriorCondition, seeds: Sequence[int]) -> Float[Tensor, "batch embedding"]:
        null = self._conditions.empty_text().to(self.device) if self.objective.guides else None
        shape = (len(seeds), self.network.embedding_dim)
        return self.objective.sample(self._predict, shape, seeds, condition, null)

    def _losses_of_chunk(self, requests: Sequence[LossRequest]) -> list[float]:
        self.configure_model()
        seeds = [request.noise_seeds for request in requests]
        target = self.embedder.embed_images(list(images_of(requests, self.image_size_px))).to(self.device)
        total = torch.zeros(len(requests))
        with evaluated_weights(self._optimizers), drawing(self), self._precision():
            condition = self._conditions.of_requests(requests).to(self.device)
            for number, level in enumerate(zip(*seeds, strict=True)):
                share = torch.full((len(requests),), (number + 0.5) / len(seeds[0]), device=self.device)
                noise = initial_noise(list(level), target.shape[1:]).to(self.device)
                draws = PriorDraws(share < 0, self.objective.times(share), noise)
                total += self.objective.own_losses(self._predict, target, condition, draws).float().cpu()
        return (total / len(seeds[0])).tolist()
