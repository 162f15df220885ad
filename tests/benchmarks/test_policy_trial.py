"""The policy trial at toy size: every kind of arm spends what it may, nothing held out is trained on, runs repeat."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks.arms import SpendsTheRest, SpreadPolicy
from benchmarks.policy_trial import chosen_arms, load, main, save
from benchmarks.trial_arms import ARMS
from benchmarks.trial_run import Arm, Trial, TrialSize, run
from benchmarks.trial_table import interval, paired
from benchmarks.trial_world import (
    EASY_SHARES,
    WORLD,
    TrialGold,
    TrialJudge,
    TrialPrompts,
    TrialTeacher,
    decode,
    layout_of,
)
from evolvedirector.judges.health.gold import check_gold
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.records import DatasetState, ImageAndPrompt, ImageRequest, OrderedPair, RoundInfo
from evolvedirector.store.images import check_image
from evolvedirector.worlds.shapes import HeldOutPrompts

SIZE = TrialSize(
    calls=60,
    seed_calls=12,
    images=320,
    rounds=4,
    batch_size=32,
    hidden=16,
    held_out_per_skill=8,
    gold=12,
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def held_out() -> HeldOutPrompts:
    return HeldOutPrompts(WORLD, 8, 0)


def teacher_image(prompt: str, seed: int = 7) -> bytes:
    (reply,) = TrialTeacher().generate([ImageRequest("r", prompt, seed, 3, 3)])
    assert reply.image is not None
    return reply.image


def test_a_picture_says_what_was_drawn_and_passes_the_store(held_out: HeldOutPrompts) -> None:
    for prompt in held_out.prompts():
        image = teacher_image(prompt.text)
        assert check_image(image) == (3, 3)
        assert decode(image) == layout_of(prompt.text)


def test_no_two_prompts_ask_for_the_same_picture(held_out: HeldOutPrompts) -> None:
    texts = {prompt.text for prompt in TrialPrompts(600, dict.fromkeys(WORLD.skills, 1.0), held_out, 0).prompts()}
    assert len({layout_of(text) for text in texts}) == len(texts)


def test_pictures_of_one_prompt_differ_by_seed() -> None:
    assert teacher_image("a red circle", 1) != teacher_image("a red circle", 2)


def test_seeds_are_mostly_easy_and_repeat_only_as_prompts_of_their_own(held_out: HeldOutPrompts) -> None:
    prompts = TrialPrompts(1000, EASY_SHARES, held_out, 3).prompts()
    skills = Counter(prompt.skill for prompt in prompts)
    assert 949 <= skills["single_object"] + skills["counting"] + skills["colours"] <= 951
    assert len({prompt.id for prompt in prompts}) == 1000 > len({prompt.text for prompt in prompts})
    assert not {prompt.text for prompt in prompts} & {prompt.text for prompt in held_out.prompts()}


@pytest.mark.parametrize(
    ("knobs", "right", "wrong", "mass"),
    [({}, True, False, 1.0), ({"error_rate": 1.0}, False, True, 1.0), ({"always_first": True}, True, True, 1.0)],
)
def test_the_judge_is_as_bad_as_it_is_told_to_be(knobs: dict, right: bool, wrong: bool, mass: float) -> None:
    judge = TrialJudge(**knobs)
    image = teacher_image("a red circle")
    items = [ImageAndPrompt("a", image, "a red circle"), ImageAndPrompt("b", image, "a blue star")]
    assert [look.probability > 0.5 for look in judge.check(items)] == [right, wrong]
    (look,) = judge.look([OrderedPair("c", teacher_image("a blue star"), image, "a red circle")])
    assert (look.probability > 0.5) is wrong


def test_an_unreadable_reply_has_no_mass_and_a_foreign_picture_shows_nothing() -> None:
    item = ImageAndPrompt("a", b"\x89PNG\r\n\x1a\n and more", "a red circle")
    assert [look.covered_mass for look in TrialJudge(unreadable_rate=1.0).check([item])] == [0.0]
    assert next(TrialJudge().check([item])).probability < 0.5


def test_gold_is_half_right(held_out: HeldOutPrompts) -> None:
    items = TrialGold(12, held_out, 0).items()
    check_gold(items)
    assert all(item.shows == (decode(item.image) == layout_of(item.prompt)) for item in items)
    assert sum(item.shows for item in items) == 6


@pytest.mark.filterwarnings(
    "ignore:Round .* is skipped",
    "ignore:.* texts of the writer were refused",
    "ignore:The images of the seeds are not checked",
)
@pytest.mark.parametrize("name", ["static 2N", "no judge", "published", "screening", "screening, always first"])
def test_each_kind_of_arm_spends_exactly_its_calls(name: str) -> None:
    figures = run(ARMS[name], 0, SIZE)
    assert figures["calls"] == ARMS[name].times_n * SIZE.calls == sum(figures["bought"].values())
    assert set(figures["by_skill"]) == set(WORLD.skills)
    assert (figures["looks"] > 0) == (ARMS[name].policy is not None and ARMS[name].checked)


def test_the_same_seed_repeats_a_run_and_another_does_not() -> None:
    def figures(seed: int) -> dict:
        return {key: value for key, value in run(ARMS["screening"], seed, SIZE).items() if key != "cpu_seconds"}

    first = figures(1)
    assert figures(1) == first
    assert figures(2) != first


def test_nothing_held_out_is_bought(tmp_path: Path) -> None:
    trial = Trial(ARMS["screening"], 0, SIZE, tmp_path / "data")
    trial.run()
    bought = [layout_of(prompt.text) for prompt in trial.store.ledger.prompts.all().values()]
    trial.store.close()
    held_out = {layout_of(prompt.text) for prompt in trial.held_out.prompts()}
    assert len(held_out) > 20
    assert not held_out & set(bought)


def test_the_control_buys_every_skill_alike_and_asks_no_judge() -> None:
    figures = run(Arm(lambda: SpreadPolicy(WORLD.skills), checked=False), 0, SIZE)
    hard = [figures["bought"][skill] for skill in ("two_objects", "position", "colour_binding")]
    assert max(hard) - min(hard) <= 2
    assert figures["looks"] == 0


def test_what_a_policy_leaves_buys_prompts_as_the_seeds_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trial, "_spend_the_rest", lambda self, sha, index: sha)
    idle = SpendsTheRest(EvolveDirectorPolicy(without={"expansion", "mutation", "deletion"}), EASY_SHARES)
    trial = Trial(Arm(lambda: idle), 0, SIZE, tmp_path / "data")
    figures = trial.run()
    trial.store.close()
    assert figures["calls"] == SIZE.calls
    easy = sum(figures["bought"].get(skill, 0) for skill in ("single_object", "counting", "colours"))
    assert easy >= 0.9 * SIZE.calls


def test_what_is_left_is_spent_later_when_the_last_buying_round_was_skipped() -> None:
    idle = SpendsTheRest(EvolveDirectorPolicy(without={"expansion", "mutation", "deletion"}), EASY_SHARES)
    for index, asks in ((2, False), (4, True), (5, True)):  # the last of five buying rounds is round 4
        info = RoundInfo("round", index, 10, 0, 100, "sha", budget_teacher_calls=60, teacher_calls=40, seed_calls=6)
        written = idle.plan(DatasetState("sha", {}), info).write
        assert (sum(request.count for request in written if request.operation == "seed") >= 20) is asks


def test_an_unknown_arm_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no arm 'static 3N'.*Write 'static \d*N'"):
        chosen_arms("static N; static 3N")


def test_a_grid_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep" / "trial.json"
    runs = [
        {"arm": arm, "seed": seed, "accuracy": 0.5 + 0.1 * (arm == "screening"), "by_skill": {"counting": 0.25}}
        | {"calls": 400, "looks": 0, "cpu_seconds": 1.0}
        for arm in ("static 5N", "screening")
        for seed in range(2)
    ]
    save(path, TrialSize(), runs)
    assert sorted(load(path, TrialSize()), key=runs.index) == runs
    main(["--arms", "static 5N;screening", "--seeds", "2", "--out", str(path)])
    printed = capsys.readouterr().out
    assert "| screening | 2 | 0.600 | 0.25 | +0.100 to +0.100 |" in printed
    with pytest.raises(ValueError, match="another size"):
        load(path, SIZE)


def test_intervals_are_students_over_paired_seeds() -> None:
    runs = [{"arm": "a", "seed": s, "accuracy": v} for s, v in enumerate((0.4, 0.5, 0.9))]
    runs += [{"arm": "b", "seed": s, "accuracy": v} for s, v in enumerate((0.3, 0.3, 0.6))]
    assert interval(paired(runs, "a", "b")) == pytest.approx((0.2 - 0.2483, 0.2 + 0.2483), abs=1e-4)
    assert interval([0.1]) == (0.1, 0.1)
