"""Karlo's decoder: images from embeddings of CLIP L and the text itself."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.component import Component, needs_revision, refuse_missing
from evolvedirector.lightning_modules.decoders.decoding import (
    check_at_least,
    check_embeddings,
    generators_after_prior,
    name_anywhere,
    pixels,
)
from evolvedirector.lightning_modules.decoders.unclip import UnCLIPParts, draw_unclip
from evolvedirector.lightning_modules.frozen_model import (
    FrozenModel,
    Load,
    Precision,
    load_from_diffusers,
    load_from_transformers,
)
from evolvedirector.lightning_modules.sampling import chunks_of_one_size
from evolvedirector.lightning_modules.text_encoders.tokenizer import Tokenizer
from evolvedirector.models.import_diffusers import diffusers_class, import_diffusers
from evolvedirector.models.model_loading import free_memory
from evolvedirector.records import ImageRequest, digest
from evolvedirector.store.paths import folder_or_hub_name

_UNETS = {
    "decoder": "UNet2DConditionModel",
    "super_res_first": "UNet2DModel",
    "super_res_last": "UNet2DModel",
}


class KarloDecoder:
    """Draw what image embeddings say with Karlo's decoder and its super-resolution (`UnCLIPPipeline`).

    The decoder reads the prompt's token states beside the embedding, and guidance leads away from an embedding of its
    own that was learned for it. Images have one size, 256 px in the published weights. Karlo's own prior of 1 B
    parameters is neither loaded nor looked for.

    `UnCLIPPipeline` is deprecated in diffusers (last supported version 0.33.1), and in 0.42.1 it no longer loads what
    it saved itself. So the parts are loaded one by one, the projection by its remaining import
    `diffusers.pipelines.deprecated.unclip`, and the loop of the pipeline stands in `decoders/unclip.py`. When diffusers
    drops that import, this decoder goes with it.

    Example:
        ```yaml
        decoder:
          class_path: evolvedirector.lightning_modules.KarloDecoder
          init_args: {model: kakaobrain/karlo-v1-alpha, revision: main}
        ```

    Args:
        model: Repository name or folder of an `UnCLIPPipeline`.
        revision: Its git revision; None only for a folder.
        embedding_dim: Width of the embeddings that it reads, verified against its weights.
        sampling_steps: Scheduler steps of the small image; 25 in the stock pipeline.
        super_resolution_steps: Those of the large one; 7 likewise.
        guidance_scale: 7.5 in the example of the ECLIPSE authors, 8 in the stock pipeline; 1 is none.
        embedder_fingerprint: Of the only embedder whose space it reads. None: not recorded.
        chunk_size: Images drawn at once. Chunks always have this size, so that an image does not depend on how many
            were asked for.
        dtype: Precision of its weights.

    Raises:
        UserError: A number is out of range, or a repository has no revision.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        embedding_dim: int = 768,
        sampling_steps: int = 25,
        super_resolution_steps: int = 7,
        guidance_scale: float = 7.5,
        embedder_fingerprint: str | None = None,
        chunk_size: int = 4,
        dtype: Precision = "float32",
    ) -> None:
        check_at_least(1, chunk_size=chunk_size)
        # its scheduler divides by the number of steps less one
        check_at_least(2, sampling_steps=sampling_steps, super_resolution_steps=super_resolution_steps)
        self.model, self.revision, self.dtype = folder_or_hub_name(model), revision, dtype
        needs_revision("Karlo decoder", self.model, revision)
        self.sampling_steps, self.super_resolution_steps = sampling_steps, super_resolution_steps
        self.guidance_scale, self.chunk_size = guidance_scale, chunk_size
        self._embedding_dim, self._embedder_fingerprint = embedding_dim, embedder_fingerprint
        self._device = torch.device("cpu")
        self._frozen = self._described()
        component = Component("the Karlo decoder", self.model, revision, "tokenizer", "tokenizer_config.json")
        self._tokenizer = Tokenizer(component)
        self._parts: UnCLIPParts | None = None

    @property
    def fingerprint(self) -> str:
        """Name weights, revision, precision and everything that changes an image; of a folder, its content."""
        content = [part.component.content_digest() for part in self._frozen.values()]
        steps = (self.sampling_steps, self.super_resolution_steps, self._embedding_dim)
        how = digest(*content, *steps, repr(self.guidance_scale), length=12)
        return f"karlo-{name_anywhere(self.model)}-{self.revision}-{self.dtype}-{how}"

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
        for part in self._frozen.values():
            part.to(self._device)

    def verify(self) -> None:
        """Check that all weights are there, as safetensors, and read embeddings of this width; loads none.

        Raises:
            UserError: With what is wrong and what to write instead.
        """
        for part in self._frozen.values():
            part.verify()
        self._tokenizer.verify()

    def estimated_bytes(self) -> int:
        """Return the size of the weights; 0 before they are downloaded."""
        return sum(part.estimated_bytes() for part in self._frozen.values())

    def close(self) -> Any:
        """Let go of the weights; the next image loads them again."""
        if self._parts is None:
            return
        self._parts = None
        self._frozen = self._described()
        free_memory()

    def decode(self, embeddings: Tensor, negative: Tensor | None, requests: Sequence[ImageRequest]) -> list[Tensor]:
        """Draw one uint8 image (3, height, width) per embedding, on the CPU.

        Args:
            embeddings: Float[batch, embedding], raw, not normalised.
            negative: Must be None: guidance leads away from an embedding among the decoder's own weights.
            requests: Give prompt and seed of each, and the one size that there is.

        Raises:
            UserError: The embeddings are of another space, a negative embedding is given, or the size is another one.
        """
        check_embeddings("The Karlo decoder", self._embedding_dim, embeddings, None, requests)
        if negative is not None:
            raise UserError(
                "A negative embedding was given to the Karlo decoder, whose guidance leads away from one among its own "
                "weights. Allowed is none. Leave it out."
            )
        if not requests:
            return []
        parts = self._load()
        side_px = int(parts.super_res_first.config.sample_size)
        for request in requests:
            if (request.height_px, request.width_px) != (side_px, side_px):
                raise UserError(
                    f"An image of {request.width_px} x {request.height_px} px (width x height) cannot be drawn by the "
                    f"Karlo decoder. Allowed is {side_px} x {side_px} px. Write image_size_px: {side_px}."
                )
        images: dict[int, Tensor] = {}
        for places, chunk in chunks_of_one_size(requests, self.chunk_size):
            rows = places + places[-1:] * (len(chunk) - len(places))
            drawn = self._draw(parts, embeddings[rows], chunk)
            images |= dict(zip(places, drawn, strict=False))
        return [images[place].clone() for place in range(len(requests))]

    def _draw(self, parts: UnCLIPParts, embeddings: Tensor, requests: Sequence[ImageRequest]) -> Tensor:
        prompts = [request.prompt for request in requests]
        generators = generators_after_prior(requests, self._embedding_dim)
        steps = (self.sampling_steps, self.super_resolution_steps)
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            found = draw_unclip(parts, embeddings, prompts, generators, *steps, self.guidance_scale)
        return pixels(found.cpu().permute(0, 2, 3, 1).float().numpy(), prompts)

    def _load(self) -> UnCLIPParts:
        if self._parts is None:
            scheduler = diffusers_class("UnCLIPScheduler")
            loaded: dict[str, Any] = {
                name: scheduler.from_pretrained(self.model, revision=self.revision, subfolder=name)
                for name in ("decoder_scheduler", "super_res_scheduler")
            }
            loaded |= {name: part.model() for name, part in self._frozen.items()}
            self._parts = UnCLIPParts(tokenizer=self._tokenizer.load(), **loaded)
        return self._parts

    def _described(self) -> dict[str, FrozenModel]:
        parts = {name: self._part(class_name, name, load_from_diffusers) for name, class_name in _UNETS.items()}
        parts["text_proj"] = self._part("UnCLIPTextProjModel", "text_proj", _load_projection, self._check_projection)
        parts["text_encoder"] = self._part("CLIPTextModelWithProjection", "text_encoder", load_from_transformers)
        return parts

    def _part(self, class_name: str, subfolder: str, load: Load, check: Any = lambda _: None) -> FrozenModel:
        component = Component(f"the Karlo decoder's {subfolder}", self.model, self.revision, subfolder)
        part = FrozenModel(class_name, component, self.dtype, load, check)
        part.to(self._device)
        return part

    def _check_projection(self, config: Mapping[str, Any]) -> None:
        found = config["clip_embeddings_dim"]
        if found != self._embedding_dim:
            raise UserError(
                f"The decoder {self.model!r} reads embeddings of width {found}, but embedding_dim is "
                f"{self._embedding_dim}. Allowed is its own. Write embedding_dim: {found}, and take the embedder that "
                "it was trained with."
            )


def _load_projection(class_name: str, component: Component, dtype: Precision) -> tuple[Any, Mapping[str, Any]]:
    """Load the projection, whose class diffusers no longer names at its top."""
    import_diffusers()
    try:
        found = getattr(importlib.import_module("diffusers.pipelines.deprecated.unclip"), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"This version of diffusers no longer has {class_name}, which Karlo needs. Allowed is one that still has "
            "its deprecated unCLIP pipelines. Install diffusers 0.42, or take Kandinsky 2.2."
        ) from error
    model, report = found.from_pretrained(
        component.name,
        revision=component.revision,
        subfolder=component.subfolder,
        torch_dtype=getattr(torch, dtype),
        use_safetensors=True,
        output_loading_info=True,
    )
    refuse_missing(component.what, component.name, report)
    return model, model.config
