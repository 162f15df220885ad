"""Any CLIP of transformers as a joint embedding: what unCLIP priors and decoders read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.models.clip_towers import (
    SUBFOLDERS,
    Half,
    half_config,
    load_half,
    load_image_processor,
    load_tokenizer,
    padded_rows,
    token_lengths,
)
from evolvedirector.models.embedder import TextEmbeddings
from evolvedirector.models.model_files import ModelSettings, ModelSource, digest_of_model, find_model, weight_bytes
from evolvedirector.models.model_loading import check_weights, free_memory, is_out_of_memory
from evolvedirector.models.token_spans import token_spans
from evolvedirector.records import digest
from evolvedirector.records.condition import Tokens


class ClipEmbedder:
    """Embed texts and images with a CLIP (Radford et al. 2021, arXiv:2103.00020), raw, not normalised.

    ECLIPSE (Patel et al. 2024, arXiv:2312.04655) and the priors of unCLIP read `last_hidden_state` and `text_embeds` of
    `CLIPTextModelWithProjection` and are trained towards `image_embeds` of `CLIPVisionModelWithProjection`, as the
    decoder is fed. Both halves are loaded when first asked, from a whole CLIP or from the folders of a pipeline.
    Batches have one shape and 77 tokens, so that a text gives the same values whatever stands beside it.

    Args:
        model: Folder or name on the model hub of the CLIP, such as `openai/clip-vit-large-patch14` (Karlo) or
            `laion/CLIP-ViT-bigG-14-laion2B-39B-b160k` (Kandinsky 2.2), or of a pipeline with `text_encoder` and
            `tokenizer`, such as `kandinsky-community/kandinsky-2-2-prior`.
        revision: Branch, tag or commit on the hub; None is its main branch.
        image_model: Where the vision half lies, if not there: a CLIP, or a pipeline with `image_encoder`. None: there.
        image_revision: Of `image_model`. None: its main branch, or that of `model` where it is the same.
        projection_dim: Width of the joint space. None: what the model's configuration says, at its top.
        dtype: Of weights and computation; what is returned is float32.
        device: As PyTorch names it. None: the GPU of the rank, or the CPU where there is none.
        batch_size: Texts or images embedded together; fewer are padded to as many.

    Raises:
        UserError: A number below 1.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        image_model: str | None = None,
        image_revision: str | None = None,
        projection_dim: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        device: str | None = None,
        batch_size: int = 32,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("projection_dim", projection_dim)):
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}. Allowed is 1 or more. Write `{name}: 32`, say, or leave it out.")
        self.model = model
        self.revision = revision
        self.image_model = image_model
        self.image_revision = image_revision
        self.projection_dim = projection_dim
        self.dtype = dtype
        self.device = device
        self.batch_size = batch_size
        self._settings: dict[Half, ModelSettings] = {
            "text": ModelSettings(model, revision, dtype, device=device),
            "vision": ModelSettings(
                image_model or model, image_revision if image_model else revision, dtype, None, device
            ),
        }
        self._loaded: dict[Half, tuple[Any, Any]] = {}
        self._configs: dict[Half, Any] = {}

    # ---- what is known before weights are loaded

    @cached_property
    def fingerprint(self) -> str:
        """Name both halves, their weights and the precision; neither path nor device."""
        text, vision = self._source("text"), self._source("vision")
        named: list[str | int] = [self.dtype, self._config("text").projection_dim]
        for source in (text, vision):
            named += [source.subfolder, digest_of_model(source)]
            if source.folder is not None and source.commit is None and source.subfolder:
                beside = [source.folder.parent / part for part in ("tokenizer", "image_processor", "feature_extractor")]
                named += [digest_of_model(ModelSource(source.model, part, None)) for part in beside if part.is_dir()]
        return f"clip-embedder-1/{text.short_name}/{digest(*named)}"

    @property
    def embedding_dim(self) -> int:
        """Width of the joint space."""
        return int(self._config("text").projection_dim)

    @property
    def text_width(self) -> int:
        """Width of a token's state."""
        return int(self._config("text").hidden_size)

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens, their marks of beginning and end included."""
        return int(self._config("text").max_position_embeddings)

    def verify(self) -> None:
        """Check, without loading weights, that both halves are there as safetensors, and meet in one space.

        Raises:
            UserError: With what is wrong and what to write.
        """
        for half in SUBFOLDERS:
            check_weights(self._source(half))
        text, vision = self._config("text").projection_dim, self._config("vision").projection_dim
        if text != vision:
            raise UserError(
                f"The texts of {self.model!r} have {text} values, the images of {self.image_model or self.model!r} "
                f"{vision}. Allowed are the two halves of one CLIP. Write another image_model, or the projection_dim "
                "of both."
            )

    def estimated_bytes(self) -> int | None:
        """Estimate the memory of the weights from the headers of their files; None if they are not here yet.

        Raises:
            UserError: There is no such model.
        """
        folders = {self._source(half).folder for half in SUBFOLDERS}
        if None in folders:
            return None
        return sum(weight_bytes(folder, self.dtype, None) or 0 for folder in folders if isinstance(folder, Path))

    def embed_options(self) -> list[str]:
        """Return the options with which `evolvedirector embed` builds it."""
        given = {
            "model": self.model,
            "revision": self.revision,
            "image-model": self.image_model,
            "image-revision": self.image_revision,
            "projection-dim": self.projection_dim,
            "dtype": None if self.dtype == "float32" else self.dtype,
        }
        return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]

    # ---- work

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Return the characters of each of a text's tokens, first and one after the last; marks have (0, 0).

        Args:
            text: Any; its end may be cut.

        Raises:
            UserError: There is no such model, or its tokenizer does not know them.
        """
        return token_spans(self._tokenizer, text, self.max_tokens)

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embed texts; those with more tokens than the model reads are cut, and say so.

        Args:
            texts: Any; none is fine.

        Returns:
            On the CPU in float32: `last_hidden_state`, `text_embeds`, and the tokenizer's mask.

        Raises:
            UserError: There is no such model, a batch does not fit, or the model gives numbers that are not finite.
        """
        if not texts:
            nothing = torch.zeros(0, self.max_tokens, self.text_width)
            return TextEmbeddings(Tokens(nothing, nothing[..., 0].bool()), torch.zeros(0, self.embedding_dim), ())
        model, tokenizer = self._get("text")
        cut = tuple(length > self.max_tokens for length in token_lengths(tokenizer, texts))
        options = {"padding": "max_length", "truncation": True, "max_length": self.max_tokens, "return_tensors": "pt"}
        words = tokenizer(list(texts), **options)

        def embedded(rows: slice) -> list[Tensor]:
            ids, mask = (self._whole(words[name][rows], model) for name in ("input_ids", "attention_mask"))
            found = model(input_ids=ids, attention_mask=mask)
            return [found.last_hidden_state, found.text_embeds]

        states, pooled = self._in_batches(embedded, len(texts), "texts")
        return TextEmbeddings(Tokens(states, words["attention_mask"].bool()), pooled, cut)

    def embed_images(self, images: Sequence[Tensor]) -> Tensor:
        """Embed images, scaled and cropped as the model's own processor does.

        Args:
            images: uint8 (3, height, width), of any sizes; none is fine.

        Returns:
            `image_embeds`, Float[batch, embedding], on the CPU in float32.

        Raises:
            UserError: There is no such model, a batch does not fit, or the model gives numbers that are not finite.
        """
        if not images:
            return torch.zeros(0, self.embedding_dim)
        model, processor = self._get("vision")

        def embedded(rows: slice) -> list[Tensor]:
            shown = [image.cpu().numpy() for image in images[rows]]
            pixels = processor(images=shown, return_tensors="pt", input_data_format="channels_first")["pixel_values"]
            return [model(pixel_values=self._whole(pixels, model).to(model.dtype)).image_embeds]

        return self._in_batches(embedded, len(images), "images")[0]

    def close(self) -> None:
        """Free the memory of both halves; the next call loads again."""
        if self._loaded:
            self._loaded.clear()
            free_memory()

    # ---- shared

    def _source(self, half: Half) -> ModelSource:
        settings = self._settings[half]
        return find_model(settings.model, settings.revision, SUBFOLDERS[half])

    def _config(self, half: Half) -> Any:
        if half not in self._configs:
            source, revision = self._source(half), self._settings[half].revision
            self._configs[half] = half_config(half, source, revision, self.projection_dim)
        return self._configs[half]

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self._source("text"), self._settings["text"].revision)

    def _get(self, half: Half) -> tuple[Any, Any]:
        """Return the model of a half and what prepares its input, loaded at the first call."""
        if half not in self._loaded:
            source, settings = self._source(half), self._settings[half]
            prepared = self._tokenizer if half == "text" else load_image_processor(source, settings.revision)
            self._loaded[half] = load_half(half, source, settings, self._config(half)), prepared
        return self._loaded[half]

    def _whole(self, values: Tensor, model: Any) -> Tensor:
        return padded_rows(values, self.batch_size).to(model.device)

    def _in_batches(self, embedded: Callable[[slice], list[Tensor]], count: int, what: str) -> list[Tensor]:
        """Return what all batches give, in float32 on the CPU, without the rows that only filled a batch."""
        parts: list[list[Tensor]] = []
        try:
            with torch.inference_mode():
                for start in range(0, count, self.batch_size):
                    number = min(self.batch_size, count - start)
                    parts.append([each[:number].float().cpu() for each in embedded(slice(start, start + number))])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"A batch of {self.batch_size} {what} does not fit the memory beside the model. Allowed is what it "
                f"holds. Write a batch_size under {self.batch_size}."
            ) from error
        found = [torch.cat(list(each)) for each in zip(*parts, strict=True)]
        if not all(bool(each.isfinite().all()) for each in found):
            raise UserError(
                f"The embedding of {what} by {self.model!r} has numbers that are not finite. Allowed are finite ones. "
                "Write `dtype: float32`, or another model."
            )
        return [each.clone() for each in found]  # of an inference tensor no training may be made
