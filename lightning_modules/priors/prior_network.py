"""The numbers of a prior's network, and where its weights begin."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.component import refuse_missing
from evolvedirector.lightning_modules.families.pretrained import Pretrained, agree, on_meta
from evolvedirector.models.import_diffusers import import_diffusers

_ARGUMENTS = {
    "num_attention_heads": "heads",
    "attention_head_dim": "head_dim",
    "num_layers": "layers",
    "num_embeddings": "text_length",
}


@dataclass(frozen=True)
class PriorNetwork:
    """Describe the network of a prior; the defaults are ECLIPSE's beside Karlo (arXiv:2312.04655, table 3).

    Args:
        embedding_dim: Width of the joint space: 768 of CLIP-L (Karlo), 1280 of bigG (Kandinsky 2.2).
        heads: Of each attention.
        head_dim: Channels of a head.
        layers: Blocks.
        text_length: Longest text in tokens.
        text_dim: Width of a text state. None: `embedding_dim`.
        dropout: In the blocks, 0 to under 1; drawn from each sample's seed. ECLIPSE has none.
        reads_edges: Read the embedding of an edge image, as lambda-ECLIPSE does.

    Raises:
        UserError: A number is below 1, or the dropout out of range.
    """

    embedding_dim: int = 768
    heads: int = 16
    head_dim: int = 32
    layers: int = 10
    text_length: int = 77
    text_dim: int | None = None
    dropout: float = 0.0
    reads_edges: bool = False

    def __post_init__(self) -> None:
        low = [name for name, value in asdict(self).items() if type(value) is int and value < 1]
        if low:
            raise UserError(
                f"{low[0]} of the prior is {getattr(self, low[0])}. Allowed: 1 or more. Write {low[0]}: 16."
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout of the prior is {self.dropout}. Allowed: 0 to under 1. Write dropout: 0.0.")

    @property
    def text_width(self) -> int:
        """Width of a text state."""
        return self.text_dim or self.embedding_dim

    def config(self, reads_time: bool) -> dict[str, Any]:
        """Return it in diffusers' keys.

        Args:
            reads_time: Whether the network has a time embedding.
        """
        return {
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "num_layers": self.layers,
            "embedding_dim": self.embedding_dim,
            "num_embeddings": self.text_length,
            "dropout": self.dropout,
            "reads_time": reads_time,
            "reads_edges": self.reads_edges,
            "text_dim": self.text_dim,
        }

    def build(self, reads_time: bool, start: Pretrained | None) -> nn.Module:
        """Make the network with random weights, or with those that it starts from.

        Args:
            reads_time: Whether it has a time embedding.
            start: The weights. None: random ones.

        Raises:
            UserError: The weights are those of another network, or some are missing.
        """
        import_diffusers()
        from evolvedirector.lightning_modules.priors.prior_transformer import EclipsePrior

        config = self.config(reads_time)
        if start is None or on_meta():
            network: nn.Module = EclipsePrior(**config)
            return network
        written = start.written_config(EclipsePrior)
        added, found = 3 + reads_time + self.reads_edges, written.get("additional_embeddings")
        if found not in (None, added):
            raise UserError(
                f"The weights of {start.name!r} read {found} tokens beside the text, but this prior {added}: 3, one "
                f"for a time where the objective is diffusion ({str(reads_time).lower()} here), and one for edges "
                f"(reads_edges: {str(self.reads_edges).lower()}). Both must agree. Choose what fits the weights."
            )
        fixed = {key: value for key, value in config.items() if key in written and key != "dropout"}
        agree(fixed, written, _ARGUMENTS, start.name)
        # released configs have no word for edges and the width of text states
        network, report = EclipsePrior.from_pretrained(
            start.name,
            revision=start.revision,
            subfolder=start.subfolder,
            use_safetensors=True,
            output_loading_info=True,
            **{key: value for key, value in config.items() if key not in fixed},
        )
        refuse_missing("the pretrained prior", start.name, report)
        return network.train()
