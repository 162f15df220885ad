"""The pure parts: masks, hashes, thresholds, features, matched pixels, edges, readings of a drawn change."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evolvedirector.errors import UserError
from evolvedirector.pairs import (
    BorderMask,
    DrawnDraft,
    DrawnPrompts,
    DrawnReader,
    DrawnSubjects,
    FolderSubjects,
    MatchedPixels,
    PairBudget,
    PairFilter,
    RawPatches,
    TurnedView,
)
from evolvedirector.pairs.control_image import canny
from evolvedirector.pairs.drawn.changes import TEXTURES, TINTS, VIEWS
from evolvedirector.pairs.duplicates import is_near, looks_of
from evolvedirector.pairs.masks import against_border, several_subjects
from evolvedirector.pairs.pair_book import StageSpend
from evolvedirector.pairs.pair_records import (
    DRAFT,
    DRAFT_MASK,
    IMAGE,
    KINDS,
    MASK,
    REFERENCE,
    PairRequest,
)
from evolvedirector.pairs.pair_work import editing_source
from evolvedirector.pairs.patch_encoder import cosines
from evolvedirector.pairs.pictures import mask_of, pixels_of, split_alpha, square_around
from evolvedirector.pairs.thresholds import cause_of, fitted_thresholds
from tests.pairs.pair_toys import WORLD

SOURCE = DrawnSubjects(WORLD, ["rimmed"])


def pair(kind: Any, seed: int, look: Any = "own", position: int = 0) -> PairRequest:
    """Make one pair of a drawn world, as far as its draft."""
    subject = SOURCE.subjects()[position]
    blank = PairRequest(f"{kind}{seed}", subject, seed, 64, 64)
    (loaded,) = SOURCE.load([blank])
    asked = replace(blank, kind=kind, files=dict(loaded.files))
    (written,) = DrawnPrompts(list(WORLD.looks)).write([asked])
    words = dict(written.words)
    asked = replace(asked, prompt=words.pop("prompt"), change=words)
    (drawn,) = DrawnDraft(WORLD, look).draw([asked])
    files = {**asked.files, DRAFT: drawn.files[IMAGE], DRAFT_MASK: drawn.files[MASK], **drawn.files}
    return replace(asked, files=files)


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_that_was_made_reads_higher_than_one_that_was_not(kind: Any) -> None:
    reader = DrawnReader(WORLD, RawPatches(8), learned=60, side_px=48)
    made, missing = [], []
    for seed in range(6):
        right = pair(kind, seed, position=seed)
        other = pair("tint" if kind != "tint" else "texture", seed, position=seed)
        wrong = replace(right, files=other.files)
        made += [reply.scores["change"] for reply in reader.read([right])]
        missing += [reply.scores["change"] for reply in reader.read([wrong])]
    wins = (np.array(made)[:, None] > np.array(missing)).mean()
    # raw patches tell art sets apart less well than the features of a network
    assert wins > (0.7 if kind == "style" else 0.9), (kind, made, missing)


def test_identity_is_that_of_the_subject_wherever_it_stands() -> None:
    encoder = RawPatches(8)
    measure = PairFilter(encoder, DrawnReader(WORLD, encoder, learned=4, side_px=32), side_px=48)
    pairs = [pair("place", seed, position=seed) for seed in range(4)]
    own = [reply.scores for reply in measure.score(pairs)]
    strangers = [replace(p, files={**p.files, IMAGE: q.files[IMAGE], MASK: q.files[MASK]}) for p, q in pairwise(pairs)]
    other = [reply.scores for reply in measure.score(strangers)]
    assert min(s["identity"] for s in own) > 0.9 > max(s["identity"] for s in other)
    assert min(s["shape"] for s in own) > 0.8 and all("text" in s for s in own)


def test_matched_pixels_bring_a_draft_nearer_to_its_subject_and_leave_the_change() -> None:
    encoder = RawPatches(8)
    measure = PairFilter(encoder, DrawnReader(WORLD, encoder, learned=8, side_px=32), side_px=48)
    for kind in ("place", "tint"):
        drafts = [pair(kind, seed, "other", position=seed) for seed in range(6)]
        refined = [
            replace(draft, files={**draft.files, IMAGE: reply.files[IMAGE]})
            for draft, reply in zip(drafts, MatchedPixels(encoder).refine(drafts), strict=True)
        ]
        before, after = ([reply.scores for reply in measure.score(pairs)] for pairs in (drafts, refined))
        name = "identity" if kind == "place" else "identity_grey"
        left = [1 - float(np.mean([s[name] for s in scores])) for scores in (before, after)]
        assert left[1] < 0.8 * left[0], kind  # of what the draft lacks of its subject
        assert min(s["change"] for s in after) > 0.5, kind
        for draft, new in zip(drafts, refined, strict=True):
            outside = ~mask_of(draft.files[DRAFT_MASK])
            assert np.array_equal(pixels_of(new.files[IMAGE])[outside], pixels_of(draft.files[IMAGE])[outside])


def test_a_style_is_left_as_the_draft_has_it_and_said() -> None:
    draft = pair("style", 0, "other")
    (reply,) = MatchedPixels(RawPatches(8)).refine([draft])
    assert reply.files[IMAGE] == draft.files[DRAFT] and reply.words == {"note": "unchanged"}


def test_features_of_other_dimension_are_refused() -> None:
    with pytest.raises(UserError, match="Patch features of 4 and of 6 values cannot be compared"):
        cosines(np.ones((2, 4)), np.ones((3, 6)))


def test_a_turned_view_is_the_subject_turned() -> None:
    asked = pair("view", 3)
    (reply,) = TurnedView().turn([asked])
    assert asked.change["view"] in VIEWS and mask_of(reply.files[MASK]).any()
    (odd,) = TurnedView().turn([replace(asked, change={"view": "from behind"})])
    assert odd.status == "refused" and "from behind" in odd.reason


def test_the_border_tells_a_subject_from_a_plain_background() -> None:
    asked = pair("place", 1)
    found = against_border(pixels_of(asked.files[IMAGE]), 24)
    exact = mask_of(asked.files[MASK])
    assert (found & exact).sum() / (found | exact).sum() > 0.9
    bare = replace(asked, files={IMAGE: asked.files[IMAGE]})
    (reply,) = BorderMask().mask([bare])
    assert np.array_equal(mask_of(reply.files[MASK]), found)


def test_two_areas_of_like_size_are_several_subjects() -> None:
    mask = np.zeros((40, 40), bool)
    mask[2:12, 2:12] = mask[20:32, 20:32] = True
    assert several_subjects(mask, 0.5) and not several_subjects(mask, 0.9)


def test_near_pictures_have_near_hashes() -> None:
    picture = pixels_of(pair("place", 0).files[IMAGE])
    noisy = np.clip(picture.astype(int) + np.random.default_rng(0).integers(-2, 3, picture.shape), 0, 255)
    other = pixels_of(pair("place", 1, position=2).files[IMAGE])
    kept = [looks_of(picture)]
    assert is_near(looks_of(noisy.astype(np.uint8)), kept, 8) and not is_near(looks_of(other), kept, 8)


def test_the_score_that_is_furthest_below_is_the_cause_and_a_missing_one_rejects() -> None:
    least = {"identity": 0.6, "change": 0.5}
    assert cause_of({"identity": 0.7, "change": 0.5}, least) == ("", "")
    assert cause_of({"identity": 0.5, "change": 0.1}, least) == ("change", "change 0.100 is below 0.500")
    assert cause_of({"identity": 0.7}, least)[0] == "change"


def test_thresholds_fitted_to_known_pairs_read_the_change_as_well() -> None:
    rng = np.random.default_rng(0)
    scores, right = [], []
    for fault in ("", "subject", "change") * 100:
        scores.append(
            {
                "identity": rng.normal(0.4 if fault == "subject" else 0.8, 0.08),
                "change": rng.normal(0.2 if fault == "change" else 0.8, 0.08),
            }
        )
        right.append(not fault)
    chosen = fitted_thresholds(scores, right, precision=0.95)
    kept = [not cause_of(s, chosen)[0] for s in scores]
    hits = sum(k and r for k, r in zip(kept, right, strict=True))
    assert hits / sum(kept) >= 0.95 and hits >= 90
    with pytest.raises(UserError, match="cannot be fitted without a right pair"):
        fitted_thresholds(scores[:1], [False], 0.9)


def test_a_budget_allows_what_fits_and_what_is_free_always_does() -> None:
    spend = {"draft": StageSpend(calls=4, seconds=2.0, usd=0.4), "mask": StageSpend(10, 0, 5.0, 0.0)}
    assert PairBudget(calls={"draft": 10}).affords("draft", 8, 0.1, spend) == (6, "calls.draft")
    assert PairBudget(usd={"draft": 0.7}).affords("draft", 8, 0.1, spend) == (3, "usd.draft")
    assert PairBudget(total_usd=0.0).affords("mask", 8, 0.0, spend) == (8, "")
    assert PairBudget(total_seconds=8.0).affords("draft", 8, 0.1, spend) == (2, "total_seconds")
    assert PairBudget(seconds={"draft": 2.0}).affords("draft", 8, 0.1, spend) == (0, "seconds.draft")


def test_the_source_of_an_edit_is_the_draft_inside_or_plain_where_nothing_was_refined() -> None:
    image, draft = np.full((8, 8, 3), 200, np.uint8), np.full((8, 8, 3), 10, np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    source = editing_source(image, draft, mask)
    assert (source[mask] == 10).all() and (source[~mask] == 200).all()
    image[mask] = 50
    plain = editing_source(image, image.copy(), mask)
    assert (plain == 200).all()


def test_edges_are_thin_and_lie_where_the_lightness_changes() -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    edges = canny(pixels)
    columns = np.flatnonzero(edges.any(axis=0))
    assert set(columns) <= {18, 19, 20, 21} and edges.sum(axis=1).max() <= 2 and edges[5:35].any(axis=1).all()


def test_prompts_ask_for_no_change_that_is_there_already() -> None:
    for seed in range(20):
        asked = pair("style", seed)
        assert asked.change["style"] != "rimmed"
        assert asked.prompt == f"a {asked.subject.category} in the style of {asked.change['style']}"
    assert {pair("texture", seed).change["texture"] for seed in range(20)} == set(TEXTURES)
    assert pair("tint", 0).change["tint"] in TINTS and pair("place", 0).files[REFERENCE]


def test_alpha_is_turned_with_its_picture() -> None:
    pixels = np.full((20, 30, 4), 90, np.uint8)
    pixels[:, :, 3] = np.where(np.arange(30) < 10, 255, 0)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # the camera lay on its side: shown, left is on top
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    picture, mask = split_alpha(buffer.getvalue())
    assert picture.shape == (30, 20, 3) and mask is not None
    assert mask[:10].all() and not mask[10:].any()


@pytest.mark.parametrize(("shape", "box", "side"), [((20, 60), (2, 4, 12, 16), 20), ((60, 20), (0, 50, 20, 60), 20),
                                                    ((20, 60), (5, 0, 45, 20), 40)])  # fmt: skip
def test_a_square_shows_the_whole_subject(shape: tuple[int, int], box: tuple[int, int, int, int], side: int) -> None:
    mask = np.zeros(shape, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    picture, cut = square_around(np.where(mask[..., None], 9, 200).astype(np.uint8).repeat(3, -1), mask)
    assert picture.shape == (side, side, 3) and cut.shape == (side, side)
    assert cut.sum() == mask.sum() and (picture[cut] == 9).all()


@pytest.mark.parametrize("name", ["rex.mask.jpg", "rix.mask.png"])
def test_a_mask_that_would_not_be_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "rex.png")
    FolderSubjects(str(tmp_path)).verify()
    Image.new("L", (8, 8), 255).save(tmp_path / name)
    with pytest.raises(UserError, match=rf"The mask '{name}' belongs to no picture.*rex\.mask\.png"):
        FolderSubjects(str(tmp_path)).verify()
