from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from evolvedirector.assets.asset_error import AssetError
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.worlds.emoji.artist import EmojiArtist
from evolvedirector.worlds.emoji.concept import STYLES, EmojiStyle
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS
from evolvedirector.worlds.emoji.raster import svg_of_icon
from evolvedirector.worlds.emoji.scene import EmojiScene
from evolvedirector.worlds.emoji.teacher import EmojiTeacher
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from tests.emoji_toys import fake_cache

pytest.importorskip("resvg_py", reason="vector styles need resvg-py")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_cache(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def vocabulary(cache: Path) -> EmojiVocabulary:
    return EmojiVocabulary(str(cache), concepts=6)


def _draw(vocabulary: EmojiVocabulary, style: EmojiStyle, prompt: str, seed: int = 0, px: int = 32) -> bytes:
    (reply,) = EmojiTeacher(style, vocabulary).generate([ImageRequest("r", prompt, seed, px, px)])
    assert reply.image is not None
    return reply.image


@pytest.mark.parametrize("style", STYLES)
def test_the_same_request_gives_the_same_image(vocabulary: EmojiVocabulary, style: EmojiStyle) -> None:
    prompt = "a fox on a light blue background"
    assert _draw(vocabulary, style, prompt) == _draw(vocabulary, style, prompt)
    assert _draw(vocabulary, style, prompt) != _draw(vocabulary, style, prompt, seed=1)


def test_styles_differ(vocabulary: EmojiVocabulary) -> None:
    assert len({_draw(vocabulary, style, "a fox on a white background") for style in STYLES}) == len(STYLES)


@pytest.mark.parametrize("size", [(8, 8), (48, 32), (32, 48), (200, 200), (300, 290)])
def test_images_have_the_size_asked_for(vocabulary: EmojiVocabulary, size: tuple[int, int]) -> None:
    image = EmojiArtist(vocabulary, "noto").draw(EmojiScene.single("key", "light green"), 3, *size)
    assert image.size == size
    corners = [image.getpixel((x, y)) for x in (0, size[0] - 1) for y in (0, size[1] - 1)]
    near = [max(abs(a - b) for a, b in zip(c, BACKGROUNDS["light green"], strict=True)) <= 4 for c in corners]
    assert sum(near) >= 3  # the picture may reach into a corner


def test_an_alias_may_mirror_its_icon() -> None:
    icons = {"icons": {"a": {"body": "<g/>"}}, "aliases": {"b": {"parent": "a", "hFlip": True}, "c": {"parent": "b"}}}
    assert svg_of_icon(icons, "a")[1] is False
    assert svg_of_icon(icons, "c")[1] is True
    with pytest.raises(AssetError, match="no icon 'z'"):
        svg_of_icon(icons, "z")
    with pytest.raises(AssetError, match="do not end"):
        svg_of_icon({"icons": {}, "aliases": {"b": {"parent": "b"}}}, "b")


def test_rasters_are_kept_and_a_torn_one_is_drawn_again(tmp_path: Path) -> None:
    from evolvedirector.worlds.emoji import artist as emoji_artist

    vocabulary = EmojiVocabulary(str(fake_cache(tmp_path)), concepts=["fox"])
    first = _draw(vocabulary, "noto", "a fox")
    (kept,) = (tmp_path / "emoji" / "rasters").rglob("*.png")
    kept.write_bytes(b"torn")
    emoji_artist._cached_raster.cache_clear()
    assert _draw(vocabulary, "noto", "a fox") == first
    with Image.open(kept) as image:
        assert image.size == (128, 128)


def test_a_prompt_outside_the_vocabulary_is_refused_and_a_bad_size_fails(vocabulary: EmojiVocabulary) -> None:
    teacher = EmojiTeacher("noto", vocabulary, cost_usd_per_image=0.5)
    requests = [
        ImageRequest("1", "a dog", 0, 32, 32),
        ImageRequest("2", "a fox", 0, 32, 32),
        ImageRequest("3", "a fox", 0, 2, 2),
    ]
    replies = list(teacher.generate(requests))
    assert [(reply.request_id, reply.status, reply.cost_usd) for reply in replies] == [
        ("1", "refusal", 0.0),
        ("2", "image", 0.5),
        ("3", "failure", 0.0),
    ]


def test_a_lost_picture_is_a_failure_not_an_exception(tmp_path: Path) -> None:
    vocabulary = EmojiVocabulary(str(fake_cache(tmp_path)), concepts=["fox"])
    next((tmp_path / "emoji").glob("lobehub*/assets/1f98a.webp")).write_bytes(b"RIFF")
    (reply,) = EmojiTeacher("fluent_3d", vocabulary).generate([ImageRequest("1", "a fox", 0, 32, 32)])
    assert reply == ImageReply("1", "failure", reason=reply.reason)
    assert "1f98a.webp cannot be read" in reply.reason


def test_without_the_rasteriser_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = EmojiVocabulary(str(fake_cache(tmp_path)), concepts=["fox"])
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(AssetError, match=r"evolvedirector\[emoji\]"):
        EmojiArtist(vocabulary, "noto").raster(vocabulary["fox"])
    assert EmojiArtist(vocabulary, "fluent_3d").raster(vocabulary["fox"]).size == (128, 128)


def test_bad_teacher_arguments_are_refused(vocabulary: EmojiVocabulary) -> None:
    with pytest.raises(ValueError, match="style is 'apple'"):
        EmojiTeacher("apple", vocabulary)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cost_usd_per_image is -1"):
        EmojiTeacher("noto", vocabulary, cost_usd_per_image=-1)
