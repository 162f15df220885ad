"""The emoji world on the real artwork; skipped where neither the assets nor npm are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from evolvedirector.assets.cache import cache_folder
from evolvedirector.assets.emoji_install import install_emoji
from evolvedirector.records import ImageAndPrompt
from evolvedirector.worlds.emoji.artist import EmojiArtist, encode_png
from evolvedirector.worlds.emoji.concept import STYLES, EmojiStyle
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS, EmojiGrammar, scene_text
from evolvedirector.worlds.emoji.join import join_concepts
from evolvedirector.worlds.emoji.judge import EmojiJudge
from evolvedirector.worlds.emoji.nouns import plural, singular
from evolvedirector.worlds.emoji.scene import EmojiScene, EmojiThing
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from evolvedirector.worlds.emoji_scenes.gold import EmojiGold
from evolvedirector.worlds.emoji_scenes.judge import EmojiSceneJudge
from evolvedirector.worlds.emoji_scenes.world import EmojiWorld

pytestmark = pytest.mark.slow
pytest.importorskip("resvg_py", reason="vector styles need resvg-py")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (cache_folder() / "emoji" / "manifest.json").is_file():
        return cache_folder()
    if shutil.which("npm") is None:
        pytest.skip("neither emoji assets nor npm are there")
    folder = tmp_path_factory.mktemp("emoji")
    install_emoji(folder)
    return folder


@pytest.fixture(scope="module")
def judge(cache: Path) -> EmojiJudge:
    return EmojiJudge(EmojiVocabulary(str(cache)))


def test_the_join_has_the_concepts_of_all_five_styles(cache: Path) -> None:
    concepts = join_concepts(cache / "emoji")
    assert len(concepts) == 1570
    assert len({concept.label for concept in concepts}) == 1570


def test_the_default_concepts_are_balanced(judge: EmojiJudge) -> None:
    skills = [concept.skill for concept in judge.vocabulary.concepts]
    assert {skill: skills.count(skill) for skill in skills} == {"animals": 6, "food": 6, "vehicles": 6, "objects": 6}


@pytest.mark.parametrize("blur_px", [0, 1])
@pytest.mark.parametrize("style", STYLES)
def test_the_judge_reads_real_artwork(judge: EmojiJudge, style: EmojiStyle, blur_px: int) -> None:
    vocabulary = judge.vocabulary
    artist = EmojiArtist(vocabulary, style)
    items = []
    for number, scene in enumerate(vocabulary.scenes(held_out=False)):
        drawn = artist.draw(scene, number, 32, 32).filter(ImageFilter.GaussianBlur(blur_px))
        items.append(ImageAndPrompt(str(number), encode_png(drawn), vocabulary.texts(scene)[0]))
    assert np.mean([look.probability > 0.5 for look in judge.check(items)]) >= 0.97


def test_noise_shows_none_of_the_real_concepts(judge: EmojiJudge) -> None:
    draw = np.random.default_rng(0)
    images = [encode_png(Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8))) for _ in range(10)]
    for concept in judge.vocabulary.concepts:
        looks = judge.check([ImageAndPrompt("n", image, f"a {concept.label}") for image in images])
        assert max(look.probability for look in looks) < 0.05


@pytest.fixture(scope="module")
def grammar(cache: Path) -> tuple[EmojiGrammar, list[str]]:
    labels = [concept.label for concept in join_concepts(cache / "emoji")]
    return EmojiGrammar(labels), labels


def test_every_name_is_printed_and_read_back(grammar: tuple[EmojiGrammar, list[str]]) -> None:
    known, labels = grammar
    for number, label in enumerate(labels):
        other = EmojiThing(labels[(number * 7 + 1) % len(labels)])
        background = list(BACKGROUNDS)[number % len(BACKGROUNDS)]
        scenes = [EmojiScene((EmojiThing(label, count),), None, background) for count in (1, 2, 9)]
        scenes.append(EmojiScene.single(label))
        if other.label != label:
            scenes.append(EmojiScene((EmojiThing(label), other), "below", background))
            scenes.append(EmojiScene((other, EmojiThing(label, 3))))
        for scene in scenes:
            assert known.parse(scene_text(scene)) == scene


def test_no_two_names_share_their_words(grammar: tuple[EmojiGrammar, list[str]]) -> None:
    _, labels = grammar
    for words in (singular, plural):
        assert len({words(label).lower() for label in labels}) == len(labels)
    # a name that ends like a plural is either counted by a measure word or a singular ("compass", "octopus")
    plurals = [label for label in labels if label.endswith("s") and plural(label) == f"{label}es"]
    assert all(label.endswith(("ss", "us", "is", "as", "os")) for label in plurals), plurals


@pytest.mark.parametrize("size_px", [48, 64])
def test_the_reader_sees_real_scenes(cache: Path, size_px: int) -> None:
    world = EmojiWorld(EmojiVocabulary(str(cache), concepts=24), held_out_share=0.0)
    gold = EmojiGold(world, 300, image_size_px=size_px).items()
    judge = EmojiSceneJudge(world.vocabulary)
    looks = judge.check([ImageAndPrompt(item.item_id, item.image, item.prompt) for item in gold])
    agrees = [(look.probability > 0.5) == item.shows for look, item in zip(looks, gold, strict=True)]
    assert np.mean(agrees) >= 0.97
