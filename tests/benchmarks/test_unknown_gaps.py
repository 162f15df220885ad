import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import gap_plan, gap_run, gap_student, unknown_gaps
from benchmarks.gap_arms import ARMS
from benchmarks.gap_calls import Figure, better, calls_to, interval, median_of, price_at, ratio
from benchmarks.gap_emoji import EmojiGap, ErringJudge
from benchmarks.gap_run import bought_anew
from benchmarks.gap_table import hidden_table, report
from benchmarks.gap_world import WORLDS, GapPrompts, GapWorld, share
from evolvedirector.errors import UserError
from evolvedirector.records import ImageAndPrompt, ImageRequest, OrderedPair
from evolvedirector.records.looks import reading_of
from tests.emoji_toys import fake_cache


def run_of(arm: str, calls: int, gap: float, seed: int = 0, world: str = "1/20", known: float = 0.99) -> dict:
    return {
        "world": world, "arm": arm, "calls": calls, "seed": seed, "gap": gap, "known": known, "bought": calls,
        "bought_in_gap": calls // 2, "looks": 40, "cost_usd": 0.04 * calls, "seconds": 60, "rounds": [],
        "base": {"gap": 0.0, "known": 0.98, "reached": True},
    }  # fmt: skip


def row_of(said: str, start: str) -> list[str]:
    (line,) = [line for line in said.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_calls_to_a_level_are_interpolated_over_their_logarithm_and_bounds_are_marked() -> None:
    assert calls_to(0.5, {6: 0.0, 24: 1.0}) == Figure(pytest.approx(12.0))
    assert calls_to(0.5, {6: 0.9, 12: 1.0}) == Figure(6.0, "<=")
    assert calls_to(0.95, {6: 0.1, 384: 0.9}) == Figure(384.0, ">="), "never reached counts as the largest budget"
    assert calls_to(0.95, {6: 0.1, 12: 0.9}) == Figure(12.0, ">="), "384 was not run, so it is no figure"
    assert calls_to(0.5, {}) is None
    assert ratio(Figure(6, "<="), Figure(384, ">=")) == Figure(6 / 384, "<=")
    assert ratio(Figure(24), Figure(48)) == Figure(0.5)
    assert ratio(Figure(6, "<="), Figure(6, "<=")).bound == "~", "two bounds of one kind say nothing of their ratio"
    assert median_of([Figure(1), Figure(2, ">="), Figure(9, ">=")]) == Figure(2, ">="), "rests on a bound"
    assert median_of([Figure(1), Figure(2), Figure(9, ">=")]) == Figure(2), "rests on none"


def test_the_better_static_arm_is_the_one_that_needs_fewer_calls_as_far_as_the_runs_tell() -> None:
    assert better(Figure(30), Figure(24)) == Figure(24)
    assert better(None, Figure(24)) == Figure(24)
    assert better(Figure(24, ">="), Figure(30)) == Figure(30, "<="), "the first may need 25 or 300"
    assert better(Figure(48, ">="), Figure(30)) == Figure(30)
    assert better(Figure(24, ">="), Figure(48, ">=")) == Figure(24, ">=")


def test_the_price_of_calls_lies_between_those_of_the_budgets_around_it() -> None:
    costs = {12: 1.0, 24: 2.0, 48: 8.0}
    assert price_at(Figure(36), costs) == Figure(pytest.approx(5.0))
    assert price_at(Figure(12, "<="), costs) == Figure(1.0, "<=")
    assert price_at(Figure(48, ">="), costs) == Figure(8.0, ">=")


def test_the_interval_of_a_median_holds_it_and_follows_its_seed() -> None:
    values = [0.1, 0.2, 0.2, 0.3, 0.4, 0.4, 0.5, 0.9]
    low, high = interval(values)
    assert 0.1 <= low < 0.35 < high <= 0.9 and (low, high) == interval(values)


def test_no_figure_is_printed_that_was_not_run() -> None:
    assert report([]) == "No run is finished yet."
    runs = [run_of("static even", 12, 0.2), run_of("static even", 24, 0.9), run_of("screening", 6, 0.9)]
    said = report(runs, list(ARMS))
    tables = said[: said.index("## Not run")]
    assert not any(line.startswith("| static even, drawn by loss") for line in tables.splitlines()), "nobody ran it"
    assert "| screening | 0.90 (0.90-0.90) | - | - |" in said, "budgets that were not run are gaps"
    assert "Bases of 1 seeds" in said and "## p = 1/20" in said and "## p = 1/3" not in said
    rows = row_of(said, "| screening | 0.8")
    assert rows[2:4] == ["1", "<= 6 (1 of 1 bounds)"] and rows[5] == "-", "no ratio to an arm without runs"


def test_a_bar_is_held_only_by_runs_and_says_by_how_many_seeds() -> None:
    static = [run_of("static even", calls, gap, s) for s in range(8) for calls, gap in ((96, 0.1), (192, 0.9))]
    runs = static + [run_of("screening", calls, gap, s) for s in range(8) for calls, gap in ((6, 0.1), (12, 0.9))]
    said = report(runs)
    bar = "| screening: calls beside the better static arm | 1/20 "
    assert row_of(said, bar)[2:] == ["<= 0.15", "0.0625 [0.0625, 0.0625]", "8", "held"]
    assert row_of(said, "| screening: calls beside the better static arm | 1/3 ")[2:] == ["<= 0.8", "-", "0", "not run"]
    assert (
        row_of(said, "| screening, 20 % wrong looks: total price beside the better static arm | 1/20")[-1] == "not run"
    )
    assert row_of(said, "| screening: calls beside static even | 1/20 ")[-1] == "held"
    assert row_of(said, "| 1/20 | 0.050")[2:4] == ["0.0625 [0.0625, 0.0625]", "1.3 p"]
    few = report(runs[:18])  # 16 static runs, one screened seed
    assert row_of(few, bar)[-1] == "not decided: held so far, 1 of 8 seeds"
    late = [run_of("screening", 192, 0.2, seed) for seed in range(8)]
    assert row_of(report(static + late), bar)[-1] == "not held", "over 192 calls, whatever the bound hides"
    early = [run_of("screening", 96, 0.9, seed) for seed in range(8)]
    assert row_of(report(static + early), bar)[-1] == "undecided: a bound", "6 calls may have been enough"
    short = [run_of("screening", 24, 0.2, seed) for seed in range(8)]
    no_worse = "| screening: calls beside static even | 1/20 "
    assert row_of(report(static + short), no_worse)[-1] == "undecided: a bound", "it may need 400"
    assert row_of(report(static + late), no_worse)[-1] == "not held"


def test_an_arm_that_loses_the_rest_is_named() -> None:
    runs = [run_of("static even", 12, 0.5, seed, known=0.98) for seed in range(4)]
    said = report([*runs, *(run_of("screening", 12, 0.9, seed, known=0.9) for seed in range(4))])
    assert row_of(said, "| screening | 4 | -0.080")[-1] == "loses beside its base and static even"
    assert row_of(said, "| static even | 4 | +0.000")[-1] == "no loss over the interval"


def test_hidden_candidates_are_told_by_round_and_by_who_wrote_them() -> None:
    def row(screened: int, hidden: int, children: int, of_children: int) -> dict:
        return {"screened": screened, "hidden": hidden, "children": children, "hidden_children": of_children}

    runs = [run_of("screening", calls, 0.9) for calls in (6, 12)] + [run_of("static even", 6, 0.1)]
    runs[0]["rounds"] = [row(40, 2, 0, 0), row(0, 0, 0, 0), row(20, 8, 10, 7)]
    runs[1]["rounds"] = [row(40, 2, 0, 0), row(20, 10, 10, 8)]
    lines = hidden_table(runs, "1/20")
    told = [[cell.strip().split(" [")[0] for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert told == [
        ["screening", "1", "0.05", "-", "0.05"],
        ["screening", "2", "0.50", "0.80", "0.20"],
        ["screening", "3", "0.40", "0.70", "0.10"],
    ]
    assert "(4 of 80)" in lines[2] and "static even" not in "".join(lines)
    assert hidden_table(runs, "1/3") == ["No candidate was looked at."] and lines[0] in report(runs)


def test_draws_by_loss_differ_in_nothing_else_from_their_pair() -> None:
    for plain in ("screening", "screening, 20 % wrong looks"):
        first, second = ARMS[plain], ARMS[f"{plain}, drawn by loss"]
        assert first.error_rate == second.error_rate and first.policy is not None and second.policy is not None
        policies = [arm.policy(WORLDS["1/20"]) for arm in (first, second)]
        assert [policy.most_losses > 0 for policy in policies] == [False, True]  # type: ignore[attr-defined]
        assert policies[0].mastery == policies[1].mastery  # type: ignore[attr-defined]


@pytest.mark.slow
def test_every_arm_of_the_claim_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = replace(WORLDS["1/3"], pretraining_images=16, pretraining_steps=4)
    monkeypatch.setitem(WORLDS, "1/3", tiny)
    for name, value in (("STEPS", 4), ("ROUNDS", 2)):
        monkeypatch.setattr(gap_run, name, value)
    for name in ("GAP_IMAGES", "KNOWN_IMAGES"):
        monkeypatch.setattr(gap_student, name, 2)
    for arm in gap_plan.CLAIM:
        result = gap_run.run("1/3", arm, 6, 1000, tmp_path)
        assert 0 < result["bought"] <= 6, arm
        assert (result["looks"] > 0) == (ARMS[arm].policy is not None), arm
        assert result["base"] == json.loads((tmp_path / "base-1of3-1000" / "base.json").read_text())


def test_the_report_says_what_was_not_run() -> None:
    done = [run_of(arm, calls, 0.5, seed, world) for world, arm, calls, seed in gap_plan.claim() if seed != 3]
    said = report(done, list(ARMS))
    assert "Of the 120 runs behind the claim (p = 1/3), 15 are missing." in said
    assert "- p = 1/3, screening, not run: 6 calls (seed 3), 12 calls (seed 3), 24 calls (seed 3)." in said
    assert "- p = 1/20: nothing was run." in said and "- p = emoji 1/7: nothing was run." in said
    assert "48 calls (all seeds)" in said and "no run of: static even, throttled by loss;" in said
    trial = report([*done, run_of("screening", 6, 0.123, 1000, "1/3")], list(ARMS))
    assert "0.12" not in trial.split("## Not run")[0] and "1 runs are left out" in trial
    over = [run_of("screening", calls, 0.99, seed) for calls in (6, 12, 24, 48, 96) for seed in range(8)]
    assert not any("1/20, screening, not run" in line for line in gap_plan.not_run(over, list(ARMS))), "may stop at 96"
    assert tuple(WORLDS) == gap_plan.WORLDS and set(gap_plan.CLAIM) <= set(ARMS)


def test_figures_below_the_gate_are_marked() -> None:
    base = {"gap": 0.0, "known": 0.9, "reached": False}
    said = report([{**run_of(arm, 12, 0.9, world="emoji 1/7"), "base": base} for arm in ("static even", "screening")])
    assert "BELOW THE GATE of 0.97: seeds 0" in said
    assert row_of(said, "| screening: calls beside static even | emoji 1/7")[-1].endswith("below the gate")
    assert row_of(said, "| emoji 1/7, below the gate")[1] == "0.143"


def test_finished_runs_outlive_whatever_ends_the_writing_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs.json"
    unknown_gaps.add(run_of("screening", 6, 0.9), out)

    def ends(self: Path, text: str, encoding: str) -> int:
        with self.open("w", encoding=encoding) as file:
            file.write(text[:40])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", ends)
    with pytest.raises(KeyboardInterrupt):
        unknown_gaps.add(run_of("screening", 12, 0.9), out)
    assert [run["calls"] for run in unknown_gaps.load(out)] == [6]


def test_a_grid_goes_on_where_it_stopped_and_draws_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs.json"
    out.write_text(json.dumps([run_of("screening", 6, 0.9)]))
    asked: list[gap_plan.Job] = []
    monkeypatch.setattr(unknown_gaps, "_one", lambda job, *rest: asked.append(job))
    monkeypatch.setattr(unknown_gaps, "_base", lambda *base: None)
    words = ["x", "--worlds", "1/20,1/50", "--arms", "screening;screening, tiny VLM", "--budgets", "6,12"]
    monkeypatch.setattr("sys.argv", [*words, "--seeds", "0", "--out", str(out)])
    unknown_gaps.main()
    assert [(world, arm, calls) for world, arm, calls, _ in asked] == [
        ("1/20", "screening", 12), ("1/20", "screening, tiny VLM", 6), ("1/20", "screening, tiny VLM", 12),
        ("1/50", "screening", 6), ("1/50", "screening", 12),
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert "| screening | 0.90 (0.90-0.90) |" in said and "p 1/50, screening, tiny VLM: left out" in said
    assert len(gap_plan.claim()) == 8 * 5 * 3 and len({job[3] for job in gap_plan.claim()}) == 8
    monkeypatch.setattr("sys.argv", ["x", "--report", "--out", str(out), "--pictures", str(tmp_path / "pictures")])
    unknown_gaps.main()
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["unknown_gaps.png"]
    monkeypatch.setattr(
        "sys.argv", ["x", "--report", "--out", str(tmp_path / "none"), "--pictures", str(tmp_path / "p")]
    )
    unknown_gaps.main()
    assert not (tmp_path / "p").exists(), "no run, no picture"


def test_a_grid_in_which_runs_failed_does_not_end_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls = json.loads(command[command.index("--one") + 1])[2]
        done = json.dumps(run_of("screening", calls, 0.5))
        return subprocess.CompletedProcess(command, int(calls == 12), done, "no room left")

    monkeypatch.setattr(unknown_gaps.subprocess, "run", run)
    monkeypatch.setattr(unknown_gaps, "_base", lambda *base: None)
    words = ["x", "--worlds", "1/20", "--arms", "screening", "--budgets", "6,12,24", "--seeds", "0"]
    monkeypatch.setattr("sys.argv", [*words, "--out", str(tmp_path / "runs.json")])
    with pytest.raises(SystemExit, match=r"1 of 3 runs failed"):
        unknown_gaps.main()
    assert "no room left" in capsys.readouterr().out
    assert {run["calls"] for run in unknown_gaps.load(tmp_path / "runs.json")} == {6, 24}


@pytest.mark.parametrize("name", [*[pytest.param(name, marks=pytest.mark.slow) for name in ("1/3", "1/10")], "1/20"])
def test_a_share_of_an_even_set_falls_into_the_gap_and_none_of_the_pretraining(name: str) -> None:
    world = WORLDS[name]
    p = share(world)
    assert p == pytest.approx(1 / float(name[2:]), rel=0.2)
    even = [world.hides(prompt.text) for prompt in GapPrompts(world, 384, 1).prompts()]
    assert sum(even) / len(even) == pytest.approx(p, abs=0.03)
    _check_pretraining(world, 200)
    held_out = {prompt.text for prompt in world.held_out().prompts()}
    assert sum(world.hides(text) for text in held_out) >= 30, "the gap has prompts to be measured on"


def _check_pretraining(world: GapWorld, count: int) -> None:
    known = GapPrompts(world, count, 1, gap=False).prompts()
    assert not any(world.hides(prompt.text) for prompt in known) and len({prompt.id for prompt in known}) == count
    assert not {prompt.text for prompt in world.held_out().prompts()} & {prompt.text for prompt in known}


def test_an_even_set_buys_known_texts_as_images_of_their_own() -> None:
    world = WORLDS["1/20"]
    known = {prompt.id for prompt in GapPrompts(world, 400, 0, gap=False).prompts()}
    listed = GapPrompts(world, 60, 1).prompts()
    assert known & {prompt.id for prompt in listed}, "nothing would be shown"
    bought = bought_anew(listed)
    assert [prompt.text for prompt in bought] == [prompt.text for prompt in listed]
    assert len({prompt.id for prompt in bought} - known) == 60


@pytest.fixture
def emoji(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmojiGap:
    monkeypatch.setenv("EVOLVEDIRECTOR_CACHE", str(fake_cache(tmp_path)))
    return EmojiGap("emoji 1/3", frozenset({"fox"}), concepts=["fox", "frog", "pizza", "eggplant", "rocket", "key"])


def test_a_gap_of_concepts_is_left_out_of_the_pretraining_and_read_exactly(emoji: EmojiGap) -> None:
    assert emoji.words() == ["fox"] and emoji.hides("a fox left of a pizza") and not emoji.hides("a pizza and a key")
    even = [emoji.hides(prompt.text) for prompt in GapPrompts(emoji, 300, 1).prompts()]
    assert sum(even) / len(even) == pytest.approx(share(emoji), abs=0.03) and 0.1 < share(emoji) < 0.4
    _check_pretraining(emoji, 60)
    prompts = GapPrompts(emoji, 12, 1).prompts()
    requests = [ImageRequest(p.id, p.text, n, 48, 48) for n, p in enumerate(prompts)]
    images = [reply.image or b"" for reply in emoji.teacher().generate(requests)]
    items = [ImageAndPrompt(p.id, image, p.text) for p, image in zip(prompts, images, strict=True)]
    assert {reading_of(look) for look in emoji.judge().check(items)} == {"shows"}
    wrong = [reading_of(look) for look in emoji.judge(0.5, seed=1).check(items)]
    assert "lacks" in wrong and "shows" in wrong, "half of the looks are wrong"
    assert wrong == [reading_of(look) for look in emoji.judge(0.5, seed=1).check(items)]
    always, pair = emoji.judge(1.0), OrderedPair("pair", images[0], images[1], prompts[0].text)
    assert isinstance(always, ErringJudge) and next(iter(always.look([pair]))).probability < 0.5, "the first fits"
    with pytest.raises(UserError, match="does not know the concepts"):
        emoji.vlm()


def test_the_tiny_vlm_judges_the_worlds_whose_words_it_knows() -> None:
    arm = ARMS["screening, tiny VLM"]
    assert [name for name, world in WORLDS.items() if arm.runs_in(world)] == ["1/3", "1/10", "1/20"]
    assert "TransformersJudge" in type(arm.judge(WORLDS["1/20"], 0)).__name__


def test_an_ablation_lacks_one_piece_and_runs_only_where_it_is_named() -> None:
    ablations = {name: arm for name, arm in ARMS.items() if arm.ablation}
    assert list(ablations) == ["screening, one look", "screening, fixed candidates", "screening, no share by yield"]
    world, whole = WORLDS["1/20"], ARMS["screening, 20 % wrong looks"]
    names = {arm.policy(world).fingerprint for arm in (whole, *ablations.values()) if arm.policy}
    assert len(names) == 4 and {arm.error_rate for arm in ablations.values()} == {0.2}
    jobs = unknown_gaps._grid(["1/20"], list(ablations), [6], [1000])
    assert [job[1] for job in jobs] == list(ablations)
