from __future__ import annotations

from itertools import islice

import pytest

from evolvedirector.records import UNLABELLED, WriteReply, WriteRequest, normalise_prompt
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.worlds.emoji.grammar import scene_text
from evolvedirector.worlds.emoji.scene import EmojiScene, EmojiThing
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from evolvedirector.worlds.emoji_scenes.held_out import EmojiSceneHeldOut
from evolvedirector.worlds.emoji_scenes.prompts import EmojiScenePrompts
from evolvedirector.worlds.emoji_scenes.world import EMOJI_SKILLS, EmojiWorld
from evolvedirector.worlds.emoji_scenes.writer import EmojiSceneWriter
from evolvedirector.writers.prompt_writer import PromptWriter
from tests.emoji_toys import fake_cache


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> EmojiWorld:
    cache = fake_cache(tmp_path_factory.mktemp("emoji"))
    return EmojiWorld(EmojiVocabulary(str(cache), concepts=6), held_out_share=0.3)


@pytest.mark.parametrize("skill", EMOJI_SKILLS)
def test_every_number_is_another_scene_of_its_skill(world: EmojiWorld, skill: str) -> None:
    scenes = [world.scene(skill, number) for number in range(world.size(skill))]
    assert len(set(scenes)) == len(scenes)
    assert {world.skill_of(scene) for scene in scenes} == {skill}
    assert all(world.vocabulary.parse(scene_text(scene)) == scene for scene in scenes)
    kept, held = (set(world.shuffled(skill, 0, held_out=flag)) for flag in (False, True))
    assert kept | held == set(scenes)
    assert not kept & held


def test_held_out_are_whole_combinations(world: EmojiWorld) -> None:
    for scene in world.shuffled("position", 0, held_out=True):
        first, second = scene.things
        assert world.is_held_out(EmojiScene((second, first), "above"))
    for scene in world.shuffled("counting", 0, held_out=True):
        assert world.is_held_out(EmojiScene((EmojiThing(scene.label, 4),)))


def test_a_pair_is_held_out_of_both_pair_skills(world: EmojiWorld) -> None:
    pairs = {
        held_out: [
            {frozenset(scene.objects) for scene in world.shuffled(skill, 0, held_out)}
            for skill in ("two_objects", "position")
        ]
        for held_out in (False, True)
    }
    assert all(pairs[False] + pairs[True])  # each skill has some of either kind
    assert not set.union(*pairs[False]) & set.union(*pairs[True])


def test_of_very_many_scenes_a_few_are_drawn(world: EmojiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolvedirector.worlds.emoji_scenes.world._LISTED", 10)
    drawn = list(world.shuffled("two_objects", 3))
    assert len(drawn) == len(set(drawn)) > 10
    assert list(islice(world.shuffled("two_objects", 3), 5)) == drawn[:5]
    assert list(islice(world.shuffled("two_objects", 4), 5)) != drawn[:5]


def test_other_scenes_have_no_skill(world: EmojiWorld) -> None:
    for text in ("a fox, a key and a frog", "two foxes and a key", "two foxes on a white background"):
        assert world.skill_of(world.vocabulary.require(text)) == UNLABELLED


def test_seeds_follow_their_shares_and_leave_out_what_is_held_out(world: EmojiWorld) -> None:
    prompts = EmojiScenePrompts(world, 20, shares={"counting": 0.5, "position": 0.5}).prompts()
    assert [sum(p.skill == skill for p in prompts) for skill in ("counting", "position")] == [10, 10]
    held = {normalise_prompt(prompt.text) for prompt in EmojiSceneHeldOut(world, per_skill=1000).prompts()}
    every = EmojiScenePrompts(world, 140).prompts()
    assert len({prompt.id for prompt in every}) == 140
    assert not held & {normalise_prompt(prompt.text) for prompt in every}
    assert prompts == EmojiScenePrompts(world, 20, shares={"counting": 0.5, "position": 0.5}).prompts()


def _write(world: EmojiWorld, operation: str, parent: str | None, skill: str | None, count: int) -> WriteReply:
    (reply,) = EmojiSceneWriter(world).write([WriteRequest("r", operation, parent, skill, count, 5)])  # type: ignore[arg-type]
    return reply


def test_expansion_keeps_the_structure_and_often_a_concept(world: EmojiWorld) -> None:
    reply = _write(world, "expansion", "a fox left of a key", None, 6)
    scenes = [world.vocabulary.require(text) for text in reply.texts]
    assert set(reply.skills) == {"position"}
    assert len(set(scenes)) == 6
    assert sum("fox" in scene.objects or "key" in scene.objects for scene in scenes) >= 3
    assert "a fox left of a key" not in reply.texts


def test_mutation_changes_the_structure(world: EmojiWorld) -> None:
    reply = _write(world, "mutation", "a fox left of a key", None, 8)
    assert set(reply.skills) == set(EMOJI_SKILLS) - {"position"}
    assert [world.skill_of(world.vocabulary.require(text)) for text in reply.texts] == list(reply.skills)


def test_nothing_held_out_is_written_and_no_text_twice(world: EmojiWorld) -> None:
    reply = _write(world, "seed", None, "counting", 1000)
    assert len(set(reply.texts)) == len(reply.texts) == len(list(world.shuffled("counting", 0)))


@pytest.mark.parametrize(
    ("parent", "skill", "refusal"),
    [("a dog", None, "'a dog' is outside"), ("a fox", "sport", "no skill"), (None, None, "without a parent")],
)
def test_what_cannot_be_written_is_a_refusal(
    world: EmojiWorld, parent: str | None, skill: str | None, refusal: str
) -> None:
    assert refusal in _write(world, "expansion", parent, skill, 3).refusal


def test_every_part_fits_its_seam(world: EmojiWorld) -> None:
    assert isinstance(EmojiSceneWriter(world), PromptWriter)
    assert isinstance(EmojiScenePrompts(world, 1), PromptSource)
    assert isinstance(EmojiSceneHeldOut(world, 1), PromptSource)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_count": 1}, "max_count is 1"),
        ({"max_count": 10}, "max_count is 10"),
        ({"held_out_share": 0.6}, "held_out_share is 0.6"),
        ({"skills": []}, "skills is"),
        ({"skills": ["juggling"]}, "Allowed are single_object"),
    ],
)
def test_bad_worlds_are_refused(world: EmojiWorld, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmojiWorld(world.vocabulary, **arguments)  # type: ignore[arg-type]


def test_bad_counts_and_shares_are_refused(world: EmojiWorld) -> None:
    with pytest.raises(ValueError, match=r"count is 100000. Allowed are 1 to \d+"):
        EmojiScenePrompts(world, 100_000)
    with pytest.raises(ValueError, match="juggling"):
        EmojiScenePrompts(world, 10, shares={"juggling": 1.0})
    with pytest.raises(ValueError, match="per_skill is 0"):
        EmojiSceneHeldOut(world, 0)
    with pytest.raises(ValueError, match="holds out nothing of single_object"):
        EmojiSceneHeldOut(EmojiWorld(world.vocabulary, held_out_share=0.0))
