"""Kandinsky 2.2's decoder: images from embeddings of CLIP bigG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.component import Component, needs_revision
from evolvedirector.lightning_modules.decoders.decoding import (
    check_at_least,
    check_embeddings,
    generators_after_prior,
    name_anywhere,
    pixels,
    read_embedding,
)
from evolvedirector.lightning_modules.faked import faked
from evolvedirector.lightning_modules.frozen_model import (
    FrozenModel,
    Precision,
    load_from_diffusers,
    load_from_transformers,
)
from evolvedirector.lightning_modules.sampling import chunks_of_one_size
from evolvedirector.models.import_diffusers import diffusers_class
from evolvedirector.models.model_loading import free_memory
from evolvedirector.models.zero_image import zero_image_embedding
from evolvedirector.records import ImageRequest, digest
from evolvedirector.store.paths import folder_or_hub_name

_SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")


class KandinskyDecoder:
    """Draw what image embeddings say with the latent diffusion decoder of Kandinsky 2.2 (`KandinskyV22Pipeline`).

    It reads nothing but the embedding: no text reaches it. Guidance leads away from the embedding of an image of zeros,
    as in ECLIPSE (Patel et al. 2024, arXiv:2312.04655). Frozen and no `nn.Module`: it never enters checkpoints, EMA or
    sharding. UNet, MoVQ and scheduler are those of the stock pipeline and load at the first image; each image follows
    from its request's seed.

    Example:
        ```yaml
        decoder:
          class_path: evolvedirector.lightning_modules.KandinskyDecoder
          init_args:
            model: kandinsky-community/kandinsky-2-2-decoder
            revision: main
            image_encoder: kandinsky-community/kandinsky-2-2-prior
            image_encoder_revision: main
        ```

    Args:
        model: Repository name or folder of a `KandinskyV22Pipeline`.
        revision: Its git revision; None only for a folder.
        embedding_dim: Width of the embeddings that it reads, verified against its weights.
        sampling_steps: Scheduler steps of an image; 50 in the paper.
        guidance_scale: 7.5 in the paper; 1 is none.
        image_encoder: Repository name or folder of the CLIP vision tower with projection, which embeds the image of
            zeros once and is let go of. None: not needed.
        image_encoder_revision: Its git revision; None only for a folder.
        image_encoder_subfolder: Its folder inside the repository; None for none.
        negative_file: A .npy file with what guidance leads away from, in place of an image encoder.
        embedder_fingerprint: Of the only embedder whose space it reads. None: not recorded.
        chunk_size: Images drawn at once. Chunks always have this size, so that an image does not depend on how many
            were asked for.
        dtype: Precision of its weights.

    Raises:
        UserError: A number is out of range, a repository has no revision, or guidance has nothing to lead away from.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        embedding_dim: int = 1280,
        sampling_steps: int = 50,
        guidance_scale: float = 7.5,
        image_encoder: str | None = None,
        image_encoder_revision: str | None = None,
        image_encoder_subfolder: str | None = "image_encoder",
        negative_file: Path | None = None,
        embedder_fingerprint: str | None = None,
        chunk_size: int = 4,
        dtype: Precision = "float32",
    ) -> None:
        check_at_least(1, chunk_size=chunk_size, sampling_steps=sampling_steps)
        self.model, self.revision, self.dtype = folder_or_hub_name(model), revision, dtype
        needs_revision("Kandinsky decoder", self.model, revision)
        if image_encoder is not None and negative_file is not None:
            raise UserError(
                "image_encoder and negative_file both say what guidance leads away from. Allowed is one of them. Leave "
                "image_encoder out where you have the file."
            )
        if guidance_scale > 1 and image_encoder is None and negative_file is None:
            raise UserError(
                f"guidance_scale is {guidance_scale:g}, but nothing says what guidance leads away from. Allowed is an "
                "image_encoder or a negative_file. Write image_encoder: kandinsky-community/kandinsky-2-2-prior."
            )
        self.image_encoder: Component | None = None
        if image_encoder is not None:
            name = folder_or_hub_name(image_encoder)
            needs_revision("Image encoder", name, image_encoder_revision)
            self.image_encoder = Component("the image encoder", name, image_encoder_revision, image_encoder_subfolder)
        self.negative_file = negative_file
        self.sampling_steps, self.guidance_scale, self.chunk_size = sampling_steps, guidance_scale, chunk_size
        self._embedding_dim, self._embedder_fingerprint = embedding_dim, embedder_fingerprint
        self._device = torch.device("cpu")
        self._unet = self._part("UNet2DConditionModel", "unet", self._check_unet)
        self._movq = self._part("VQModel", "movq", lambda _: None)
        self._pipeline: Any = None
        self._zero: Tensor | None = None

    @property
    def fingerprint(self) -> str:
        """Name weights, revision, precision and everything that changes an image; of a folder, its content."""
        if self.image_encoder is not None:
            encoder = self.image_encoder
            negative = f"{name_anywhere(encoder.name)}-{encoder.revision}-{encoder.subfolder}{encoder.content_digest()}"
        else:
            negative = "" if self.negative_file is None else repr(self._read_negative().tolist())
        content = self._unet.component.content_digest() + self._movq.component.content_digest()
        how = digest(self.sampling_steps, repr(self.guidance_scale), self._embedding_dim, negative, length=12)
        return f"kandinsky22-{name_anywhere(self.model)}-{self.revision}-{self.dtype}{content}-{how}"

    @property
    def embedding_dim(self) -> int:
        """Width of the embeddings that it reads."""
        return self._embedding_dim

    @property
    def embedder_fingerprint(self) -> str | None:
        """Fingerprint of the only embedder whose space it reads; None where that is not recorded."""
        return self._embedder_fingerprint

    def to(self, device: Any) -> Any:
        """Move the weights; the next call runs there."""
        self._device = torch.device(device)
        self._unet.to(self._device)
        self._movq.to(self._device)

    def verify(self) -> None:
        """Check that all weights are there, as safetensors, and read embeddings of this width; loads none.

        Raises:
            UserError: With what is wrong and what to write instead.
        """
        self._unet.verify()
        self._movq.verify()
        if self.image_encoder is not None:
            self._encoder(self.image_encoder).verify()
        if self.negative_file is not None:
            self._read_negative()

    def estimated_bytes(self) -> int:
        """Return the size of UNet and MoVQ; 0 before they are downloaded."""
        return self._unet.estimated_bytes() + self._movq.estimated_bytes()

    def decoding_bytes(self, height_px: int, width_px: int) -> int:
        """Predict the peak of drawing a chunk over the weights, by tracing layers that have no memory.

        Args:
            height_px: Of the images.
            width_px: Likewise.

        Raises:
            UserError: A config is not on this machine.
        """
        dtype = getattr(torch, self.dtype)
        rows = self.chunk_size * (2 if self.guidance_scale > 1 else 1)
        layers = self._movq.without_weights()
        scale = 2 ** (len(cast(Any, layers).config.block_out_channels) - 1)
        with faked(layers) as (movq, decoding), torch.no_grad():
            channels = cast(Any, movq).config.latent_channels
            latents = torch.empty(self.chunk_size, channels, height_px // scale, width_px // scale, dtype=dtype)
            cast(Any, movq).decode(latents, force_not_quantize=True)
        with faked(self._unet.without_weights()) as (unet, predicting), torch.no_grad():
            latents = torch.empty(rows, channels, height_px // scale, width_px // scale, dtype=dtype)
            read = {"image_embeds": torch.empty(rows, self._embedding_dim, dtype=dtype)}
            unet(latents, torch.ones((), dtype=torch.int64), encoder_hidden_states=None, added_cond_kwargs=read)
        return max(decoding.peak_bytes, predicting.peak_bytes)

    def close(self) -> Any:
        """Let go of the weights; the next image loads them again."""
        if self._pipeline is None:
            return
        self._pipeline = None
        self._unet = self._part("UNet2DConditionModel", "unet", self._check_unet)
        self._movq = self._part("VQModel", "movq", lambda _: None)
        free_memory()

    def decode(self, embeddings: Tensor, negative: Tensor | None, requests: Sequence[ImageRequest]) -> list[Tensor]:
        """Draw one uint8 image (3, height, width) per embedding, on the CPU.

        Args:
            embeddings: Float[batch, embedding], raw, not normalised.
            negative: Float[batch, embedding], what guidance leads away from. None: the image of zeros, or what
                `negative_file` holds.
            requests: Give size and seed of each; their prompts are not read.

        Raises:
            UserError: The embeddings are of another space, or a size is no multiple of what MoVQ allows.
        """
        check_embeddings("The Kandinsky decoder", self._embedding_dim, embeddings, negative, requests)
        if not requests:
            return []
        pipeline = self._load()
        self._check_sizes(pipeline, requests)
        if self.guidance_scale <= 1:
            away = torch.zeros_like(embeddings)  # the pipeline wants some, and reads none
        else:
            away = self._negative().expand(len(requests), -1) if negative is None else negative
        images: dict[int, Tensor] = {}
        for places, chunk in chunks_of_one_size(requests, self.chunk_size):
            rows = places + places[-1:] * (len(chunk) - len(places))
            drawn = self._draw(pipeline, embeddings[rows], away[rows], chunk)
            images |= dict(zip(places, drawn, strict=False))
        return [images[place].clone() for place in range(len(requests))]

    def _draw(self, pipeline: Any, embeddings: Tensor, away: Tensor, requests: Sequence[ImageRequest]) -> Tensor:
        place: dict[str, Any] = {"device": self._device, "dtype": pipeline.unet.dtype}
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            found = pipeline(
                image_embeds=embeddings.to(**place),
                negative_image_embeds=away.to(**place),
                height=requests[0].height_px,
                width=requests[0].width_px,
                num_inference_steps=self.sampling_steps,
                guidance_scale=self.guidance_scale,
                generator=generators_after_prior(requests, self._embedding_dim),
                output_type="np",
            )
        return pixels(found.images, [request.prompt for request in requests])

    def _load(self) -> Any:
        if self._pipeline is None:
            scheduler = self._scheduler()
            self._pipeline = diffusers_class("KandinskyV22Pipeline")(
                unet=self._unet.model(), scheduler=scheduler, movq=self._movq.model()
            )
            self._pipeline.set_progress_bar_config(disable=True)
        return self._pipeline

    def _scheduler(self) -> Any:
        """Return the pipeline's own scheduler, whose class its config names."""
        place = {"revision": self.revision, "subfolder": "scheduler"}
        config = diffusers_class("DDPMScheduler").load_config(self.model, **place)
        if config["_class_name"] not in _SCHEDULERS:
            raise UserError(
                f"The scheduler of {self.model!r} is a {config['_class_name']}. Allowed are {' and '.join(_SCHEDULERS)}"
                ", as in the pipelines of Kandinsky 2.2. Name one of those."
            )
        return diffusers_class(config["_class_name"]).from_config(config)

    def _negative(self) -> Tensor:
        """Return what guidance leads away from; the encoder is in memory only while it is computed."""
        if self._zero is None:
            if self.negative_file is not None:
                self._zero = self._read_negative()
            elif self.image_encoder is not None:
                encoder = self._encoder(self.image_encoder)
                encoder.to(self._device)
                self._zero = zero_image_embedding(encoder.model()).float().cpu()
                del encoder
                free_memory()
        assert self._zero is not None
        return self._zero

    def _read_negative(self) -> Tensor:
        assert self.negative_file is not None
        return read_embedding(self.negative_file, self._embedding_dim)

    def _part(self, class_name: str, subfolder: str, check: Any) -> FrozenModel:
        component = Component(f"the Kandinsky decoder's {subfolder}", self.model, self.revision, subfolder)
        part = FrozenModel(class_name, component, self.dtype, load_from_diffusers, check)
        part.to(self._device)
        return part

    def _encoder(self, component: Component) -> FrozenModel:
        return FrozenModel(
            "CLIPVisionModelWithProjection", component, self.dtype, load_from_transformers, self._check_encoder
        )

    def _check_unet(self, config: Mapping[str, Any]) -> None:
        if config.get("encoder_hid_dim_type") != "image_proj":
            raise UserError(
                f"The UNet of {self.model!r} does not read image embeddings. Allowed is the decoder of Kandinsky 2.2. "
                "Write model: kandinsky-community/kandinsky-2-2-decoder."
            )
        if config["encoder_hid_dim"] != self._embedding_dim:
            raise UserError(
                f"The decoder {self.model!r} reads embeddings of width {config['encoder_hid_dim']}, but embedding_dim "
                f"is {self._embedding_dim}. Allowed is its own. Write embedding_dim: {config['encoder_hid_dim']}, and "
                "take the embedder that it was trained with."
            )

    def _check_encoder(self, config: Mapping[str, Any]) -> None:
        if config["projection_dim"] != self._embedding_dim:
            raise UserError(
                f"The image encoder {self.image_encoder.name if self.image_encoder else ''!r} embeds in width "
                f"{config['projection_dim']}, but the decoder reads {self._embedding_dim}. Allowed is the encoder that "
                "the decoder was trained with. Write image_encoder: kandinsky-community/kandinsky-2-2-prior."
            )

    def _check_sizes(self, pipeline: Any, requests: Sequence[ImageRequest]) -> None:
        multiple = pipeline.movq_scale_factor**2
        for request in requests:
            if request.height_px % multiple or request.width_px % multiple or not request.height_px * request.width_px:
                raise UserError(
                    f"An image of {request.width_px} x {request.height_px} px (width x height) cannot be drawn by the "
                    f"Kandinsky decoder. Each side must be a multiple of {multiple}. Write image_size_px: "
                    f"{max(1, request.height_px // multiple) * multiple}, say."
                )
