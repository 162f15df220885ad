"""The student: a text-to-image model as a LightningModule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.codec import latent_shape
from evolvedirector.lightning_modules.draws import draw
from evolvedirector.lightning_modules.families.family import Family
from evolvedirector.lightning_modules.gradient_clipping import clip_gradients
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.objectives.resolution_flow import at_resolution
from evolvedirector.lightning_modules.part_checks import check_frozen_parts, check_precision, frozen_fingerprints
from evolvedirector.lightning_modules.role_files import roles_of_batch, roles_of_requests
from evolvedirector.lightning_modules.sampling import Drawing, drawing, from_uint8, initial_noise, sample, to_uint8
from evolvedirector.lightning_modules.sharded_strategy import refuse_unshardable_optimizer, shard
from evolvedirector.lightning_modules.text_cache import TextCache
from evolvedirector.lightning_modules.text_store import TextStore
from evolvedirector.lightning_modules.throughput import Throughput
from evolvedirector.planning.roles import HasRoot
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Condition, Extras, Size, TextStates
from evolvedirector.records.part import Part


class TextToImage(LightningModule):
    """Train a diffusion network on images with prompts, and draw images with it.

    Training batches are dicts: `image` uint8 (batch, 3, height, width), `prompt` list of str, `sample_seed` int64
    (batch), and one tensor under the name of each role that the family reads. Images of one batch have one size, which
    need not be square nor that of the next batch. Every draw of a step follows from `sample_seed`, so the loss of a
    global batch depends neither on the world size nor on what ran before. Validation, test and prediction batches are
    lists of `ImageRequest`. Text encoders and codec are frozen and stay outside checkpoints; their fingerprints are
    inside.

    Args:
        family: describes the network with its text encoders and codec; the network is built in `configure_model` so
            that a strategy can shard it.
        objective: what the network predicts, and how images are sampled from that.
        image_size_px: side of the square images that are drawn where nobody asks for another size.
        optimizer: makes the optimizer from the parameters.
        lr_scheduler: makes the learning-rate schedule, stepped once per optimizer step; None keeps the rate constant.
        condition_dropout: share of training samples that lose their text, which guidance needs.
        guidance_scale: classifier-free guidance of drawn images; 1 is none.
        sampling_steps: scheduler steps per drawn image.
        generation_chunk_size: images drawn at once. Chunks always have this size, so that an image does not depend on
            how many were asked for.
        text_cache_folder: keeps the text states of training prompts across runs; None: `caches/text` in the data root
            of the datamodule, and in memory only where it has none.
        text_cache_mib: cap of the text states in memory, in MiB.
        text_cache_gib: cap of the text states on disk, in GiB; at its cap the cache stops writing, and warns.
        seed: names the initial weights.

    Raises:
        UserError: if the parts do not fit each other.
    """

    def __init__(
        self,
        family: Family,
        objective: Objective,
        image_size_px: int,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        condition_dropout: float = 0.1,
        guidance_scale: float = 3.0,
        sampling_steps: int = 20,
        generation_chunk_size: int = 16,
        text_cache_folder: Path | None = None,
        text_cache_mib: int = 256,
        text_cache_gib: float = 32.0,
        seed: int = 0,
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
        self.seed = seed
        self.text_states = TextCache(family, text_cache_mib << 20)
        # the trained network, under the name by which checkpoints, averages and shards have always known its weights
        self.transformer: nn.Module | None = None
        self.images_seen = 0
        """Training images so far, over all ranks."""
        self._throughput = Throughput()
        family.check_image_size(image_size_px)
        family.tokens(Size(image_size_px, image_size_px))
        if generation_chunk_size < 1 or sampling_steps < 1:
            raise UserError(
                f"generation_chunk_size is {generation_chunk_size} and sampling_steps {sampling_steps}. Both must be "
                "at least 1. Write generation_chunk_size: 16, sampling_steps: 20."
            )

    def parts(self) -> Mapping[str, Part]:
        """Name what the student is built of: verified, sized and closed with the other parts of a run."""
        return {"family": self.family, **self.family.text_encoders, "codec": self.family.codec}

    def text_bytes(self) -> int:
        """Return what the text states of one prompt take at most."""
        return self.family.text_bytes()

    def setup(self, stage: str) -> None:
        """Refuse a precision that cannot work, and open the text states beside the data.

        Raises:
            ValueError: if the weights themselves would be in half precision.
        """
        check_precision(str(self.trainer.precision))
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        folder = self.text_cache_folder
        if folder is None and isinstance(data, HasRoot):
            folder = Path(data.data_root) / "caches" / "text"
        if folder is not None and self.text_states.store is None:
            # only training writes: evaluation may run beside it, on a root that it must not touch
            self.text_states.store = TextStore(folder, int(self.text_cache_gib * 2**30), writes=stage == "fit")

    def teardown(self, stage: str) -> None:
        """Let go of the text states on disk."""
        if self.text_states.store is not None:
            self.text_states.store.close()
            self.text_states.store = None

    def configure_model(self) -> None:
        """Build the network with weights named by `seed`, and shard it where the strategy brings a device mesh."""
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
        size = Size(*batch["image"].shape[-2:])
        objective = at_resolution(self.objective, self.family.tokens(size))
        codec = self.family.codec
        draws = draw(
            batch["sample_seed"], objective, self.condition_dropout, latent_shape(codec, size), codec.is_random
        )
        noise, times = draws.noise.to(self.device), draws.time.to(self.device)
        clean = self._clean(batch["image"], draws.latent_noise)
        noisy = objective.corrupt(clean, noise, times)
        texts = ["" if dropped else text for text, dropped in zip(batch["prompt"], draws.dropped, strict=True)]
        extras = Extras(roles_of_batch(batch, self.family.roles, self.device))
        condition = self._condition(self.text_states.get(texts, self.device), size, extras)
        prediction = self._predict(noisy, objective.transformer_time(times), condition)
        loss = objective.loss(prediction, clean, noise, times).mean()
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

        An image follows from prompt, size, files and seed alone: chunks have one size (the last is padded) and hold
        images of one size, texts have one length, and the noise comes from the request's seed.

        Args:
            requests: prompts with seeds, in any sizes that family and codec take.

        Raises:
            ValueError: for a request of a size that they do not take.
        """
        together: dict[tuple[Any, ...], list[int]] = {}
        for index, request in enumerate(requests):
            self.family.tokens(Size(request.height_px, request.width_px))
            files = [(role, file.width_px, file.height_px) for role, file in sorted(request.files.items())]
            together.setdefault((request.height_px, request.width_px, *files), []).append(index)
        self.configure_model()
        size = self.generation_chunk_size
        images: dict[int, Tensor] = {}
        attached = self._trainer is not None
        with drawing(self), self.trainer.precision_plugin.forward_context() if attached else nullcontext():
            for alike in together.values():
                for start in range(0, len(alike), size):
                    chunk = alike[start : start + size]
                    padded = [requests[index] for index in chunk + chunk[-1:] * (size - len(chunk))]
                    images |= dict(zip(chunk, self._draw(padded), strict=False))
        return [images[index] for index in range(len(requests))]

    def on_train_epoch_start(self) -> None:
        """Start a throughput measurement: what happened between epochs is not training."""
        self._throughput.start()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store images seen and the fingerprints of the frozen parts."""
        checkpoint["text_to_image"] = {"images_seen": self.images_seen, "frozen_parts": self._frozen_parts}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore images seen; refuse a checkpoint that was trained on other frozen parts.

        Raises:
            ValueError: if a text encoder or the codec differs.
        """
        state = checkpoint.get("text_to_image", {})
        self.images_seen = state.get("images_seen", 0)
        check_frozen_parts(self._frozen_parts, state.get("frozen_parts", {}))

    @property
    def _frozen_parts(self) -> dict[str, str]:
        return frozen_fingerprints(self.family)

    def _clean(self, image: Tensor, latent_noise: Tensor | None) -> Tensor:
        codec = self.family.codec
        codec.to(self.device)
        noise = None if latent_noise is None else latent_noise.to(self.device)
        return codec.normalise(codec.encode(from_uint8(image)).sample(noise))

    def _condition(self, states: TextStates, size: Size, extras: Extras) -> Condition:
        # encoders may work in half precision; autocast, where it is on, goes back to it where that is safe
        return self.family.condition(states, [size] * states.count, extras).to(self.device, torch.float32)

    def _predict(self, noisy: Tensor, times: Tensor, condition: Condition) -> Tensor:
        return self.family.predict(cast(nn.Module, self.transformer), noisy, times, condition)

    def _draw(self, chunk: list[ImageRequest]) -> list[Tensor]:
        size = Size(chunk[0].height_px, chunk[0].width_px)
        codec = self.family.codec
        extras = Extras(roles_of_requests(chunk, self.family.roles, self.device), self.guidance_scale)
        states = self.text_states.get([request.prompt for request in chunk], self.device, keep=False)
        null = None
        if self.guidance_scale != 1:
            null = self._condition(self.text_states.get([""], self.device).repeat(len(chunk)), size, extras)
        result = sample(
            Drawing(
                self._predict,
                at_resolution(self.objective, self.family.tokens(size)),
                initial_noise([request.seed for request in chunk], latent_shape(codec, size)).to(self.device),
                self._condition(states, size, extras),
                null,
                self.sampling_steps,
                self.guidance_scale,
            )
        )
        codec.to(self.device)
        return list(to_uint8(codec.decode(result)).cpu())

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
