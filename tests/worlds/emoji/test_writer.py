from __future__ import annotations

from pathlib import Path

import pytest

from evolvedirector.records import WriteRequest, normalise_prompt
from evolvedirector.worlds.emoji.held_out import EmojiHeldOut
from evolvedirector.worlds.emoji.prompts import EmojiPrompts
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from evolvedirector.worlds.emoji.writer import EmojiWriter
from tests.emoji_toys import CONCEPTS, fake_cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_cache(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def vocabulary(cache: Path) -> EmojiVocabulary:
    return EmojiVocabulary(str(cache), concepts=6)


def _write(vocabulary: EmojiVocabulary, operation: str, parent: str | None, skill: str | None, count: int) -> list[str]:
    (reply,) = EmojiWriter(vocabulary).write([WriteRequest("r", operation, parent, skill, count, 7)])  # type: ignore[arg-type]
    assert len(reply.skills) == len(reply.texts)
    return list(reply.texts)


def _labels(vocabulary: EmojiVocabulary, texts: list[str]) -> list[str]:
    return [scene.label for text in texts if (scene := vocabulary.parse(text)) is not None]


def test_expansion_stays_in_the_group(vocabulary: EmojiVocabulary) -> None:
    texts = _write(vocabulary, "expansion", "a fox on a white background", "animals", 10)
    assert len(set(map(normalise_prompt, texts))) == 10
    assert set(_labels(vocabulary, texts)) == {"fox", "frog"}
    assert "a fox on a white background" not in texts


def test_mutation_leaves_the_group(vocabulary: EmojiVocabulary) -> None:
    texts = _write(vocabulary, "mutation", "a fox", None, 4)
    assert sorted(_labels(vocabulary, texts)) == ["eggplant", "key", "pizza", "rocket"]  # none twice before all once


def test_a_skill_asked_for_is_kept(vocabulary: EmojiVocabulary) -> None:
    for operation in ("seed", "mutation"):
        assert sorted(_labels(vocabulary, _write(vocabulary, operation, None, "food", 2))) == ["eggplant", "pizza"]


def test_no_writer_and_no_seed_uses_what_is_held_out(vocabulary: EmojiVocabulary) -> None:
    held_out = {normalise_prompt(prompt.text) for prompt in EmojiHeldOut(vocabulary).prompts()}
    assert len(held_out) == 6
    written = _write(vocabulary, "seed", None, None, 1000) + _write(vocabulary, "expansion", "a fox", None, 1000)
    written += [prompt.text for prompt in EmojiPrompts(vocabulary, 48).prompts()]
    assert not held_out & set(map(normalise_prompt, written))
    assert len(_write(vocabulary, "seed", None, None, 1000)) == 48


def test_what_cannot_be_written_is_a_refusal(vocabulary: EmojiVocabulary) -> None:
    requests = [
        WriteRequest("1", "expansion", "a dog", None, 3, 0),
        WriteRequest("2", "mutation", None, "sports", 3, 0),
    ]
    replies = list(EmojiWriter(vocabulary).write(requests))
    assert [reply.texts for reply in replies] == [(), ()]
    assert "a dog" in replies[0].refusal
    assert "sports" in replies[1].refusal


def test_more_phrasings_give_more_prompts(cache: Path) -> None:
    vocabulary = EmojiVocabulary(str(cache), concepts=["fox", "key"], phrasings=3)
    texts = _write(vocabulary, "seed", None, None, 1000)
    assert len(texts) == 2 * 8 * 3
    assert all(vocabulary.parse(text) is not None for text in texts)


def test_seeds_cover_every_concept_first(vocabulary: EmojiVocabulary) -> None:
    prompts = EmojiPrompts(vocabulary, 6, seed=3).prompts()
    assert sorted(_labels(vocabulary, [prompt.text for prompt in prompts])) == sorted(label for label, *_ in CONCEPTS)
    assert prompts == EmojiPrompts(vocabulary, 6, seed=3).prompts()
    assert prompts != EmojiPrompts(vocabulary, 6, seed=4).prompts()
    assert all(prompt.skill in {"animals", "food", "vehicles", "objects"} for prompt in prompts)


def test_too_many_prompts_are_refused(vocabulary: EmojiVocabulary, cache: Path) -> None:
    with pytest.raises(ValueError, match=r"count is 49. Allowed are 1 to 48"):
        EmojiPrompts(vocabulary, 49)
    with pytest.raises(ValueError, match=r"count is 7. Allowed are 1 to 6"):
        EmojiHeldOut(vocabulary, 7)
    with pytest.raises(ValueError, match="held_out_backgrounds"):
        EmojiHeldOut(EmojiVocabulary(str(cache), concepts=6, held_out_backgrounds=0))
