"""The student: a text-to-image model as a LightningModule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.experts.gate_weights import balance_loss, collecting
from evolvedirector.experts.network_experts import NetworkExperts
from evolvedirector.experts.trained import Trained
from evolvedirector.lightning_modules.adapter_checkpoint import check_adapters, drop_base, miss_no_base, saved_form
from evolvedirector.lightning_modules.assemble import Where, assemble, autocast
from evolvedirector.lightning_modules.compute import Compute
from evolvedirector.lightning_modules.families.family import Family
from evolvedirector.lightning_modules.families.pretrained import StartsPretrained
from evolvedirector.lightning_modules.finite_steps import FiniteSteps, OnNonFinite
from evolvedirector.lightning_modules.latents import latent_bytes
from evolvedirector.lightning_modules.learned_variance import check_variance
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.optimisation import clip_and_settle, log_training, optimizer_and_schedule
from evolvedirector.lightning_modules.optimizers.factory import OptimizerFactory
from evolvedirector.lightning_modules.part_checks import (
    check_device,
    check_frozen_parts,
    check_image_size,
    check_precision,
    check_seed,
    frozen_fingerprints,
)
from evolvedirector.lightning_modules.predicted_memory import Work, predict_work
from evolvedirector.lightning_modules.prediction_type import check_prediction
from evolvedirector.lightning_modules.sampling import drawing
from evolvedirector.lightning_modules.student import Sampling, Student
from evolvedirector.lightning_modules.text_cache import TextCache
from evolvedirector.lightning_modules.throughput import Throughput
from evolvedirector.lightning_modules.training_caches import TrainingCaches
from evolvedirector.models.evaluated_weights import evaluate_weights, evaluated_weights, train_weights
from evolvedirector.planning.memory import WorkBytes
from evolvedirector.planning.roles import HasBuckets
from evolvedirector.records import ImageRequest, LossRequest
from evolvedirector.records.buckets import BucketSize
from evolvedirector.records.condition import Size
from evolvedirector.records.part import Part
from evolvedirector.records.plain_settings import settings_of


class TextToImage(LightningModule):
    """Train a diffusion network on images with prompts, and draw images with it.

    Training batches are dicts: `image` uint8 (batch, 3, height, width), `prompt` list of str, `sample_seed` int64
    (batch), and one tensor under the name of each role that the family reads. They may say how their images were cut:
    `original_size_px` int64 (batch, 2), height and width before, and `crop_top_left_px` int64 (batch, 2), rows and
    columns left out above and left after scaling; without them an image counts as whole.

    Images of one batch have one size, which need not be square nor that of the next batch. Every draw of a step follows
    from `sample_seed`, so the loss of a global batch depends neither on the world size nor on what ran before.
    Validation, test and prediction batches are lists of `ImageRequest`. Text encoders and codec are frozen and stay
    outside checkpoints; their fingerprints are inside.

    Args:
        family: describes the network with its text encoders and codec; the network is built in `configure_model` so
            that a strategy can shard it.
        objective: what the network predicts, and how images are sampled from that.
        image_size_px: side of the square images that are drawn where nobody asks for another size.
        trained: what of the network is trained, and how the rest is kept. None: all of it.
        compute: memory against time, kernels and compilation of the network. None: as torch chooses.
        optimizer: makes the optimizer from the parameters, or from the parameters and their names (`Muon`). AdamW is
            fused on a GPU unless its settings say otherwise.
        lr_scheduler: makes the learning-rate schedule, stepped once per optimizer step; None keeps the rate constant.
        condition_dropout: share of training samples that lose their text, which guidance needs.
        guidance_scale: classifier-free guidance of drawn images; 1 is none.
        sampling_steps: scheduler steps per drawn image.
        generation_chunk_size: images drawn at once. Chunks always have this size, so that an image does not depend on
            how many were asked for.
        text_cache_folder: keeps the text states of training prompts across runs; None: `caches/text` in the data root
            of the datamodule, and in memory only where it has none.
        text_cache_mib: cap of the text states in memory, in MiB.
        text_cache_gib: cap of the text states on disk, in GiB; at its cap the cache stops writing, and warns. 0 keeps
            them in memory only.
        latent_cache_gib: cap of the latents of training images on disk, in `caches/latents` of the data root, in GiB; 0
            encodes every image each time. Latents take more room than text states, and save the codec in every step.
        seed: names the initial weights.
        on_nonfinite: what ends a run whose loss or gradient is not finite. Such an update is never applied, on any
            rank; step count and learning rate go on. `stop`: an error after `nonfinite_limit` such steps in a row, or
            where training ends in such a row. `skip`: an error only where the weights are not finite either.
        nonfinite_limit: steps in a row.

    Raises:
        UserError: if the parts do not fit each other, or a number is out of range.
    """

    def __init__(
        self,
        family: Family,
        objective: Objective,
        image_size_px: int,
        optimizer: OptimizerCallable | OptimizerFactory = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        condition_dropout: float = 0.1,
        guidance_scale: float = 3.0,
        sampling_steps: int = 20,
        generation_chunk_size: int = 16,
        text_cache_folder: Path | None = None,
        text_cache_mib: int = 256,
        text_cache_gib: float = 32.0,
        latent_cache_gib: float = 64.0,
        seed: int = 0,
        on_nonfinite: OnNonFinite = "stop",
        nonfinite_limit: int = 5,
        trained: Trained | None = None,
        compute: Compute | None = None,
    ) -> None:
        super().__init__()
        self.family = family
        self.objective = objective
        self.image_size_px = image_size_px
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.condition_dropout = condition_dropout
        self.guidance_scale = guidance_scale
        self.sampling_steps = sampling_steps
        self.generation_chunk_size = generation_chunk_size
        self.text_cache_folder = text_cache_folder
        self.text_cache_gib = text_cache_gib
        self.latent_cache_gib = latent_cache_gib
        self.seed = seed
        self.trained = settings_of(Trained, trained or Trained(), "trained")
        self.compute = settings_of(Compute, compute or Compute(), "compute")
        self.text_states = TextCache(family, text_cache_mib << 20)
        self._caches = TrainingCaches(family, self.text_states)
        # the trained network, under the name by which checkpoints, averages and shards have always known its weights
        self.transformer: nn.Module | None = None
        self._base_digest = ""
        self.register_state_dict_pre_hook(lambda *_: evaluate_weights(self._optimizers))
        self.register_state_dict_post_hook(drop_base)
        self.register_load_state_dict_post_hook(miss_no_base)
        self.images_seen = 0
        """Training images so far, over all ranks."""
        self._throughput = Throughput()
        self._finite_steps = FiniteSteps(on_nonfinite, nonfinite_limit)
        family.check_image_size(image_size_px)
        family.tokens(Size(image_size_px, image_size_px))
        check_variance(objective, family)
        check_prediction(objective, family.pretrained if isinstance(family, StartsPretrained) else None)
        if generation_chunk_size < 1 or sampling_steps < 1:
            raise UserError(
                f"generation_chunk_size is {generation_chunk_size} and sampling_steps {sampling_steps}. Both must be "
                "at least 1. Write generation_chunk_size: 16, sampling_steps: 20."
            )

    def parts(self) -> Mapping[str, Part]:
        """Name what the student is built of: verified, sized and closed with the other parts of a run."""
        return {"family": self.family, **self.family.text_encoders, "codec": self.family.codec}

    @property
    def file_roles(self) -> Sequence[str]:
        """Roles of files that a drawing reads beside its prompt."""
        return self.family.roles

    @property
    def needed_roles(self) -> Sequence[str]:
        """Those of them that it cannot do without."""
        return self.family.roles

    def starts_from(self) -> str | None:
        """Name the pretrained weights that the network is built with; None: random ones."""
        start = self.family.pretrained if isinstance(self.family, StartsPretrained) else None
        return None if start is None else start.name

    def text_bytes(self) -> int:
        """Return what the text states of one prompt take at most."""
        return self.family.text_bytes()

    def latent_bytes(self) -> int:
        """Return what the latents of one training image take on disk; 0 in pixel space."""
        return latent_bytes(self.family.codec, Size(self.image_size_px, self.image_size_px))

    def work_bytes(self, batch_size: int, size_px: tuple[int, int], precision: str) -> WorkBytes:
        """Predict what training and drawing take on a device beside weights, gradients and optimizer.

        Args:
            batch_size: Training images of one device and step.
            size_px: Their width and height.
            precision: Of the trainer.
        """
        network, digest = self.transformer, self._base_digest
        if network is None:
            self.configure_without_weights(precision)
            # the module itself stays unbuilt: it may be trained after this
            network, self.transformer, self._base_digest = cast(nn.Module, self.transformer), None, digest
        width_px, height_px = size_px
        return predict_work(
            Work(
                self.family,
                self.objective,
                network,
                batch_size,
                Size(height_px, width_px),
                precision,
                self.generation_chunk_size,
                Size(self.image_size_px, self.image_size_px),
                self.guidance_scale,
                encodes=not self.latent_cache_gib,
                encodes_texts=not self.text_cache_gib,
            )
        )

    def check_precision(self, precision: str) -> None:
        """Refuse a precision of the trainer that keeps the weights themselves in half precision."""
        check_precision(precision, self.trained.base_precision)

    def check_image_size(self, image_size_px: int) -> None:
        """Refuse training images of another size than the drawn ones.

        Raises:
            UserError: It is another.
        """
        check_image_size(self.image_size_px, image_size_px)

    def check_buckets(self, buckets: Sequence[BucketSize]) -> None:
        """Refuse sizes of training images that codec or patches do not divide.

        Raises:
            UserError: One cannot be trained on.
        """
        for width_px, height_px in buckets:
            self.family.tokens(Size(height_px, width_px))

    def setup(self, stage: str) -> None:
        """Refuse a precision or buckets that cannot work, and open the text states beside the data.

        Raises:
            ValueError: if the weights themselves would be in half precision, or a bucket does not fit the family.
        """
        self.check_precision(str(self.trainer.precision))
        check_device(str(self.trainer.precision), self.trainer.strategy.root_device)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, HasBuckets):
            self.check_buckets(data.buckets)
        # only training writes: evaluation may run beside it, on a root that it must not touch
        self._caches.open_texts(data, self.text_cache_folder, self.text_cache_gib, writes=stage == "fit")
        if stage == "fit":
            self._caches.open_latents(data, self.latent_cache_gib)

    def teardown(self, stage: str) -> None:
        """Let go of text states and latents on disk."""
        self._caches.close()

    def configure_model(self) -> None:
        """Build the network with weights named by `seed`, its adapters, and its shards where there is a device mesh."""
        if self.transformer is not None:
            return
        where = Where() if self._trainer is None else Where.of(self.trainer, self._device_mesh)
        self.transformer, self._base_digest = assemble(self.family, self.seed, self.trained, self.compute, where)

    def configure_without_weights(self, precision: str) -> None:
        """Build the network on the meta device, where its layers are as large as under a trainer of this precision.

        Args:
            precision: Of the trainer.
        """
        if self.transformer is not None:
            return
        with torch.device("meta"):
            parts = assemble(self.family, self.seed, self.trained, self.compute, Where(precision))
        self.transformer, self._base_digest = parts

    def experts(self) -> NetworkExperts:
        """Return the experts that `trained` names, in the network, which is built where it is not yet."""
        self.configure_model()
        return NetworkExperts(cast(nn.Module, self.transformer), self.trained, self._base, self._base_digest)

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
        """Clip in a way that holds for sharded parameters and fused optimizers, and log the norm before clipping.

        The trainer calls this before every update, with or without clipping; an update that is not finite is dropped.
        """
        clip_and_settle(self, self._finite_steps, optimizer, gradient_clip_val, gradient_clip_algorithm)

    def student(self) -> Student:
        """Return the network with what it reads; it is built where it is not yet."""
        self.configure_model()
        network = cast(nn.Module, self.transformer)
        return Student(self.family, self.objective, network, self.text_states, self.device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the mean loss of the local batch; its mean over ranks is that of the global batch."""
        student, gate = self.student(), self.trained.gate
        if gate is None or not gate.balance_weight or not self.experts().gate_works:
            losses = student.training_losses(batch, self.condition_dropout)
            self._log_training(losses, batch)
            return losses.mean()
        with collecting(student.network) as weights:
            losses = student.training_losses(batch, self.condition_dropout)
        self._log_training(losses, batch)
        return losses.mean() + gate.balance_weight * balance_loss(weights)

    def validation_step(  # type: ignore[override]
        self, batch: list[ImageRequest], batch_idx: int
    ) -> list[Tensor]:
        """Draw the requested images."""
        return self.generate(batch)

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
        images of one size, texts have one length, and the noise comes from the request's seed.

        Args:
            requests: prompts with seeds, in any sizes that family and codec take.

        Raises:
            ValueError: for a request of a size that they do not take.
        """
        sampling = Sampling(self.sampling_steps, self.guidance_scale, self.generation_chunk_size)
        student = self.student()
        with evaluated_weights(self._optimizers), drawing(self), self._precision():
            return student.draw(requests, sampling)

    def sample_losses(self, requests: Sequence[LossRequest]) -> list[float]:
        """Return the mean training loss of each sample at fixed noise levels, without dropped texts or gradients.

        A loss follows from sample and seeds alone, as an image does: chunks have one size, the noise comes from the
        request's seeds, and an autoencoder gives the mean of its latents.

        Args:
            requests: samples with the seeds of their noise, all of as many levels.
        """
        student = self.student()
        with evaluated_weights(self._optimizers), drawing(self), self._precision():
            return student.sample_losses(requests, self.image_size_px, self.generation_chunk_size)

    def on_train_epoch_start(self) -> None:
        """Encode what this epoch's revision brings; start a throughput measurement, which that is no part of."""
        trainer = self.trainer
        data, shares = trainer.datamodule, (trainer.global_rank, trainer.world_size)  # type: ignore[attr-defined]
        self._caches.fill(data, self.device, *shares, lambda: trainer.strategy.barrier("caches are filled"))
        self._throughput.start()

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Train the weights that are trained, where the optimizer evaluates others."""
        train_weights(self._optimizers)

    def on_train_end(self) -> None:
        """Refuse to end well in a row of steps that are not finite; the last checkpoint is saved by now.

        Raises:
            RunError: if the last step was not finite, unless such steps are to be skipped.
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
        """Store images seen, the fingerprints of the frozen parts, the seed and the steps that were not finite."""
        checkpoint["text_to_image"] = {
            "images_seen": self.images_seen,
            "frozen_parts": self._frozen_parts,
            "finite_steps": self._finite_steps.state(),
            "seed": self.seed,
            "trained": self._adapters,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore images seen; refuse a checkpoint that was trained on other frozen parts, or began from other weights.

        Raises:
            ValueError: if a text encoder, the codec or, where training goes on, the seed differs.
        """
        state = checkpoint.get("text_to_image", {})
        trains = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        if trains:
            check_seed(self.seed, state.get("seed", self.seed))
        if self.trained.adapters:
            self.configure_model()  # which names the base
        self.images_seen = state.get("images_seen", 0)
        self._finite_steps.restore(state.get("finite_steps", {}))
        check_frozen_parts(self._frozen_parts, state.get("frozen_parts", {}))
        check_adapters(self._adapters, state.get("trained"), trains)

    @property
    def _frozen_parts(self) -> dict[str, str]:
        return frozen_fingerprints(self.family)

    @property
    def _adapters(self) -> dict[str, Any] | None:
        return saved_form(self.trained, self.family.lora_targets(), self._base, self._base_digest)

    @property
    def _base(self) -> str:
        return self.starts_from() or f"random weights of seed {self.seed}"

    @property
    def _optimizers(self) -> Sequence[torch.optim.Optimizer]:
        return [] if self._trainer is None else self.trainer.optimizers

    def _precision(self) -> AbstractContextManager[Any]:
        """Work in the trainer's precision, or, outside of one, in that of the base."""
        if self._trainer is None:
            return autocast(self.trained, self.device)
        return self.trainer.precision_plugin.forward_context()

    def _log_training(self, losses: Tensor, batch: dict[str, Any]) -> None:
        self.images_seen += log_training(self, losses, batch, self._finite_steps, self._throughput)
