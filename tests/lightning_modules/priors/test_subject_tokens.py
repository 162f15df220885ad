"""Subjects take the place of their own words, and of no others."""

from __future__ import annotations

import pytest
import torch

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.priors.subject_states import Subject, put_subjects
from evolvedirector.models.subject_words import subject_span, subject_tokens
from tests.lightning_modules.priors.prior_toys import DIM, ToyEmbedder, prior, request

EMBEDDER = ToyEmbedder()
CAT, DOG = torch.full((DIM,), 7.0), torch.full((DIM,), -7.0)


def test_only_the_words_at_its_place_are_overwritten() -> None:
    text = "cat chases cat and dog"
    tokens = subject_tokens(text, [Subject("cat", CAT), Subject("Dog", DOG)], EMBEDDER.token_spans(text))
    states = EMBEDDER.embed_texts([text]).states.values
    found = put_subjects(states, tokens[None], torch.stack([CAT, DOG])[None])
    assert torch.equal(found[0, 1], CAT) and torch.equal(found[0, 5], DOG)
    assert torch.equal(found[0, [0, 2, 3, 4]], states[0, [0, 2, 3, 4]])  # the second cat among them
    second = subject_tokens(text, [Subject("cat", CAT, begin=11)], EMBEDDER.token_spans(text))
    assert second[0].nonzero().flatten().tolist() == [3]


def test_a_name_of_several_tokens_takes_all_of_them() -> None:
    text = "my red  Backpack here"
    assert subject_span(text, "red backpack") == (3, 16)
    pieces = [(0, 0), (0, 2), (3, 6), (8, 12), (12, 16), (17, 21), (0, 0)]
    found = subject_tokens(text, [Subject("red backpack", CAT)], pieces)
    assert found[0].nonzero().flatten().tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [("a category", "cat", "does not stand in"), ("a cat", "", "does not stand in"),
     ("a b c d e cat", "cat", "stands behind the 6 tokens")],
)  # fmt: skip
def test_a_name_that_is_not_found_is_refused(text: str, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        subject_tokens(text, [Subject(name, CAT)], EMBEDDER.token_spans(text))


def test_subjects_need_words_of_their_own_and_states_as_wide_as_they_are() -> None:
    with pytest.raises(UserError, match="stand for the same words"):
        subject_tokens("a cat", [Subject("cat", CAT), Subject("cat", DOG)], EMBEDDER.token_spans("a cat"))
    with pytest.raises(UserError, match="have the width 3, image embeddings 2"):
        put_subjects(torch.zeros(1, 4, 3), torch.zeros(1, 1, 4, dtype=torch.bool), torch.zeros(1, 1, 2))


def test_a_prior_embeds_a_prompt_with_its_subjects() -> None:
    module = prior()
    wanted = [request("a cat", 1), request("a dog", 2)]
    plain = module.embed(wanted)
    found = module.embed(wanted, subjects=[[Subject("cat", CAT)], []])
    assert not torch.equal(found[0], plain[0]) and torch.equal(found[1], plain[1])
