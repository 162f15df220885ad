"""The gold set of the miniature world: known answers over all skills, and mistakes that look right."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from evolvedirector.judges import GoldSource, check_gold
from evolvedirector.records import GoldItem, ImageAndPrompt
from evolvedirector.worlds.shapes import MiniatureJudge, World, parse, read, skill_of
from evolvedirector.worlds.shapes.gold import MiniatureGold


def agreement(judge: MiniatureJudge, items: list[GoldItem]) -> float:
    looks = judge.check([ImageAndPrompt(item.item_id, item.image, item.prompt) for item in items])
    return sum((look.probability >= 0.5) == item.shows for look, item in zip(looks, items, strict=True)) / len(items)


@pytest.fixture(scope="module")
def gold() -> MiniatureGold:
    return MiniatureGold(count=36)


def test_half_show_their_prompt_over_all_skills(gold: MiniatureGold) -> None:
    items = gold.items()
    assert isinstance(gold, GoldSource)
    check_gold(items)
    assert sum(item.shows for item in items) == 18
    assert len({item.item_id for item in items}) == 36
    for shows in (True, False):
        skills = [skill_of(parse(item.prompt)) for item in items if item.shows == shows]
        assert sorted(skills) == sorted(3 * gold.world.skills)


def test_an_exact_judge_agrees_and_a_blind_one_does_not(gold: MiniatureGold) -> None:
    items = list(gold.items())
    assert agreement(MiniatureJudge(), items) == 1
    assert agreement(MiniatureJudge(error_rate=1), items) == 0


def test_mistakes_are_near_misses(gold: MiniatureGold) -> None:
    for item in gold.items():
        seen = read(Image.open(io.BytesIO(item.image)).convert("RGB"), gold.world).objects
        wanted = parse(item.prompt)
        assert abs(len(seen) - wanted.total) <= (0 if item.shows else 1)
        words = {(thing.shape, thing.colour) for thing in wanted.things}
        if not item.shows:  # something of the prompt is there: a colour or a shape at least
            assert {s for s, _ in words} & {o.shape for o in seen} or {c for _, c in words} & {o.colour for o in seen}


def test_mistakes_differ_in_kind() -> None:
    gold = MiniatureGold(World(skills=("position",)), count=24)
    kinds = set()
    for item in gold.items()[1::2]:
        seen = {(o.shape, o.colour) for o in read(Image.open(io.BytesIO(item.image)), gold.world).objects}
        kinds.add(seen == {thing.kind for thing in parse(item.prompt).things})
    assert kinds == {True, False}  # some only lie elsewhere, some have other words


def test_same_seed_same_gold() -> None:
    world = World(skills=("single_object", "counting"))
    assert MiniatureGold(world, 6).items() == MiniatureGold(world, 6).items()
    assert MiniatureGold(world, 6).items() != MiniatureGold(world, 6, seed=1).items()


def test_a_world_without_any_mistake_and_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="count=1"):
        MiniatureGold(count=1)
    with pytest.raises(ValueError, match="single_object"):
        MiniatureGold(World(shapes=("circle",), colours=("red",), skills=("single_object",)), count=2)
    with pytest.raises(ValueError, match="Image size 8x8"):
        MiniatureGold(count=2, image_size_px=8)
