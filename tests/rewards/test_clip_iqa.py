"""Quality by CLIP is torchmetrics' own value, for the same model and texts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from torchmetrics.functional.multimodal.clip_iqa import _clip_iqa_compute

from evolvedirector.records import ImageAndPrompt
from evolvedirector.records.part import OnDevice, Verifiable
from evolvedirector.rewards import CLIPIQA, Reward
from tests.rewards.tiny_clips import IMAGES, ITEMS, save_tiny_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    save_tiny_clip(path)
    return path


def test_it_is_the_softmax_over_two_opposite_texts_as_torchmetrics_computes_it(folder: Path) -> None:
    good, bad = "Z", "W"  # a tiny model of random weights reads the first letter alone, and finds most too far apart
    reward = CLIPIQA(str(folder), good, bad, device="cpu")
    reward.verify()
    found = [score.value for score in reward.score(ITEMS)]
    clip = reward._clip.get()
    shown, said = clip.shown(list(IMAGES)), clip.said([good, bad])
    unit = [vectors / vectors.norm(dim=-1, keepdim=True) for vectors in (shown, said)]
    assert found == pytest.approx(_clip_iqa_compute(*unit, ["quality"]).tolist(), rel=1e-4)
    assert min(found) > 0.01 and max(found) < 0.99 and found[0] != found[1], "neither end of the scale, not all alike"
    reward.close()
    turned = CLIPIQA(str(folder), bad, good, device="cpu", batch_size=1)
    assert [score.value for score in turned.score(ITEMS)] == pytest.approx([1 - value for value in found], abs=1e-4)
    assert all(isinstance(reward, seam) for seam in (Reward, Verifiable, OnDevice))


def test_the_texts_are_part_of_the_name_and_must_differ(folder: Path) -> None:
    names = {CLIPIQA(str(folder)).fingerprint, CLIPIQA(str(folder), "Sharp photo.", "Blurry photo.").fingerprint}
    assert len(names) == 2 and CLIPIQA(str(folder), batch_size=1).fingerprint in names
    with pytest.raises(ValueError, match=r"good and bad are both 'x'\. Allowed are two texts that mean opposites"):
        CLIPIQA(str(folder), "x", "x")
    with pytest.raises(ValueError, match="batch_size is 0"):
        CLIPIQA(str(folder), batch_size=0)


def test_what_is_no_image_has_no_score(folder: Path) -> None:
    (score,) = CLIPIQA(str(folder), device="cpu").score([ImageAndPrompt("x", b"no image", "")])
    assert math.isnan(score.value) and "no image" in score.reason
