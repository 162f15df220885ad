from __future__ import annotations

import json
from pathlib import Path

import pytest

from evolvedirector.assets.asset_error import AssetError
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from tests.emoji_toys import CONCEPTS, fake_cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_cache(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def vocabulary(cache: Path) -> EmojiVocabulary:
    return EmojiVocabulary(str(cache), concepts=6)


def test_only_concepts_of_all_five_styles_are_known(vocabulary: EmojiVocabulary) -> None:
    assert sorted(concept.label for concept in vocabulary.concepts) == sorted(label for label, *_ in CONCEPTS)
    assert vocabulary["FOX"].skill == "animals"
    assert vocabulary["rocket"].skill == "vehicles"
    assert vocabulary["key"].hexcode == "1f511-fe0f"


def test_a_number_of_concepts_is_the_beginning_of_a_larger_number(cache: Path) -> None:
    few = EmojiVocabulary(str(cache), concepts=3)
    more = EmojiVocabulary(str(cache), concepts=5)
    assert more.concepts[:3] == few.concepts
    assert few.fingerprint != more.fingerprint


def test_labels_choose_concepts_in_order(cache: Path) -> None:
    assert [c.label for c in EmojiVocabulary(str(cache), concepts=["key", "Fox"]).concepts] == ["key", "fox"]


def test_an_unknown_label_names_the_nearest(cache: Path) -> None:
    with pytest.raises(ValueError, match=r"'forg' is no concept.*Nearest: 'frog'"):
        EmojiVocabulary(str(cache), concepts=["fox", "forg"])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"concepts": 7}, "concepts is 7"),
        ({"concepts": 0}, "concepts is 0"),
        ({"concepts": []}, "empty list"),
        ({"held_out_backgrounds": 8}, "held_out_backgrounds is 8"),
        ({"phrasings": 4}, "phrasings is 4"),
    ],
)
def test_numbers_out_of_range_are_refused(cache: Path, numbers: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmojiVocabulary(str(cache), **{"concepts": 6, **numbers})  # type: ignore[arg-type]


def test_missing_assets_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="Run `evolvedirector assets emoji`"):
        EmojiVocabulary(str(tmp_path))


@pytest.mark.parametrize("damage", ["format", "role", "folder", "json", "captions", "huge"])
def test_damaged_assets_are_named(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fake_cache(tmp_path) / "emoji"
    manifest = json.loads((root / "manifest.json").read_text())
    captions = root / manifest["packages"]["captions"]["folder"] / "en" / "data.json"
    if damage == "format":
        manifest["format"] = 99
    elif damage == "role":
        del manifest["packages"]["noto"]
    elif damage == "folder":
        manifest["packages"]["noto"]["folder"] = "../elsewhere"
    elif damage == "json":
        captions.write_text("{")
    elif damage == "captions":
        captions.write_text('[{"label": "fox"}]')
    else:
        monkeypatch.setattr("evolvedirector.worlds.emoji.join.MAX_JSON_BYTES", 10)
    (root / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AssetError, match="Run `evolvedirector assets emoji`"):
        EmojiVocabulary(str(tmp_path), concepts=1)


def test_held_out_scenes_are_a_fixed_part(vocabulary: EmojiVocabulary) -> None:
    held_out, trained = vocabulary.scenes(held_out=True), vocabulary.scenes(held_out=False)
    assert len(held_out) == 6
    assert {scene.label for scene in held_out} == {label for label, *_ in CONCEPTS}
    assert len(held_out) + len(trained) == 6 * (len(BACKGROUNDS) + 1)
    assert not set(held_out) & set(trained)
