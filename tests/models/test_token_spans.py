"""Characters behind tokens, as CLIP's own tokenizer tells them."""

from __future__ import annotations

from string import ascii_lowercase
from types import SimpleNamespace

import pytest
from transformers import CLIPTokenizer

from evolvedirector.errors import UserError
from evolvedirector.models.subject_words import subject_tokens
from evolvedirector.models.token_spans import token_spans
from evolvedirector.records.prompt_subjects import NamedSubject

MERGES = [("c", "a"), ("ca", "t</w>"), ("r", "e"), ("re", "d</w>")]


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    words = [letter + end for letter in ascii_lowercase for end in ("", "</w>")] + ["".join(pair) for pair in MERGES]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=MERGES, model_max_length=12)


def test_a_subject_takes_the_pieces_of_its_own_words(tokenizer: CLIPTokenizer) -> None:
    text = "cats of a Red  cat"  # `cats` begins with pieces that are no `cat`
    spans = token_spans(tokenizer, text, 12)
    assert [text[first:end] for first, end in spans] == ["", "ca", "t", "s", "o", "f", "a", "Red", "cat", "", "", ""]
    found = subject_tokens(text, [NamedSubject("red cat")], spans)
    assert found[0].nonzero().flatten().tolist() == [7, 8]


def test_what_is_cut_has_no_tokens(tokenizer: CLIPTokenizer) -> None:
    text = "a a a a a a a a a a a a a cat"
    assert len(token_spans(tokenizer, text, 12)) == 12
    with pytest.raises(UserError, match="stands behind the 12 tokens"):
        subject_tokens(text, [NamedSubject("cat")], token_spans(tokenizer, text, 12))


def test_a_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(UserError, match="does not say which characters"):
        token_spans(SimpleNamespace(is_fast=False), "a cat", 12)
