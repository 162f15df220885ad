"""Network, embedder and decoder must speak of one space."""

from __future__ import annotations

from typing import Any

import pytest

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import PriorNetwork
from evolvedirector.planning.preflight import problems_of
from tests.lightning_modules.priors.prior_toys import ToyDecoder, prior


def decoder(**changes: Any) -> ToyDecoder:
    found = ToyDecoder()
    for name, value in changes.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"network": PriorNetwork(9)}, "of toy-embedder have the width 12, but embedding_dim of the prior is 9"),
     ({"network": PriorNetwork(12, text_dim=5)}, "text states of toy-embedder have the width 12, but text_dim"),
     ({"network": PriorNetwork(12, text_length=5)}, "up to 6 tokens, but text_length of the prior is 5"),
     ({"decoder": decoder(embedding_dim=9)}, "reads embeddings of width 9, but the prior's have 12"),
     ({"decoder": decoder(embedder_fingerprint="other")}, "reads the space of other, but the prior learns")],
)  # fmt: skip
def test_another_space_is_one_sentence_before_anything_starts(settings: dict[str, Any], said: str) -> None:
    module = prior(**settings)
    problems = problems_of([], [module])
    assert len(problems) == 1 and said in problems[0]


def test_a_decoder_that_does_not_say_whose_space_it_reads_is_taken_at_its_width() -> None:
    assert problems_of([], [prior(decoder=decoder(embedder_fingerprint=None))]) == []


def test_a_network_without_width_is_refused() -> None:
    with pytest.raises(UserError, match=r"dropout of the prior is 1.5"):
        PriorNetwork(dropout=1.5)
    with pytest.raises(UserError, match="heads of the prior is 0"):
        PriorNetwork(heads=0)
