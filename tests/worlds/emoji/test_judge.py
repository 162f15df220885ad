from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from evolvedirector.judges.judge import Judge
from evolvedirector.records import ImageAndPrompt, ImageRequest, OrderedPair
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.teachers.teacher import Teacher
from evolvedirector.worlds.emoji.artist import EmojiArtist, encode_png
from evolvedirector.worlds.emoji.concept import STYLES, EmojiStyle
from evolvedirector.worlds.emoji.held_out import EmojiHeldOut
from evolvedirector.worlds.emoji.judge import EmojiJudge
from evolvedirector.worlds.emoji.prompts import EmojiPrompts
from evolvedirector.worlds.emoji.scene import EmojiScene
from evolvedirector.worlds.emoji.teacher import EmojiTeacher
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from evolvedirector.worlds.emoji.writer import EmojiWriter
from evolvedirector.writers.prompt_writer import PromptWriter
from tests.emoji_toys import fake_cache

pytest.importorskip("resvg_py", reason="vector styles need resvg-py")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_cache(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def vocabulary(cache: Path) -> EmojiVocabulary:
    return EmojiVocabulary(str(cache), concepts=6)


@pytest.fixture(scope="module")
def judge(vocabulary: EmojiVocabulary) -> EmojiJudge:
    return EmojiJudge(vocabulary)


def _draw(vocabulary: EmojiVocabulary, style: EmojiStyle, prompt: str, seed: int = 0, px: int = 32) -> bytes:
    (reply,) = EmojiTeacher(style, vocabulary).generate([ImageRequest("r", prompt, seed, px, px)])
    assert reply.image is not None
    return reply.image


@pytest.mark.parametrize("blur_px", [0, 1])
@pytest.mark.parametrize("size_px", [32, 48])
def test_the_judge_reads_every_style(
    vocabulary: EmojiVocabulary, judge: EmojiJudge, size_px: int, blur_px: int
) -> None:
    items, wrong = [], []
    scenes = vocabulary.scenes(held_out=False)[::3]
    for style in STYLES:
        artist = EmojiArtist(vocabulary, style)
        for number, scene in enumerate(scenes):
            drawn = artist.draw(scene, 5, size_px, size_px).filter(ImageFilter.GaussianBlur(blur_px))
            image = encode_png(drawn)
            other = next(s for s in scenes[number:] + scenes if s.label != scene.label)
            items.append(ImageAndPrompt("i", image, vocabulary.texts(scene)[0]))
            wrong.append(ImageAndPrompt("w", image, vocabulary.texts(EmojiScene.single(other.label))[0]))
    assert np.mean([look.probability > 0.5 for look in judge.check(items)]) >= 0.97
    assert max(look.probability for look in judge.check(wrong)) < 0.5


def test_the_background_counts_only_where_it_is_named(vocabulary: EmojiVocabulary, judge: EmojiJudge) -> None:
    image = _draw(vocabulary, "twemoji", "a frog on a light pink background")
    prompts = ["a frog on a light pink background", "a frog", "a frog on a light gray background"]
    pink, unnamed, gray = judge.check([ImageAndPrompt(prompt, image, prompt) for prompt in prompts])
    assert pink.probability > 0.9
    assert unnamed.probability > 0.9
    assert gray.probability < 0.1


def test_noise_and_blank_images_show_nothing(vocabulary: EmojiVocabulary, judge: EmojiJudge) -> None:
    draw = np.random.default_rng(0)
    arrays = [draw.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(10)]
    arrays += [np.full((32, 32, 3), level, dtype=np.uint8) for level in (0, 128, 255)]
    images = [encode_png(Image.fromarray(array)) for array in arrays]
    for label in (concept.label for concept in vocabulary.concepts):
        looks = list(judge.check([ImageAndPrompt("n", image, f"a {label}") for image in images]))
        assert max(look.probability for look in looks) < 0.05
        assert all(look.covered_mass == 1.0 for look in looks)


def test_an_image_that_is_not_square_is_read_where_something_is(vocabulary: EmojiVocabulary, judge: EmojiJudge) -> None:
    artist = EmojiArtist(vocabulary, "noto")
    for size in ((64, 32), (32, 64)):
        image = encode_png(artist.draw(EmojiScene.single("fox", "white"), 1, *size))
        (look,) = judge.check([ImageAndPrompt("i", image, "a fox")])
        assert look.probability > 0.9


def test_a_pair_is_decided_by_what_it_shows_in_either_order(vocabulary: EmojiVocabulary, judge: EmojiJudge) -> None:
    fox, key = _draw(vocabulary, "noto", "a fox"), _draw(vocabulary, "noto", "a key")
    another = _draw(vocabulary, "openmoji", "a fox", seed=4)
    good, bad, same = judge.look(
        [
            OrderedPair("1", fox, key, "a fox"),
            OrderedPair("2", key, fox, "a fox"),
            OrderedPair("3", fox, another, "a fox"),
        ]
    )
    assert good.probability > 0.9
    assert bad.probability == pytest.approx(1 - good.probability)
    assert same.probability == pytest.approx(0.5, abs=0.2)


def test_what_cannot_be_read_is_a_look_without_mass(vocabulary: EmojiVocabulary, judge: EmojiJudge) -> None:
    fox = _draw(vocabulary, "noto", "a fox")
    items = [
        ImageAndPrompt("1", b"no image", "a fox"),
        ImageAndPrompt("2", fox, "a dog"),
        ImageAndPrompt("3", fox, "fox"),
    ]
    assert [look.covered_mass for look in judge.check(items)] == [0.0, 0.0, 1.0]
    assert next(judge.check(items[:1])).covered_mass == 0.0
    (pair,) = judge.look([OrderedPair("p", fox, b"no image", "a fox")])
    assert pair.covered_mass == 0.0


def test_a_judge_that_was_closed_judges_again(cache: Path) -> None:
    vocabulary = EmojiVocabulary(str(cache), concepts=["fox"])
    judge = EmojiJudge(vocabulary, working_size_px=16)
    item = ImageAndPrompt("1", _draw(vocabulary, "noto", "a fox"), "a fox")
    (before,) = judge.check([item])
    judge.close()
    assert list(judge.check([item])) == [before]


@pytest.mark.parametrize("numbers", [{"working_size_px": 4}, {"nothing_score": 1.0}, {"temperature": 0.0}])
def test_bad_judge_arguments_are_refused(vocabulary: EmojiVocabulary, numbers: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(numbers))):
        EmojiJudge(vocabulary, **numbers)  # type: ignore[arg-type]


def test_every_part_fits_its_seam(vocabulary: EmojiVocabulary, judge: EmojiJudge) -> None:
    assert isinstance(EmojiTeacher("noto", vocabulary), Teacher)
    assert isinstance(judge, Judge)
    assert isinstance(EmojiWriter(vocabulary), PromptWriter)
    assert isinstance(EmojiPrompts(vocabulary, 1), PromptSource)
    assert isinstance(EmojiHeldOut(vocabulary), PromptSource)
    fingerprints = {EmojiTeacher(style, vocabulary).fingerprint for style in STYLES}
    assert len(fingerprints | {judge.fingerprint}) == len(STYLES) + 1
