"""Which characters of a text the tokens of a transformers tokenizer stand for."""

from __future__ import annotations

from typing import Any

from evolvedirector.errors import UserError


def token_spans(tokenizer: Any, text: str, max_tokens: int) -> list[tuple[int, int]]:
    """Return the characters of each token, first and one after the last; marks and padding have (0, 0).

    Args:
        tokenizer: Of transformers, one that knows offsets.
        text: Tokenised as an embedder does it, with its marks.
        max_tokens: The rest is cut.

    Raises:
        UserError: The tokenizer is a slow one, which does not know them.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} does not say which characters its tokens stand for, so no subject can be put "
            "into a text. Allowed are tokenizers with a tokenizer.json. Name a model that has one."
        )
    found = tokenizer(text, padding="max_length", truncation=True, max_length=max_tokens, return_offsets_mapping=True)
    return [(int(first), int(end)) for first, end in found["offset_mapping"]]
