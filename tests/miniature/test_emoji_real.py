"""The emoji world on the real artwork; skipped where neither the assets nor npm are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from evolvedirector.assets.cache import cache_folder
from evolvedirector.assets.emoji_install import install_emoji
from evolvedirector.miniature.emoji_artist import EmojiArtist, encode_png
from evolvedirector.miniature.emoji_concept import STYLES, EmojiStyle
from evolvedirector.miniature.emoji_join import join_concepts
from evolvedirector.miniature.emoji_judge import EmojiJudge
from evolvedirector.miniature.emoji_vocabulary import EmojiVocabulary
from evolvedirector.records import ImageAndPrompt

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
