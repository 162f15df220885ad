"""Whether network, embedder and decoder of a prior speak of one space."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.families.pretrained import Pretrained, network_fingerprint
from evolvedirector.lightning_modules.priors.prior_network import PriorNetwork
from evolvedirector.models.embedder import Embedder
from evolvedirector.models.embedding_decoder import EmbeddingDecoder


@dataclass(frozen=True, eq=False)
class PriorSpace:
    """Hold what must agree for a prior to mean anything; it is the part `network` of a run.

    Args:
        network: The numbers of the network.
        reads_time: Whether it has a time embedding.
        start: Weights that it starts from. None: random ones.
        embedder: Frozen; its space is learned.
        decoder: Frozen; draws from that space. None: nothing is drawn.
    """

    network: PriorNetwork
    reads_time: bool
    start: Pretrained | None
    embedder: Embedder
    decoder: EmbeddingDecoder | None

    @property
    def fingerprint(self) -> str:
        """Name the network and what it starts from."""
        return network_fingerprint("prior", asdict(self.network), self.start, json.dumps(self.reads_time))

    def verify(self) -> None:
        """Check that the weights it starts from are there, and that all parts have one space.

        Raises:
            UserError: They are not, or a width or a fingerprint is another.
        """
        if self.start is not None:
            self.start.verify()
        self.check()

    def check(self) -> None:
        """Check that all parts have one space.

        Raises:
            UserError: A width or a fingerprint is another.
        """
        network, embedder, decoder = self.network, self.embedder, self.decoder
        for what, found, own, setting in (
            ("embeddings", embedder.embedding_dim, network.embedding_dim, "embedding_dim"),
            ("text states", embedder.text_width, network.text_width, "text_dim"),
        ):
            if found != own:
                raise UserError(
                    f"The {what} of {embedder.fingerprint} have the width {found}, but {setting} of the prior is "
                    f"{own}. Both must agree. Write network: {{{setting}: {found}}}, or configure another embedder."
                )
        if embedder.max_tokens > network.text_length:
            raise UserError(
                f"{embedder.fingerprint} gives texts of up to {embedder.max_tokens} tokens, but text_length of the "
                f"prior is {network.text_length}. It must be as long. Write network: {{text_length: "
                f"{embedder.max_tokens}}}."
            )
        if decoder is not None and decoder.embedding_dim != network.embedding_dim:
            raise UserError(
                f"The decoder {decoder.fingerprint} reads embeddings of width {decoder.embedding_dim}, but the prior's "
                f"have {network.embedding_dim}. It must read the prior's space. Configure the decoder of "
                f"{embedder.fingerprint}, or another embedder."
            )
        if decoder is not None and decoder.embedder_fingerprint not in (None, embedder.fingerprint):
            raise UserError(
                f"The decoder {decoder.fingerprint} reads the space of {decoder.embedder_fingerprint}, but the prior "
                f"learns that of {embedder.fingerprint}. Embeddings of another mean nothing to it. "
                "Configure the decoder of this embedder, or that embedder."
            )
