"""Teacher and judge as the loop meets them: encoded bytes, replies instead of exceptions, same question same answer."""

import io
from functools import cache

import jsonargparse
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evolvedirector.judges import Judge
from evolvedirector.records import ImageAndPrompt, ImageRequest, OrderedPair
from evolvedirector.teachers.teacher import Teacher
from evolvedirector.worlds.shapes import SKILLS, MiniatureJudge, MiniatureTeacher, Scene, World, phrase
from evolvedirector.worlds.shapes.grammar import shuffled

PROMPTS = ["a red circle", "two green squares", "a red circle and a blue square", "a red circle above a blue square"]


def image_of(prompt, seed=0, **options):
    (reply,) = MiniatureTeacher(**options).generate([ImageRequest("r", prompt, seed, 32, 32)])
    return reply.image


def verdicts(judge, prompt, images):
    return [look.probability > 0.5 for look in judge.check([ImageAndPrompt("i", image, prompt) for image in images])]


def test_they_fit_their_seams():
    assert isinstance(MiniatureTeacher(), Teacher)
    assert isinstance(MiniatureJudge(), Judge)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_an_exact_teacher_satisfies_an_exact_judge(prompt):
    assert verdicts(MiniatureJudge(), prompt, [image_of(prompt, seed) for seed in range(10)]) == [True] * 10


def test_a_teacher_that_miscounts_does_so_at_its_rate():
    images = [image_of("three green squares", seed, miscount=0.5) for seed in range(100)]
    assert 30 <= sum(verdicts(MiniatureJudge(), "three green squares", images)) <= 70
    assert all(
        verdicts(MiniatureJudge(), "a red circle", [image_of("a red circle", s, miscount=1.0) for s in range(9)])
    )


CONCERNS = {
    "miscount": {"counting"},
    "swap_colours": {"two_objects", "position", "colour_binding"},
    "confuse_relations": {"position"},
    "wrong_shape": set(SKILLS),
}
"""Which skills a weakness spoils; of the others its images stay right."""


def has_one_colour(scene: Scene) -> bool:
    return len({thing.colour for thing in scene.things}) == 1


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(CONCERNS)), st.sampled_from(SKILLS), st.integers(0, 10**6))
def test_a_weakness_spoils_every_image_of_the_skills_it_concerns_and_no_other(weakness, skill, seed):
    scene = shuffled(World(), skill, seed)[0]
    image = image_of(phrase(scene), seed, **{weakness: 1.0})
    spoilt = skill in CONCERNS[weakness] and not (weakness == "swap_colours" and has_one_colour(scene))
    assert verdicts(MiniatureJudge(), phrase(scene), [image]) == [not spoilt]


def test_which_of_three_teachers_is_best_depends_on_the_skill():
    weak = {
        "counts": {"swap_colours": 0.7, "confuse_relations": 0.7},
        "binds": {"miscount": 0.7, "confuse_relations": 0.7},
        "places": {"miscount": 0.7, "swap_colours": 0.7},
    }
    # position needs right colours too, so `places` is best only where the colours agree
    asked = {
        "counting": "three green squares",
        "two_objects": "a red circle and a blue square",
        "position": "a red circle above a red square",
    }
    best = {}
    for skill, prompt in asked.items():
        right = {
            name: sum(verdicts(MiniatureJudge(), prompt, [image_of(prompt, seed, **kind) for seed in range(12)]))
            for name, kind in weak.items()
        }
        best[skill] = max(right, key=right.__getitem__)
        assert sorted(right.values())[-2] < right[best[skill]] == 12
    assert best == {"counting": "counts", "two_objects": "binds", "position": "places"}


def test_a_teacher_refuses_what_it_does_not_know():
    requests = [ImageRequest(text, text, 0, 32, 32) for text in ("a fox", "a red star", "a red circle")]
    assert [reply.status for reply in MiniatureTeacher().generate(requests)] == ["refusal", "refusal", "image"]
    assert all(reply.status == "refusal" for reply in MiniatureTeacher(refuse_probability=1.0).generate(requests))


def test_an_impossible_size_is_a_failure():
    (reply,) = MiniatureTeacher().generate([ImageRequest("r", "a red circle", 0, 8, 8)])
    assert reply.status == "failure" and "8x8" in reply.reason


def test_teacher_images_depend_on_prompt_and_seed_only():
    teacher = MiniatureTeacher(miscount=0.5)
    requests = [ImageRequest(f"{p}{s}", p, s, 32, 32) for p in PROMPTS for s in range(3)]
    forward = {reply.request_id: reply.image for reply in teacher.generate(requests)}
    assert forward == {reply.request_id: reply.image for reply in teacher.generate(requests[::-1])}
    assert len(set(forward.values())) == len(requests)


def test_fingerprints_name_every_parameter():
    options = [{}, {"miscount": 0.1}, {"swap_colours": 0.1}, {"refuse_probability": 0.1}, {"seed": 1}, {"name": "b"}]
    assert len({MiniatureTeacher(**option).fingerprint for option in options}) == len(options)
    rates = [{}, {"error_rate": 0.1}, {"position_bias": 0.1}, {"invalid_rate": 0.1}, {"refusal_rate": 0.1}, {"seed": 1}]
    assert len({MiniatureJudge(**rate).fingerprint for rate in rates}) == len(rates)


@cache
def pairs(count=100, prompt="a red circle and a blue square"):
    right = [image_of(prompt, seed) for seed in range(count)]
    wrong = [image_of(prompt, seed, swap_colours=1.0) for seed in range(count)]
    return [OrderedPair(str(i), r, w, prompt) for i, (r, w) in enumerate(zip(right, wrong, strict=True))]


def test_an_exact_judge_prefers_the_faithful_image_in_both_orders():
    asked = pairs(20)
    assert all(look.probability > 0.9 for look in MiniatureJudge().look(asked))
    turned = [OrderedPair(p.item_id, p.second, p.first, p.prompt) for p in asked]
    assert all(look.probability < 0.1 for look in MiniatureJudge().look(turned))


def test_the_same_image_twice_is_an_even_pair():
    image = image_of("a red circle")
    (look,) = MiniatureJudge().look([OrderedPair("p", image, image, "a red circle")])
    assert look.probability == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("option", "is_hit"),
    [
        ({"error_rate": 0.3}, lambda look: look.probability < 0.5),
        ({"invalid_rate": 0.3}, lambda look: look.covered_mass == 0.0),
        ({"refusal_rate": 0.3}, lambda look: look.covered_mass == 0.0),
    ],
)
def test_a_judge_errs_at_its_rate_and_alike_when_asked_again(option, is_hit):
    asked = pairs()
    looks = list(MiniatureJudge(**option).look(asked))
    assert 18 <= sum(map(is_hit, looks)) <= 42
    assert looks == list(MiniatureJudge(**option).look(asked))
    assert looks[::-1] == list(MiniatureJudge(**option).look(asked[::-1]))


def test_a_fully_biased_judge_always_takes_the_first():
    turned = [OrderedPair(p.item_id, p.second, p.first, p.prompt) for p in pairs(20)]
    assert all(look.probability > 0.9 for look in MiniatureJudge(position_bias=1.0).look(turned))


def test_what_cannot_be_judged_is_an_invalid_look():
    image = image_of("a red circle")
    items = [ImageAndPrompt("bytes", b"no image", "a red circle"), ImageAndPrompt("prompt", image, "a fox"),
             ImageAndPrompt("torn", image[: len(image) // 2], "a red circle")]  # fmt: skip
    looks = list(MiniatureJudge().check(items))
    assert [look.item_id for look in looks] == ["bytes", "prompt", "torn"]
    assert all(look.covered_mass == 0.0 and look.reason for look in looks)


def test_a_word_outside_of_the_world_is_an_invalid_look_and_not_a_no():
    image = image_of("a red star", world=World(("star", "circle", "square"), ("red", "blue", "green")))
    (look,) = MiniatureJudge().check([ImageAndPrompt("i", image, "a red star")])
    assert look.covered_mass == 0.0 and "red star" in look.reason
    (look,) = MiniatureJudge().look([OrderedPair("p", image, image, "a red star")])
    assert look.covered_mass == 0.0


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_damage_to_an_image_raises(data):
    image = bytearray(image_of("a red circle"))
    for _ in range(data.draw(st.integers(1, 4))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    image = bytes(image[: data.draw(st.integers(0, len(image)))])
    (checked,) = MiniatureJudge().check([ImageAndPrompt("i", image, "a red circle")])
    (looked,) = MiniatureJudge().look([OrderedPair("p", image, image_of("a red circle"), "a red circle")])
    assert 0.0 <= checked.probability <= 1.0 and checked.covered_mass == looked.covered_mass


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "I;16", "1"])
def test_images_of_any_mode_are_judged(mode):
    drawn = Image.open(io.BytesIO(image_of("a red circle")))
    picture = (
        drawn.quantize(16) if mode == "P" else Image.new(mode, (32, 32)) if mode == "I;16" else drawn.convert(mode)
    )
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **({"transparency": bytes(range(240, 256))} if mode == "P" else {}))
    (look,) = MiniatureJudge().check([ImageAndPrompt("i", buffer.getvalue(), "a red circle")])
    assert look.covered_mass == 1.0 and (look.probability > 0.5) == (mode in ("P", "RGBA"))


def test_rates_outside_of_zero_to_one_are_refused():
    with pytest.raises(ValueError, match=r"error_rate=1\.5"):
        MiniatureJudge(error_rate=1.5)
    with pytest.raises(ValueError, match="miscount=-1"):
        MiniatureTeacher(miscount=-1)


def test_a_yaml_builds_them():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--teacher", type=Teacher)
    parser.add_argument("--judge", type=Judge)
    world = {"shapes": ["circle", "star"], "colours": ["red", "blue"], "skills": ["single_object"]}
    config = {
        "teacher": {
            "class_path": "evolvedirector.worlds.shapes.MiniatureTeacher",
            "init_args": {"world": world, "name": "weak", "miscount": 0.2},
        },
        "judge": {"class_path": "evolvedirector.worlds.shapes.MiniatureJudge", "init_args": {"error_rate": 0.1}},
    }
    parsed = parser.parse_string(yaml.safe_dump(config))
    dumped = parser.dump(parsed)
    built = parser.instantiate_classes(parser.parse_string(dumped))
    assert built.teacher.world.shapes == ("circle", "star") and built.teacher.name == "weak"
    assert built.judge.error_rate == 0.1
