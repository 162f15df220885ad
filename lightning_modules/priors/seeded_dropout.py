"""Dropout that follows from each sample's seed, so that it is the same for every world size and after every resume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.seeded_noise import seeded_uniform

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

_BEHIND_NOISE = 2**32
"""Place in a sample's stream at which dropout begins; time and noise of the objective are drawn before."""
_ROWS = 32
"""Samples whose numbers are drawn at once: 64-bit integers, several of them for each value."""


@dataclass
class DropoutSeeds:
    """What all dropouts of a network read in one pass.

    Args:
        rows: Int64[batch], seeds. None: nobody gave any.
        places: Int64[token]: of each token in the network's full length, so that padding moves no draw.
    """

    rows: Tensor | None = None
    places: Tensor | None = None

    def give(self, rows: Int64[Tensor, " batch"] | None, length: int, longest: int, added: int) -> None:
        """Take the seeds of a pass.

        Args:
            rows: One per sample. None: there are none.
            length: Of its texts in tokens.
            longest: Length that the network can read.
            added: Tokens behind a text.
        """
        self.rows = rows
        if rows is not None:
            places = [*range(length), *range(longest, longest + added)]
            self.places = torch.tensor(places, device=rows.device)


class SeededDropout(nn.Module):
    """Zero a share of the values in training and scale up the rest (Srivastava et al. 2014), drawn by sample.

    torch's own draws from a global stream, which no checkpoint holds and every rank has for itself.

    Args:
        share: That is zeroed.
        number: Of this dropout in its network: each draws its own.
        tokens: Full length of the network's sequence.
        seeds: Shared by all dropouts of the network, which fills it before each pass.
    """

    def __init__(self, share: float, number: int, tokens: int, seeds: DropoutSeeds) -> None:
        super().__init__()
        self.share, self.number, self.tokens = share, number, tokens
        self._seeds = seeds

    def forward(self, values: Float[Tensor, "batch token channel"]) -> Float[Tensor, "batch token channel"]:
        """Return the values with some of them zeroed; in evaluation all of them as they are.

        Args:
            values: Of a network's tokens.

        Raises:
            UserError: Nobody gave the seeds of the samples.
        """
        if not self.training:
            return values
        rows, places = self._seeds.rows, self._seeds.places
        if rows is None or places is None:
            raise UserError(
                f"The prior has dropout {self.share} and trains, but nobody gave the seeds of its samples. Allowed is "
                "dropout that follows from them. Give dropout_seeds, or call eval()."
            )
        kept = torch.cat([self._kept(some, places, values.shape[2]) for some in rows.split(_ROWS)])
        return values * kept.to(values.dtype) / (1 - self.share)

    def _kept(self, rows: Tensor, places: Tensor, channels: int) -> Tensor:
        first = _BEHIND_NOISE + self.number * self.tokens * 2**20
        chance = seeded_uniform(rows, self.tokens * channels, first)
        return chance.unflatten(1, (self.tokens, channels))[:, places] >= self.share
