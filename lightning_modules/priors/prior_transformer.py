"""The small prior of ECLIPSE: from a text and noise to an image embedding in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.priors.masked_attention import MaskedAttention
from evolvedirector.lightning_modules.priors.seeded_dropout import DropoutSeeds, SeededDropout

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64

ADDED_EMB_TYPE = "prd_of_eclipse"
_RELEASED = "prd"
_HIDDEN = -10000.0  # as in the release: exp() of it is exactly 0 beside any other logit


class EclipsePrior(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' lazy imports hide its bases
    """Predict an image embedding from a text's states and embedding, and noise, without diffusion time.

    Patel et al. 2023 (arXiv:2312.04655), section 3.2: the transformer of unCLIP's prior at 33 to 34 million parameters
    without its time embedding. The tokens are [states of the text | its embedding | noise | one learned token], each
    attends to itself and those before, and the last one becomes the embedding. Weights have the names of diffusers'
    `PriorTransformer`, and released checkpoints load. The stock class and pipeline would ignore what is missing and
    scale the result by `clip_std`, which is zero here; hence a saved config says `added_emb_type: prd_of_eclipse`, at
    which the stock class raises.

    Args:
        num_attention_heads: Heads of each attention.
        attention_head_dim: Channels of a head.
        num_layers: Blocks.
        embedding_dim: Width of the joint space of texts and images.
        num_embeddings: Tokens of a text, padding included.
        additional_embeddings: Tokens after it. None: as many as there are, 3 and one each for time and edges.
        dropout: In the blocks.
        reads_time: Whether it reads a diffusion time, as the diffusion baseline does.
        reads_edges: Whether it reads the embedding of an edge image, as lambda-ECLIPSE does (arXiv:2402.05195).
        text_dim: Width of a text state. None: `embedding_dim`.
        added_emb_type: Must keep its value, or that of released checkpoints; it tells this class from the stock one.

    Raises:
        UserError: For another `added_emb_type`, or a number of tokens that contradicts the rest.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 32,
        num_layers: int = 10,
        embedding_dim: int = 768,
        num_embeddings: int = 77,
        additional_embeddings: int | None = None,
        dropout: float = 0.0,
        reads_time: bool = False,
        reads_edges: bool = False,
        text_dim: int | None = None,
        added_emb_type: str = ADDED_EMB_TYPE,
    ) -> None:
        super().__init__()
        added = 3 + reads_time + reads_edges
        _check_numbers(added_emb_type, additional_embeddings, added)
        config: Any = self
        config.register_to_config(added_emb_type=ADDED_EMB_TYPE, additional_embeddings=added)
        width, length = num_attention_heads * attention_head_dim, num_embeddings + added
        self.gradient_checkpointing = False
        self.proj_in = nn.Linear(embedding_dim, width)
        self.embedding_proj = nn.Linear(embedding_dim, width)
        self.encoder_hidden_states_proj = nn.Linear(text_dim or embedding_dim, width)
        if reads_time:
            self.time_proj = Timesteps(width, True, 0)
            self.time_embedding = TimestepEmbedding(width, width)
        if reads_edges:
            self.embedding_control = nn.Linear(embedding_dim, width)
        self.positional_embedding = nn.Parameter(torch.zeros(1, length, width))
        self.prd_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(
                width, num_attention_heads, attention_head_dim, dropout, activation_fn="gelu", attention_bias=True
            )
            for _ in range(num_layers)
        )
        block: Any
        for block in self.transformer_blocks:
            block.attn1.set_processor(MaskedAttention())
        self._dropout_seeds = DropoutSeeds()
        if dropout:
            _seed_dropouts(self.transformer_blocks, length, self._dropout_seeds)
        self.norm_out = nn.LayerNorm(width)
        self.proj_to_clip_embeddings = nn.Linear(width, embedding_dim)
        self.register_buffer("causal_attention_mask", torch.full((length, length), _HIDDEN).triu_(1), persistent=False)
        # of the release, read by nobody: with gradients, DDP would wait for them
        self.clip_mean = nn.Parameter(torch.zeros(1, embedding_dim), requires_grad=False)
        self.clip_std = nn.Parameter(torch.zeros(1, embedding_dim), requires_grad=False)

    def forward(
        self,
        noise: Float[Tensor, "batch embedding"],
        text_embedding: Float[Tensor, "batch embedding"],
        text_states: Float[Tensor, "batch token width"],
        text_mask: Bool[Tensor, "batch token"],
        timestep: Float[Tensor, " batch"] | None = None,
        edge_embedding: Float[Tensor, "batch embedding"] | None = None,
        pads: bool = True,
        dropout_seeds: Int64[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch embedding"]:
        """Return image embeddings, raw as the embedder of images gives them.

        Args:
            noise: Unit Gaussian; for the diffusion baseline, the noisy embedding.
            text_embedding: The text in the joint space.
            text_states: One per token.
            text_mask: True for real tokens. Padding changes nothing, not by a bit.
            timestep: On the scale 0...1000. None: for a network without time.
            edge_embedding: Of an edge image, or of a black one. None: for a network without it.
            pads: Pad texts to `num_embeddings`, so that a text gives the same bits in a tensor of any length. False:
                compute the tokens that are given, which is the same up to rounding, and quicker.
            dropout_seeds: One per sample; what is dropped follows from it. None: for a network that drops nothing.

        Raises:
            UserError: There is no mask, a width is another, a time or edge is missing or cannot be read, or it trains
                with dropout and there are no seeds.
        """
        config: Any = self.config
        self._check(noise, text_embedding, text_states, text_mask, timestep, edge_embedding)
        short = config.num_embeddings - text_states.shape[1] if pads else 0
        tokens = [self.encoder_hidden_states_proj(F.pad(text_states, (0, 0, 0, short)))]
        if edge_embedding is not None:
            tokens.append(self.embedding_control(edge_embedding)[:, None])
        tokens.append(self.embedding_proj(text_embedding)[:, None])
        if timestep is not None:
            tokens.append(self.time_embedding(self.time_proj(timestep).to(noise.dtype))[:, None])
        hidden = self.proj_in(noise)[:, None]
        tokens += [hidden, self.prd_embedding.to(hidden.dtype).expand(len(noise), -1, -1)]
        length, places = text_states.shape[1] + short, self.positional_embedding.to(hidden.dtype)
        if length < config.num_embeddings:
            places = torch.cat([places[:, :length], places[:, config.num_embeddings :]], 1)
        hidden = torch.cat(tokens, 1) + places
        padding = F.pad(~text_mask, (0, short), value=True)
        padding = F.pad(padding, (0, config.additional_embeddings), value=False)
        self._dropout_seeds.give(dropout_seeds, length, config.num_embeddings, config.additional_embeddings)
        causal = self.causal_attention_mask[: hidden.shape[1], : hidden.shape[1]]
        mask = padding[:, None, None] * _HIDDEN + causal  # [batch, 1, token, token]
        for block in self.transformer_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden = self._gradient_checkpointing_func(block, hidden, mask)
            else:
                hidden = block(hidden, attention_mask=mask)
        return self.proj_to_clip_embeddings(self.norm_out(hidden[:, -1]))  # type: ignore[no-any-return]

    def _check(
        self,
        noise: Tensor,
        text_embedding: Tensor,
        text_states: Tensor,
        text_mask: Tensor | None,
        timestep: Tensor | None,
        edge_embedding: Tensor | None,
    ) -> None:
        config: Any = self.config
        if text_mask is None:
            raise UserError(
                "text_mask is None, so padding would count as text. It must be a bool tensor with one value per token. "
                "Give the embedder's mask."
            )
        widths = (noise.shape[-1], text_embedding.shape[-1], text_states.shape[-1])
        wanted = (config.embedding_dim, config.embedding_dim, config.text_dim or config.embedding_dim)
        if widths != wanted:
            raise UserError(
                f"Noise, text embedding and text states have the widths {widths}, but this prior reads {wanted}. "
                "Embeddings must come from the embedder that it is built for. Embed with that one, or write its widths "
                "as embedding_dim and text_dim."
            )
        if text_states.shape[1] > config.num_embeddings:
            raise UserError(
                f"A text has {text_states.shape[1]} tokens, but this prior reads {config.num_embeddings}. Allowed are "
                "that many or fewer. Let the embedder cut texts there."
            )
        for name, given, key, reads in (
            ("timestep", timestep, "reads_time", config.reads_time),
            ("edge_embedding", edge_embedding, "reads_edges", config.reads_edges),
        ):
            if (given is not None) != reads:
                raise UserError(
                    f"{name} is {'missing' if reads else 'given'}, but this prior has {key}: {str(reads).lower()}. "
                    f"Both must agree. {'Give' if reads else 'Leave out'} {name}, or build the other prior."
                )


def _seed_dropouts(blocks: nn.ModuleList, length: int, seeds: DropoutSeeds) -> None:
    """Replace every dropout of the blocks by one that follows from the seeds of samples."""
    for number, (holder, name, dropout) in enumerate(
        [(m, name, d) for m in blocks.modules() for name, d in m.named_children() if isinstance(d, nn.Dropout)]
    ):
        setattr(holder, name, SeededDropout(dropout.p, number, length, seeds))


def _check_numbers(added_emb_type: str, additional_embeddings: int | None, added: int) -> None:
    if added_emb_type not in (ADDED_EMB_TYPE, _RELEASED):
        raise UserError(
            f"added_emb_type is {added_emb_type!r}, which is no ECLIPSE prior. Allowed: {ADDED_EMB_TYPE!r}, and "
            f"{_RELEASED!r} of released checkpoints. Load this folder with diffusers.PriorTransformer."
        )
    if additional_embeddings not in (None, added):
        raise UserError(
            f"additional_embeddings is {additional_embeddings}, but text embedding, noise and learned token make 3, "
            f"and time and edges one each: {added}. A prior with a time embedding has 4, and so has lambda-ECLIPSE. "
            "Write reads_time or reads_edges: true, or leave additional_embeddings out."
        )
