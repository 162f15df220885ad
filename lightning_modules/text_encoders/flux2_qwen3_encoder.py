"""Qwen3 as FLUX.2-klein reads it: three inner layers side by side, for a chat of one turn without thinking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.text_encoders.tokenizer import frozen_text_parts
from evolvedirector.store.paths import folder_or_hub_name


class Flux2Qwen3Encoder:
    """Encode text with Qwen3 (arXiv:2505.09388) as FLUX.2-klein was trained: hidden states of three layers, joined.

    A prompt is put into the model's chat template as the user's turn, with thinking off, which adds an empty block of
    thoughts. Nothing is cut off, and padding stays part of the states: the network attends to it. The weights load at
    the first `encode`; Qwen3-4B takes 8 GB in bfloat16.

    Args:
        name: repository name or folder.
        revision: git revision of the repository; None only for a folder.
        dimension: dimension of the joined states; 3 x 2560 for Qwen3-4B (klein 4B), 3 x 4096 for Qwen3-8B (klein 9B).
        layers: whose outputs are joined, counted from 1; 0 would be the embedding.
        dtype: precision of its weights.
        subfolder: folder of the text encoder inside the repository, for diffusers pipelines; None for none.
        tokenizer_subfolder: likewise for the tokenizer.

    Raises:
        UserError: if a repository is named without revision.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        dimension: int = 7680,
        layers: Sequence[int] = (9, 18, 27),
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        subfolder: str | None = None,
        tokenizer_subfolder: str | None = None,
    ) -> None:
        name = folder_or_hub_name(name)
        self.name, self.revision, self.dtype = name, revision, dtype
        self.dimension, self.layers = dimension, tuple(layers)
        subfolders = (subfolder, tokenizer_subfolder)
        self.frozen, self.tokenizer = frozen_text_parts(
            "Qwen3", "Qwen3ForCausalLM", name, revision, dtype, subfolders, self._check, chats_of="FLUX.2"
        )

    @property
    def fingerprint(self) -> str:
        """Name repository, revision, precision and layers; of a folder, its weights."""
        layers = "+".join(str(layer) for layer in self.layers)
        return f"flux2-qwen3-{self.name}-{self.revision}-{self.dtype}-{layers}{self.frozen.component.content_digest()}"

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the joined states of all tokens, padding too, and a mask that leaves none of them out."""
        model, tokenizer = self.models()
        chats = self.tokenizer.chats(texts, thinking=False)
        tokens = tokenizer(chats, padding="max_length", truncation=True, max_length=max_tokens, return_tensors="pt").to(
            self.frozen.device
        )
        with torch.no_grad(), torch.autocast(self.frozen.device.type, enabled=False):
            # the model under the head: nobody reads logits, which for 512 tokens would take 300 MB a text
            found = model.model(
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                output_hidden_states=True,
                use_cache=False,
            ).hidden_states
        states = torch.cat([found[layer] for layer in self.layers], dim=-1)
        return states, torch.ones_like(tokens.attention_mask).bool()

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.frozen.to(device)

    def verify(self) -> None:
        """Check weights, tokenizer with its chat template and, where its config is here, dimension and layers.

        Raises:
            ValueError: One of them would not work.
        """
        self.frozen.verify()
        self.tokenizer.verify()

    def estimated_bytes(self) -> int:
        """Return the size of the weights; 0 before they are downloaded."""
        return self.frozen.estimated_bytes()

    def models(self) -> tuple[Any, Any]:
        """Return model and tokenizer, loaded at the first call.

        Raises:
            UserError: The tokenizer has no chat template.
        """
        return self.frozen.model(), self.tokenizer.load()

    def _check(self, config: Mapping[str, Any]) -> None:
        width, depth = config["hidden_size"], config["num_hidden_layers"]
        if max(self.layers) > depth:
            raise UserError(
                f"layers is {list(self.layers)}, but Qwen3 encoder {self.name!r} has {depth} layers. Allowed are its "
                "own; FLUX.2-klein reads 9, 18 and 27. Name the encoder of the published pipeline."
            )
        if width * len(self.layers) != self.dimension:
            raise UserError(
                f"Qwen3 encoder {self.name!r} has dimension {width}, in {len(self.layers)} layers "
                f"{width * len(self.layers)}, but dimension is {self.dimension}. Allowed is its own. Write "
                f"dimension: {width * len(self.layers)}."
            )
