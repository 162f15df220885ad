"""The tiny vision-language model of the package: what it sees, what it was asked, and how it is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tiny_vlm import save_model
from benchmarks.tiny_vlm_measure import held_out_cases, measure_checks, measure_pairs, measure_parts
from benchmarks.tiny_vlm_model import build_model, build_tokenizer
from benchmarks.tiny_vlm_packing import Packer, forward
from benchmarks.tiny_vlm_pictures import WORLD, HeldOut, make_picture, random_scene
from benchmarks.tiny_vlm_questions import Questioner, Taught, near_miss
from benchmarks.tiny_vlm_train import QuestionTraining, Schedule, new_heads, train_eyes
from evolvedirector.judges import TransformersJudge
from evolvedirector.judges.questions.judge_questions import PAIR_QUESTION
from evolvedirector.models.packaged_model import packaged_model
from evolvedirector.records import ImageAndPrompt, OrderedPair
from evolvedirector.records.questions import CHECK_QUESTION, YES_NO, Question
from evolvedirector.worlds.shapes.artist import draw, to_png
from evolvedirector.worlds.shapes.atoms import atoms_of
from evolvedirector.worlds.shapes.grammar import parse, phrase, scenes

MODEL = "package:worlds/shapes/vlm"
# What its README states, less about three standard errors of this many cases.
CHECK_FLOORS = {
    "single_object": 0.93,
    "two_objects": 0.8,
    "counting": 0.88,
    "colours": 0.83,
    "position": 0.79,
    "colour_binding": 0.72,
}
PART_FLOORS = {"object": 0.88, "colour": 0.78, "count": 0.8, "relation": 0.7}
PAIR_FLOOR = 0.8


def picture_of(prompt: str, seed: int = 3) -> bytes:
    return to_png(draw(parse(prompt), 32, 32, seed, tidy=True))


@pytest.fixture(scope="module")
def judge() -> TransformersJudge:
    return TransformersJudge(MODEL, image_size_px=32, batch_size=32)


def test_it_answers_clear_questions_with_its_whole_mind(judge: TransformersJudge) -> None:
    questions = [("a red circle", "a red circle"), ("a red circle", "a blue circle"), ("a green star", "a green star")]
    questions += [("a blue square", "a blue star"), ("two red squares", "two red squares")]
    items = [ImageAndPrompt(str(n), picture_of(drawn), asked) for n, (drawn, asked) in enumerate(questions)]
    looks = list(judge.check(items))
    assert [look.probability > 0.5 for look in looks] == [drawn == asked for drawn, asked in questions]
    assert all(look.covered_mass > 0.95 and look.rung == "probability" for look in looks)


def test_it_answers_about_two_pictures_with_a_letter(judge: TransformersJudge) -> None:
    # How often the letter is right is a matter of many pairs: see the slow test, and the model's README.
    first, second = picture_of("a red circle"), picture_of("a blue circle")
    looks = list(
        judge.look([OrderedPair("1", first, second, "a red circle"), OrderedPair("2", second, first, "a star")])
    )
    assert all(look.covered_mass > 0.95 and 0.0 < look.probability < 1.0 for look in looks)


def test_it_answers_questions_about_parts(judge: TransformersJudge) -> None:
    image = picture_of("a red circle")
    asked = {"Is there a circle?": True, "Is there a star?": False}
    asked |= {"Is a circle red?": True, "Is a circle blue?": False}
    questions = [Question(text, (image,), f"{text} Answer yes or no.", YES_NO) for text in asked]
    assert {a.item_id: a.probabilities[0] > 0.5 for a in judge.answer(questions)} == asked


def test_its_tokenizer_knows_every_word_of_its_world_and_of_the_questions() -> None:
    folder = packaged_model(MODEL)
    assert folder is not None
    for tokenizer in (build_tokenizer(), type(build_tokenizer()).from_pretrained(folder)):
        for skill in WORLD.skills:
            scene = scenes(WORLD, skill)[-1]
            texts = [template.replace("{prompt}", phrase(scene)) for template in (CHECK_QUESTION, PAIR_QUESTION)]
            texts += [f"{atom.question} Answer yes or no." for atom in atoms_of(scene)]
            for text in texts:
                tokens = tokenizer.tokenize(text)
                # A standing phrase is one token; where the questions' wording changes, the model must be trained anew.
                assert tokenizer.unk_token not in tokens and len(tokens) <= 14, (text, tokens)


def test_the_package_holds_weights_under_ten_megabytes_and_no_code() -> None:
    folder = packaged_model(MODEL)
    assert folder is not None
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sizes["model.safetensors"] < 10e6
    assert {Path(name).suffix for name in sizes} <= {".json", ".jinja", ".safetensors", ".md"}


@pytest.mark.parametrize("name", ["package:../tests", "package:worlds/shapes", "package:", "package:nothing/here"])
def test_only_models_of_the_package_have_its_prefix(name: str) -> None:
    with pytest.raises(ValueError, match="There is no model"):
        packaged_model(name)
    assert packaged_model("worlds/shapes/vlm") is None


def test_questions_name_nothing_that_is_held_out_and_near_misses_miss() -> None:
    held_out, rng = HeldOut(), np.random.default_rng(0)
    for _ in range(300):
        scene = random_scene(held_out, rng)
        missed = near_miss(scene, rng)
        assert not held_out.holds(scene) and missed != scene
        assert missed is None or WORLD.contains(missed)
    asker = Questioner(held_out, rng)
    picture = make_picture(held_out, rng)
    answers = [asked.answer for asked in (asker.check(picture) for _ in range(200)) if asked is not None]
    assert 0.3 < answers.count("yes") / len(answers) < 0.7
    prompts = {prompt.text for prompt in held_out.source.prompts()}
    texts = [asked.text for asked in (asker.check(picture) for _ in range(100)) if asked is not None]
    assert not any(f'"{prompt}"' in text for prompt in prompts for text in texts)


@pytest.mark.slow
def test_it_agrees_with_the_reader_on_held_out_combinations(judge: TransformersJudge) -> None:
    cases = held_out_cases(per_skill=34, is_spoilt=False, seed=1)
    checks = measure_checks(judge, cases)
    assert {skill: rate for skill, rate in checks.items() if rate < CHECK_FLOORS[skill]} == {}
    parts = measure_parts(judge, cases[::3])
    assert {kind: rate for kind, rate in parts.items() if rate < PART_FLOORS[kind]} == {}
    pairs = measure_pairs(judge, cases)["all"]
    assert pairs["both_orders"] >= PAIR_FLOOR and abs(pairs["first"] - 0.5) < 0.12


@pytest.mark.slow
def test_packed_questions_have_the_logits_of_single_ones() -> None:
    held_out, rng = HeldOut(), np.random.default_rng(1)
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer).eval()
    pairs = [(make_picture(held_out, rng), make_picture(held_out, rng)) for _ in range(2)]
    texts = iter(["Is there a star?", "How many objects?", "Is a circle red?", "Is there a square?"] * 2)
    packed = Packer(tokenizer).pack(pairs, lambda group: next((Taught(text, "yes") for text in texts), None), 12)
    with torch.no_grad():
        logits, _ = forward(model, packed)
        for (row, end), found in zip(packed.where.tolist(), logits, strict=True):
            own = packed.segments[row] == packed.segments[row, end]
            ids = torch.cat([torch.full((2 * 16,), model.config.image_token_index), packed.input_ids[row, own]])
            alone = model(input_ids=ids[None], pixel_values=packed.pixel_values[2 * row : 2 * row + 2]).logits[0, -1]
            torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_training_goes_on_from_a_checkpoint_as_if_never_cut_off_and_saves_a_judge(tmp_path: Path) -> None:
    torch.manual_seed(0)
    held_out, rng = HeldOut(), np.random.default_rng(2)
    pictures = [make_picture(held_out, rng) for _ in range(12)]
    pairs = list(zip(pictures[::2], pictures[1::2], strict=True))
    tokenizer = build_tokenizer()

    def trained(cuts: list[int], checkpoint: Path) -> dict[str, torch.Tensor]:
        for steps in cuts:
            torch.manual_seed(0)
            model, heads = build_model(tokenizer), new_heads()
            schedule = Schedule(eye_steps=2, steps=4, easy_until=1, pairs_from=0, pictures=2, question_tokens=32)
            training = QuestionTraining(model, tokenizer, heads, schedule, checkpoint)
            if training.step == 0:
                train_eyes(model.model.vision_tower, heads, pictures, schedule)
            training.run(pictures, pairs, until=steps)
        save_model(model, checkpoint.parent / checkpoint.stem)
        return model.state_dict()

    whole, cut = trained([4], tmp_path / "whole.pt"), trained([2, 4], tmp_path / "cut.pt")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    judge = TransformersJudge(str(tmp_path / "whole"), image_size_px=32)
    (look,) = judge.check([ImageAndPrompt("1", picture_of("a red circle"), "a red circle")])
    assert 0.0 <= look.probability <= 1.0
