"""The student: a text-to-image model as a LightningModule."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from evolvedirector.lightning_modules.codecs.autoencoder import Autoencoder
from evolvedirector.lightning_modules.draws import draw
from evolvedirector.lightning_modules.families.family import TransformerFamily
from evolvedirector.lightning_modules.gradient_clipping import clip_gradients
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.part_checks import check_frozen_parts, check_parts_fit, frozen_fingerprints
from evolvedirector.lightning_modules.sampling import drawing, from_uint8, initial_noise, sample, to_uint8
from evolvedirector.lightning_modules.sharded_strategy import refuse_unshardable_optimizer, shard
from evolvedirector.lightning_modules.text_cache import TextCache
from evolvedirector.lightning_modules.text_encoders.text_encoder import TextEncoder
from evolvedirector.lightning_modules.throughput import Throughput
from evolvedirector.records import ImageRequest

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class TextToImage(LightningModule):
    """Train a diffusion transformer on images with prompts, and draw images with it.

    Training batches are dicts: `image` uint8 (batch, 3, height, width), `prompt` list of str, `sample_seed` int64
    (batch); every draw of a step follows from `sample_seed`, so the loss of a global batch depends neither on the
    world size nor on what ran before. Validation, test and prediction batches are lists of `ImageRequest`.
    Text encoder and autoencoder are frozen and stay outside checkpoints; their fingerprints are inside.

    Args:
        transformer: describes the network, which is built in `configure_model` so that a strategy can shard it.
        text_encoder: turns prompts into token states.
        objective: what the network predicts, and how images are sampled from that.
        image_size_px: side of the square images.
        text_length: tokens per prompt; longer prompts are cut. Short is fast: choose what the prompts need.
        autoencoder: maps images to the latents that are trained on; None trains on pixels.
        optimizer: makes the optimizer from the parameters.
        lr_scheduler: makes the learning-rate schedule, stepped once per optimizer step; None keeps the rate constant.
        condition_dropout: share of training samples that lose their text, which guidance needs.
        guidance_scale: classifier-free guidance of drawn images; 1 is none.
        sampling_steps: scheduler steps per drawn image.
        generation_chunk_size: images drawn at once. Chunks always have this size, so that an image does not depend on
            how many were asked for.
        text_cache_folder: keeps text states across runs; None keeps them in memory only.
        text_cache_mib: cap of the text states in memory, in MiB.
        seed: names the initial weights.

    Raises:
        ValueError: if the parts do not fit each other.
    """

    def __init__(
        self,
        transformer: TransformerFamily,
        text_encoder: TextEncoder,
        objective: Objective,
        image_size_px: int,
        text_length: int,
        autoencoder: Autoencoder | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        condition_dropout: float = 0.1,
        guidance_scale: float = 3.0,
        sampling_steps: int = 20,
        generation_chunk_size: int = 16,
        text_cache_folder: Path | None = None,
        text_cache_mib: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.family = transformer
        self.text_encoder = text_encoder
        self.objective = objective
        self.image_size_px = image_size_px
        self.autoencoder = autoencoder
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.condition_dropout = condition_dropout
        self.guidance_scale = guidance_scale
        self.sampling_steps = sampling_steps
        self.generation_chunk_size = generation_chunk_size
        self.seed = seed
        self.text_states = TextCache(text_encoder, text_length, text_cache_mib << 20, text_cache_folder)
        self.transformer: nn.Module | None = None
        self.images_seen = 0
        """Training images so far, over all ranks."""
        self._throughput = Throughput()
        check_parts_fit(transformer, text_encoder, autoencoder, image_size_px)
        if generation_chunk_size < 1 or sampling_steps < 1:
            raise ValueError(
                f"generation_chunk_size is {generation_chunk_size} and sampling_steps {sampling_steps}. Both must be "
                "at least 1. Write generation_chunk_size: 16, sampling_steps: 20."
            )

    def configure_model(self) -> None:
        """Build the transformer with weights named by `seed`, and shard it where the strategy brings a device mesh."""
        if self.transformer is not None:
            return
        with torch.random.fork_rng(devices=[]):  # every rank builds the same weights, and global draws stay as they are
            torch.manual_seed(self.seed)
            self.transformer = self.family.build()
        if self._device_mesh is not None:
            shard(self.transformer, self.family.blocks(self.transformer), self._device_mesh, self.trainer.precision)

    def configure_optimizers(self) -> Any:
        """Make optimizer and learning-rate schedule for the trainable parameters."""
        optimizer = self.make_optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])
        refuse_unshardable_optimizer(optimizer)
        if self.make_lr_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_lr_scheduler(optimizer), "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip in a way that holds for sharded parameters and fused optimizers, and log the norm before clipping."""
        if gradient_clip_val:
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            norm = clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm or "norm", scaler is not None)
            if norm is not None:
                self.log("train/gradient_norm", norm)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the mean loss of the local batch; its mean over ranks is that of the global batch."""
        draws = draw(
            batch["sample_seed"],
            self.objective,
            self.condition_dropout,
            self._sample_shape,
            self.autoencoder is not None,
        )
        noise, times = draws.noise.to(self.device), draws.time.to(self.device)
        clean = self._clean(batch["image"], draws.latent_noise)
        noisy = self.objective.corrupt(clean, noise, times)
        texts = ["" if dropped else text for text, dropped in zip(batch["prompt"], draws.dropped, strict=True)]
        states, mask = self.text_states.get(texts, self.device)
        prediction = self._predict(noisy, self.objective.transformer_time(times), states, mask)
        loss = self.objective.loss(prediction, clean, noise, times).mean()
        self._log_training(loss, len(texts))
        return loss

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

        An image follows from prompt and seed alone: chunks have one size (the last is padded), texts one length, and
        the noise comes from the request's seed.

        Args:
            requests: prompts with seeds; their size must be that of the model.

        Raises:
            ValueError: for a request of another size.
        """
        for request in requests:
            if (request.width_px, request.height_px) != (self.image_size_px, self.image_size_px):
                raise ValueError(
                    f"Request {request.request_id!r} asks for {request.width_px} x {request.height_px} px. This model "
                    f"draws {self.image_size_px} x {self.image_size_px} px. Write width_px and height_px: "
                    f"{self.image_size_px}."
                )
        self.configure_model()
        size = self.generation_chunk_size
        images: list[Tensor] = []
        attached = self._trainer is not None
        with drawing(self), self.trainer.precision_plugin.forward_context() if attached else nullcontext():
            for start in range(0, len(requests), size):
                chunk = list(requests[start : start + size])
                images += self._draw(chunk + chunk[-1:] * (size - len(chunk)))[: len(chunk)]
        return images

    def on_train_epoch_start(self) -> None:
        """Start a throughput measurement: what happened between epochs is not training."""
        self._throughput.start()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store images seen and the fingerprints of the frozen parts."""
        checkpoint["text_to_image"] = {"images_seen": self.images_seen, "frozen_parts": self._frozen_parts}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore images seen; refuse a checkpoint that was trained on other frozen parts.

        Raises:
            ValueError: if text encoder or autoencoder differ.
        """
        state = checkpoint.get("text_to_image", {})
        self.images_seen = state.get("images_seen", 0)
        check_frozen_parts(self._frozen_parts, state.get("frozen_parts", {}))

    @property
    def _frozen_parts(self) -> dict[str, str | None]:
        return frozen_fingerprints(self.text_encoder, self.autoencoder)

    @property
    def _sample_shape(self) -> tuple[int, int, int]:
        return (self.family.in_channels, self.family.sample_size, self.family.sample_size)

    def _clean(self, image: Tensor, latent_noise: Tensor | None) -> Tensor:
        pixels = from_uint8(image)
        if self.autoencoder is None or latent_noise is None:
            return pixels
        self.autoencoder.to(self.device)
        return self.autoencoder.encode(pixels, latent_noise.to(self.device))

    def _predict(
        self,
        noisy: Float[Tensor, "batch channel height width"],
        times: Float[Tensor, " batch"],
        states: Float[Tensor, "batch token dimension"],
        mask: Bool[Tensor, "batch token"],
    ) -> Float[Tensor, "batch channel height width"]:
        return self.family.predict(cast(nn.Module, self.transformer), noisy, times, states, mask)

    def _draw(self, chunk: list[ImageRequest]) -> list[Tensor]:
        noise = initial_noise([request.seed for request in chunk], self._sample_shape).to(self.device)
        states, mask = self.text_states.get([request.prompt for request in chunk], self.device)
        null_states, null_mask = self.text_states.get([""], self.device)
        result = sample(
            self._predict,
            self.objective,
            noise,
            states,
            mask,
            null_states,
            null_mask,
            self.sampling_steps,
            self.guidance_scale,
        )
        if self.autoencoder is not None:
            self.autoencoder.to(self.device)
            result = self.autoencoder.decode(result)
        return list(to_uint8(result).cpu())

    def _log_training(self, loss: Tensor, local_images: int) -> None:
        images = local_images * self.trainer.world_size
        self.images_seen += images
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=local_images)
        images_per_s = self._throughput.count(images)
        if images_per_s is not None:
            self.log("train/images_per_s", images_per_s, batch_size=local_images)
        optimizers = self.trainer.optimizers
        if optimizers:
            self.log("train/learning_rate", optimizers[0].param_groups[0]["lr"], batch_size=local_images)
