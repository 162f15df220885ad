"""Training images of a refiner: what is listed, what is drawn, and what is held out."""

from __future__ import annotations

import numpy as np
import pytest

from evolvedirector.errors import UserError
from evolvedirector.pairs import SubjectArtist, SubjectPrompts
from evolvedirector.pairs.drawn.drawn_subjects import concepts_of
from evolvedirector.records import ImageRequest
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.store.images import decode_image
from evolvedirector.teachers import Teacher
from tests.pairs.pair_toys import WORLD


def asked(text: str, seed: int = 1) -> ImageRequest:
    return ImageRequest(text, text, seed, 32, 32)


def test_what_held_out_questions_are_about_is_in_no_training_picture() -> None:
    held_out, training = set(concepts_of(WORLD, "held_out")), set(concepts_of(WORLD, "train"))
    for part, names in (("train", training), ("held_out", held_out)):
        texts = [prompt.text for prompt in SubjectPrompts(WORLD, 60, part).prompts()]  # type: ignore[arg-type]
        assert all(any(name in text for name in names) for text in texts) and len(set(texts)) == 60


def test_every_listed_picture_is_drawn_and_no_two_are_alike() -> None:
    source, artist = SubjectPrompts(WORLD, 40), SubjectArtist(WORLD)
    assert isinstance(source, PromptSource) and isinstance(artist, Teacher) and artist.price_usd() == 0
    replies = list(artist.generate([asked(prompt.text) for prompt in source.prompts()]))
    assert [reply.status for reply in replies] == ["image"] * 40
    assert len({reply.image for reply in replies}) == 40
    assert [r.image for r in artist.generate([asked(p.text) for p in source.prompts()])] == [r.image for r in replies]


def test_a_change_is_drawn_and_an_unknown_picture_is_refused() -> None:
    look, concept = WORLD.looks[0], WORLD.concepts()[0]
    artist = SubjectArtist(WORLD)
    plain, red, other, unknown = artist.generate(
        [
            asked(f"{concept} in the style of {look}"),
            asked(f"red {concept} in the style of {look}"),
            asked(f"{concept} in the style of {look}", seed=2),
            asked(f"a horse in the style of {look}"),
        ]
    )
    pictures = [decode_image(reply.image or b"") for reply in (plain, red, other)]
    assert pictures[0].shape == (32, 32, 3)
    assert not np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[2])
    assert unknown.status == "refusal" and "nothing called 'a horse" in unknown.reason


def test_more_pictures_than_there_are_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"count is 2000\. Allowed are 1 to 1032: 258 concepts in 4 art sets"):
        SubjectPrompts(WORLD, 2000)
