"""Fine-tune as the documentation of diffusers tells: a plain torch loop over a pipeline's parts, without accelerate.

Every step reads and decodes pictures, encodes texts and images, adds noise, predicts it, and steps AdamW on the clipped
gradient of the mean square (https://huggingface.co/docs/diffusers/training/text2image).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class CaptionedPictures(Dataset):
    """Picture files with captions, tokenized beforehand; pictures are decoded each time.

    Args:
        files: Of one size.
        captions: One per file.
        tokenizer: Of the pipeline.
    """

    def __init__(self, files: Sequence[Path], captions: Sequence[str], tokenizer: Any) -> None:
        self._files = list(files)
        tokens = tokenizer(
            [caption.lower() for caption in captions],
            **{"padding": "max_length", "truncation": True, "return_tensors": "pt"},
            max_length=tokenizer.model_max_length,
        )
        self._ids, self._masks = tokens.input_ids, tokens.attention_mask

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        with Image.open(self._files[row]) as picture:
            pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1
        return {"pixel_values": pixels, "input_ids": self._ids[row], "attention_mask": self._masks[row]}


class DiffusersRecipe:
    """The parts of a training, and its step.

    Args:
        folder: A PixArt pipeline.
        files: Pictures.
        captions: Of them.
        batch: Images per step.
    """

    def __init__(self, folder: Path, files: Sequence[Path], captions: Sequence[str], batch: int) -> None:
        self.pipeline: Any = DiffusionPipeline.from_pretrained(folder)
        for part in (self.pipeline.text_encoder, self.pipeline.vae):
            part.requires_grad_(False)
        self.network = self.pipeline.transformer.train()
        self.noise_scheduler = DDPMScheduler(1000, 0.0001, 0.02, "linear")
        self.optimizer = torch.optim.AdamW(self.network.parameters())
        data = CaptionedPictures(files, captions, self.pipeline.tokenizer)
        self._loader = DataLoader(data, batch, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(0))
        self._batches = self._endless()

    def step(self) -> float:
        """Take one step on the next batch, and return its loss."""
        batch = next(self._batches)
        vae = self.pipeline.vae
        with torch.no_grad():
            latents = vae.encode(batch["pixel_values"]).latent_dist.sample() * vae.config.scaling_factor
            states = self.pipeline.text_encoder(batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        noise = torch.randn_like(latents)
        times = torch.randint(0, self.noise_scheduler.config.num_train_timesteps, (len(latents),))  # type: ignore[attr-defined]
        loss = self.loss(latents, noise, times, states, batch["attention_mask"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach().item()

    def loss(self, latents: Tensor, noise: Tensor, times: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Return |e' - e|^2 at given noise; the learned variance is left out.

        Args:
            latents: Float[batch, channel, height, width], scaled.
            noise: Of the same shape.
            times: Int64[batch], 0...999.
            states: Float[batch, token, dimension] of the texts.
            mask: Int64[batch, token].
        """
        noisy = self.noise_scheduler.add_noise(latents, noise, times)  # type: ignore[arg-type]
        sizes = {"resolution": None, "aspect_ratio": None}
        prediction = self.network(
            noisy,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            timestep=times,
            added_cond_kwargs=sizes,
        ).sample
        prediction = prediction.chunk(2, dim=1)[0]
        return torch.nn.functional.mse_loss(prediction.float(), noise.float(), reduction="mean")

    def _endless(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield from self._loader
