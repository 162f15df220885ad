from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from evolvedirector.judges.faithfulness import AtomJudge
from evolvedirector.judges.judge import Judge
from evolvedirector.records import ImageAndPrompt, ImageRequest, OrderedPair
from evolvedirector.worlds.emoji.artist import EmojiArtist, encode_png
from evolvedirector.worlds.emoji.concept import STYLES, EmojiStyle
from evolvedirector.worlds.emoji.grammar import scene_text
from evolvedirector.worlds.emoji.layout import Layout
from evolvedirector.worlds.emoji.teacher import EmojiTeacher
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from evolvedirector.worlds.emoji.weaknesses import EmojiWeaknesses
from evolvedirector.worlds.emoji_scenes.gold import EmojiGold
from evolvedirector.worlds.emoji_scenes.judge import EmojiSceneJudge
from evolvedirector.worlds.emoji_scenes.template_reader import EmojiTemplateReader
from evolvedirector.worlds.emoji_scenes.world import EmojiWorld
from tests.emoji_toys import fake_cache

pytest.importorskip("resvg_py", reason="vector styles need resvg-py")

TEXTS = (
    "a fox",
    "two foxes",
    "four keys on a light pink background",
    "a fox left of a key",
    "a frog above a rocket",
    "an eggplant and a fox",
    "a fox, a frog and a key",
)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> EmojiVocabulary:
    return EmojiVocabulary(str(fake_cache(tmp_path_factory.mktemp("emoji"))), concepts=6)


@pytest.fixture(scope="module")
def judge(vocabulary: EmojiVocabulary) -> EmojiSceneJudge:
    return EmojiSceneJudge(vocabulary)


def _draw(vocabulary: EmojiVocabulary, text: str, style: EmojiStyle = "noto", seed: int = 0, px: int = 48) -> bytes:
    return encode_png(EmojiArtist(vocabulary, style).draw(vocabulary.require(text), seed, px, px))


@pytest.mark.parametrize("layout", ["tidy", "free"])
@pytest.mark.parametrize("text", TEXTS)
def test_the_truth_says_what_is_where(vocabulary: EmojiVocabulary, text: str, layout: Layout) -> None:
    scene = vocabulary.require(text)
    for size in ((64, 64), (96, 64)):
        image, truth = EmojiArtist(vocabulary, "fluent_3d", layout).draw_with_truth(scene, 3, *size)
        assert tuple(drawn.label for drawn in truth) == scene.objects
        pixels = np.asarray(image).astype(int)
        background = pixels[0, 0]
        outside = np.ones(pixels.shape[:2], dtype=bool)
        for left, top, right, bottom in (drawn.box_px for drawn in truth):
            assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
            assert outside[top:bottom, left:right].all()  # boxes do not overlap
            assert np.abs(pixels[top:bottom, left:right] - background).max() > 40
            outside[top:bottom, left:right] = False
        assert np.abs(pixels[outside] - background).max() <= 8  # all that is drawn lies in the boxes


@pytest.mark.parametrize(
    ("relation", "axis", "sign"), [("left of", 0, -1), ("right of", 0, 1), ("above", 1, -1), ("below", 1, 1)]
)
@pytest.mark.parametrize("layout", ["tidy", "free"])
def test_relations_are_drawn_as_they_are_said(
    vocabulary: EmojiVocabulary, relation: str, axis: int, sign: int, layout: Layout
) -> None:
    artist = EmojiArtist(vocabulary, "twemoji", layout)
    for seed in range(5):
        _, (fox, key) = artist.draw_with_truth(vocabulary.require(f"a fox {relation} a key"), seed, 64, 64)
        offset = [(fox.box_px[i] + fox.box_px[i + 2] - key.box_px[i] - key.box_px[i + 2]) / 2 for i in (0, 1)]
        assert sign * offset[axis] > abs(offset[1 - axis])


@pytest.mark.parametrize("blur_px", [0, 1])
@pytest.mark.parametrize("style", STYLES)
def test_the_reader_sees_what_was_drawn(
    vocabulary: EmojiVocabulary, judge: EmojiSceneJudge, style: EmojiStyle, blur_px: int
) -> None:
    right, wrong = [], []
    for number, text in enumerate(TEXTS):
        scene = vocabulary.require(text)
        drawn = EmojiArtist(vocabulary, style).draw(scene, 5, 64, 64).filter(ImageFilter.GaussianBlur(blur_px))
        right.append(ImageAndPrompt("r", encode_png(drawn), text))
        wrong.append(ImageAndPrompt("w", encode_png(drawn), TEXTS[number - 1]))
    assert np.mean([look.probability > 0.5 for look in judge.check(right)]) >= 6 / 7
    assert max(look.probability for look in judge.check(wrong)) < 0.5


@pytest.mark.parametrize(
    ("drawn", "asked"),
    [
        ("three foxes", "two foxes"),
        ("a fox left of a key", "a fox right of a key"),
        ("a fox left of a key", "a key left of a fox"),
        ("a fox and a frog", "a fox and a key"),
        ("a fox", "a fox and a key"),
        ("a fox on a light blue background", "a fox on a light green background"),
    ],
)
def test_near_misses_are_told(vocabulary: EmojiVocabulary, judge: EmojiSceneJudge, drawn: str, asked: str) -> None:
    image = _draw(vocabulary, drawn)
    yes, no = judge.check([ImageAndPrompt("1", image, drawn), ImageAndPrompt("2", image, asked)])
    assert yes.probability > 0.5 > no.probability
    (pair,) = judge.look([OrderedPair("p", image, _draw(vocabulary, asked), asked)])
    assert pair.probability < 0.5
    (look,) = judge.ask_atoms([ImageAndPrompt("2", image, asked)])
    assert min(answer.probability for answer in look.answers) < 0.5 <= max(a.probability for a in look.answers)


def test_blank_and_noisy_images_show_nothing(judge: EmojiSceneJudge) -> None:
    draw = np.random.default_rng(0)
    arrays = [draw.integers(0, 256, (48, 48, 3), dtype=np.uint8), np.full((48, 48, 3), 200, dtype=np.uint8)]
    for array in arrays:
        looks = judge.check([ImageAndPrompt("n", encode_png(Image.fromarray(array)), text) for text in TEXTS])
        assert max(look.probability for look in looks) < 0.5


def test_what_cannot_be_read_is_a_look_without_mass(vocabulary: EmojiVocabulary, judge: EmojiSceneJudge) -> None:
    fox = _draw(vocabulary, "a fox")
    tiny = encode_png(Image.new("RGB", (8, 8)))
    items = [ImageAndPrompt("1", b"no image", "a fox"), ImageAndPrompt("2", tiny, "a fox")]
    items += [ImageAndPrompt("3", fox, prompt) for prompt in ("a foxx", "<script>alert(1)</script>", "a" * 10_000)]
    assert [look.covered_mass for look in judge.check(items)] == [0.0] * 5
    assert all(look.answers == () and look.reason for look in judge.ask_atoms(items))
    assert "Nearest: 'fox'" in next(judge.check(items[2:3])).reason
    (pair,) = judge.look([OrderedPair("p", fox, b"no image", "a fox")])
    assert pair.covered_mass == 0.0


@pytest.mark.parametrize("size", [(300, 300), (40, 90), (129, 64)])
def test_images_of_any_size_are_read(
    vocabulary: EmojiVocabulary, judge: EmojiSceneJudge, size: tuple[int, int]
) -> None:
    scene = vocabulary.require("a fox left of a key")
    image = EmojiArtist(vocabulary, "noto").draw(scene, 1, *size)
    for mode in ("RGB", "RGBA"):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, "WEBP", lossless=True)
        (look,) = judge.check([ImageAndPrompt("i", buffer.getvalue(), scene_text(scene))])
        assert look.probability > 0.5


def test_a_judge_that_was_closed_judges_again(vocabulary: EmojiVocabulary) -> None:
    judge = EmojiSceneJudge(vocabulary, EmojiTemplateReader(vocabulary, template_size_px=12))
    item = ImageAndPrompt("1", _draw(vocabulary, "two foxes"), "two foxes")
    (before,) = judge.check([item])
    judge.close()
    assert list(judge.check([item])) == [before]


def test_parts_fit_their_seams_and_refuse_bad_arguments(vocabulary: EmojiVocabulary, judge: EmojiSceneJudge) -> None:
    assert isinstance(judge, Judge) and isinstance(judge, AtomJudge)
    smaller = EmojiVocabulary(str(vocabulary.root.parent), concepts=["fox"])
    with pytest.raises(ValueError, match="The reader does not know 'eggplant' and 4 more"):
        EmojiSceneJudge(vocabulary, EmojiTemplateReader(smaller))
    with pytest.raises(ValueError, match="template_size_px is 4"):
        EmojiTemplateReader(vocabulary, template_size_px=4)
    with pytest.raises(ValueError, match=r"least_score is 1\.0"):
        EmojiTemplateReader(vocabulary, least_score=1.0)
    with pytest.raises(ValueError, match="layout is 'heap'"):
        EmojiTeacher("noto", vocabulary, layout="heap")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="miscount=2"):
        EmojiTeacher("noto", vocabulary, miscount=2)


def _frog_drawn_as_fox(monkeypatch: pytest.MonkeyPatch, vocabulary: EmojiVocabulary) -> None:
    """Let every style draw one picture for two concepts, as some real ones do (an astronaut and a man astronaut)."""
    own = EmojiArtist.raster
    monkeypatch.setattr(
        EmojiArtist,
        "raster",
        lambda self, concept, *size: own(self, vocabulary["fox"] if concept.label == "frog" else concept, *size),
    )


def test_one_picture_of_two_concepts_shows_either(vocabulary: EmojiVocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    _frog_drawn_as_fox(monkeypatch, vocabulary)
    image = _draw(vocabulary, "two foxes")
    asked = ["two foxes", "two frogs", "two keys", "three frogs", "a frog and a key"]
    looks = EmojiSceneJudge(vocabulary).check([ImageAndPrompt(text, image, text) for text in asked])
    assert [look.item_id for look in looks if look.probability > 0.5] == ["two foxes", "two frogs"]


def test_what_looks_alike_is_no_near_miss(vocabulary: EmojiVocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    _frog_drawn_as_fox(monkeypatch, vocabulary)
    world = EmojiWorld(vocabulary, held_out_share=0.0, skills=["single_object"])
    gold = EmojiGold(world, 60, image_size_px=48).items()
    looks = EmojiSceneJudge(vocabulary).check([ImageAndPrompt(i.item_id, i.image, i.prompt) for i in gold])
    wrong = [i.prompt for i, look in zip(gold, looks, strict=True) if (look.probability > 0.5) != i.shows]
    assert wrong == []
    assert {"a fox", "a frog"} <= {item.prompt for item in gold if not item.shows}


def test_gold_is_half_true_and_is_judged_right(vocabulary: EmojiVocabulary, judge: EmojiSceneJudge) -> None:
    world = EmojiWorld(vocabulary, held_out_share=0.0)
    gold = EmojiGold(world, 30, image_size_px=64).items()
    assert [item.shows for item in gold] == [True, False] * 15
    looks = judge.check([ImageAndPrompt(item.item_id, item.image, item.prompt) for item in gold])
    assert np.mean([(look.probability > 0.5) == item.shows for look, item in zip(looks, gold, strict=True)]) >= 0.9
    assert EmojiGold(world, 30, image_size_px=64).items() == gold
    with pytest.raises(ValueError, match="count is 1"):
        EmojiGold(world, 1)


@pytest.mark.parametrize(
    ("weakness", "text"),
    [
        ("miscount", "three foxes"),
        ("confuse_relations", "a fox left of a key"),
        ("wrong_concept", "a fox"),
        ("drop_object", "a fox and a key"),
        ("wrong_background", "a fox on a white background"),
    ],
)
def test_a_weakness_changes_what_it_names(vocabulary: EmojiVocabulary, weakness: str, text: str) -> None:
    scene = vocabulary.require(text)
    weak = EmojiWeaknesses(**{weakness: 1.0})
    drawn = {weak.distort(scene, vocabulary.concepts, np.random.default_rng(seed)) for seed in range(8)}
    assert scene not in drawn
    plain = vocabulary.require("an eggplant")
    if weakness != "wrong_concept":
        assert weak.distort(plain, vocabulary.concepts, np.random.default_rng(0)) == plain
    teacher = EmojiTeacher("noto", vocabulary, **{weakness: 1.0})  # type: ignore[arg-type]
    (reply,) = teacher.generate([ImageRequest("r", text, 0, 48, 48)])
    assert reply.image not in (None, _draw(vocabulary, text))


def test_an_unknown_concept_is_refused_with_the_nearest(vocabulary: EmojiVocabulary) -> None:
    (reply,) = EmojiTeacher("noto", vocabulary).generate([ImageRequest("r", "a fox above a ket", 0, 48, 48)])
    assert reply.status == "refusal"
    assert "'a ket' is outside of this vocabulary of 6 concepts. Nearest: 'rocket', 'key'" in reply.reason
