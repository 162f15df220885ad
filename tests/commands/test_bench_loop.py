"""`evolvedirector bench` measures the loop of a run as `fit` would hold it, and buys nothing that nobody asked for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest
import yaml

from evolvedirector.callbacks import EvolutionCallback, RunSummary
from evolvedirector.cli import main
from evolvedirector.commands.bench_loop import LoopPlan, keep_apart, loop_plan
from evolvedirector.commands.bench_loop_figures import LoopFigures, PartRate, bought_told, not_in_books
from evolvedirector.commands.bench_shown import play_money
from evolvedirector.evolution.budget import Budget
from evolvedirector.execution.metered import Asked, Meter
from evolvedirector.planning.unasked import AskingCost
from evolvedirector.records import Prompt, RevisionChange, WriteRequest
from evolvedirector.report.loop_money import LoopMoney, Spent
from evolvedirector.store import DatasetStore
from evolvedirector.writers import SkillWriter
from tests.callbacks.test_evolution_resume import Run
from tests.lightning_modules.tiny_student import student_tree
from tests.loop_toys import IMAGE_S, LOOK_S, FreeJudge, FreeTeacher, Paid, Rule, SilentWriter
from tests.teachers.tiny_pipelines import save_tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")
TOYS = "tests.loop_toys"
SEEDS, BATCHES = 6, 3


def config(here: Path, **settings: Any) -> Path:
    """Write a run of the toy world whose parts take 20 ms an image and 10 ms a look."""
    parts = {"teacher": "FreeTeacher", "judge": "FreeJudge", "writer": "FreeWriter", "trainer": {}, **settings}
    evolution = {
        "teachers": {"toy": {"class_path": f"{TOYS}.{parts['teacher']}"}},
        "judge": {"class_path": f"{TOYS}.{parts['judge']}"},
        "writer": {"class_path": f"{TOYS}.{parts['writer']}"},
        "policy": {"class_path": f"{TOYS}.Rule"},
        "budget": {"budget_teacher_calls": 100},
        "judge_health": False,
        **settings.get("evolution", {}),
    }
    (here / "seeds.txt").write_text("".join(f"tone {tone * 7}\n" for tone in range(SEEDS)))
    data = {"root": str(here / "data"), "global_batch_size": 4, "batches_per_epoch": BATCHES, "image_size_px": 8}
    tree = {
        "seed_everything": 0,
        "model": settings.get("model", {"class_path": "tests.toys.ToyStudent"}),
        "data": {
            "class_path": "evolvedirector.datamodules.EvolvingDataModule",
            "init_args": {**data, "seeds": str(here / "seeds.txt"), **settings.get("data", {})},
        },
        "trainer": {
            "default_root_dir": str(here / "run"), "accelerator": "cpu", "max_epochs": 5,
            "reload_dataloaders_every_n_epochs": 1,
            "callbacks": [{"class_path": "evolvedirector.callbacks.EvolutionCallback", "init_args": evolution}],
            **parts["trainer"],
        },
    }  # fmt: skip
    (here / "loop.yaml").write_text(yaml.safe_dump(tree))
    return here / "loop.yaml"


def measured(here: Path, *words: str, code: int = 0, **settings: Any) -> dict[str, Any]:
    """Run the bench and return the figures of the loop; nothing else is left in the folder."""
    path = config(here, **settings)
    assert (main(["bench", "-c", str(path), "--steps", "1", "--json", str(here / "figures.json"), *words]) or 0) == code
    assert sorted(file.name for file in here.iterdir()) == ["figures.json", "loop.yaml", "seeds.txt"]
    return json.loads((here / "figures.json").read_text())["loop"]


@pytest.fixture(autouse=True)
def nobody_has_paid() -> None:
    Paid.calls.clear()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["between_epochs", "background"])
def test_rates_idle_time_and_money_are_those_of_parts_of_known_cost(
    tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = measured(tmp_path, "--mode", mode)
    teacher, judge, writer = (loop["parts"][name] for name in ("teachers.toy", "judge", "writer"))
    # nobody is faster than it can be; how much the loop adds hangs on the machine and its disk
    for part, seconds in ((teacher, IMAGE_S), (judge, LOOK_S)):
        assert 0.1 / seconds < part["per_s"] == part["answers"] / part["seconds"] <= 1 / seconds
    assert teacher["what"] == "images" and judge["what"] == "looks" and writer["answers"] > 0
    round, epoch, money = loop["round"], loop["epoch"], loop["money"]
    # the published rule looks at the six seeds once; the student draws at once
    assert judge["answers"] == SEEDS and money["whole"]["looks"] == SEEDS
    bought = money["rounds"]["images"]
    assert teacher["answers"] == money["whole"]["images"] == SEEDS + bought
    assert money["whole"]["accepted"] == SEEDS + money["rounds"]["accepted"]
    assert money["whole"]["per_accepted_sample"]["looks"] == SEEDS / money["whole"]["accepted"]
    assert loop["mode"] == mode and round["epochs_beside"] == (mode == "background")
    assert round["idle_s"] == pytest.approx(sum(round["at_ends_of_epochs_s"]) - round["drawing_s"])
    assert round["phases_s"]["judging"] >= SEEDS * LOOK_S and round["phases_s"]["teaching"] >= bought * IMAGE_S
    assert 0 < epoch["idle_share"] <= 1 and 0 < round["idle_share"] <= 1
    if mode == "between_epochs":
        assert round["idle_s"] >= SEEDS * LOOK_S + bought * IMAGE_S
        assert round["idle_share"] == pytest.approx(round["idle_s"] / round["seconds"])
    assert set(loop["peak_bytes"]) == {"kind", "training", "drawing", "judging", "teaching", "writing"}
    assert loop["peak_bytes"]["kind"] == "resident memory of the process" and loop["peak_bytes"]["judging"] > 2**20
    said = " ".join(capsys.readouterr().out.split())
    assert "images/s (" in said and "Nothing was bought" in said and f"mode {mode}" in said


def test_paid_parts_are_never_asked_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = measured(tmp_path, teacher="PaidTeacher", writer="SilentWriter")
    assert not Paid.calls
    assert loop["parts"]["teachers.toy"]["per_s"] is None and loop["round"] is None
    assert loop["parts"]["judge"]["per_s"] > 0, "the free judge is measured all the same"
    said = " ".join(capsys.readouterr().out.split())
    assert "not measured: 0.04 USD an image; ask with --calls N" in said
    assert "price of a prompt unknown; ask with --calls N" in said and "Nothing was bought" in said


@pytest.mark.parametrize("words", [["--without-loop"], []], ids=["steps", "loop"])
def test_nothing_is_pushed_to_where_a_run_publishes(tmp_path: Path, words: list[str]) -> None:
    """Noise pictures and a shortened round would be the newest revision of everybody who reads there."""
    here, shared = tmp_path / "here", tmp_path / "shared"
    here.mkdir()
    shared.mkdir()
    path = config(here, teacher="PaidTeacher", data={"remote": f"file://{shared}/root"})
    assert not main(["bench", "-c", str(path), "--steps", "1", *words])
    assert not list(shared.iterdir())


@pytest.mark.slow
def test_a_free_teacher_is_measured_beside_a_paid_judge(tmp_path: Path) -> None:
    loop = measured(tmp_path, judge="PaidJudge")
    assert not Paid.calls and loop["parts"]["judge"]["per_s"] is None
    assert loop["parts"]["teachers.toy"]["answers"] == SEEDS and loop["parts"]["writer"]["per_s"] > 0
    assert loop["problem"].startswith("judge may cost money and was not asked")


@pytest.mark.slow
def test_paid_parts_are_asked_as_often_as_is_said_and_the_money_is_told_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = {"policy": {"class_path": f"{TOYS}.Rule", "init_args": {"children": 9}}}
    paid = {"teacher": "PaidTeacher", "judge": "PaidJudge", "writer": "SilentWriter"}
    loop = measured(tmp_path, "--calls", "5", **paid, evolution=many)
    assert Paid.calls["images"] == 5 and Paid.calls["prompts"] == 5, "of at least 18 that the round would ask for"
    assert 0 < Paid.calls["looks"] <= 5
    money = loop["money"]["whole"]
    assert money["images"] == Paid.calls["images"] and money["looks"] == Paid.calls["looks"]
    assert money["cost_usd"] == pytest.approx(Paid.calls["images"] * 0.04 + Paid.calls["looks"] * 0.001)
    said = " ".join(capsys.readouterr().out.split())
    asking = said.index("teachers.toy: at most 5 images x 0.04 USD = 0.20 USD")
    assert asking < said.index(" USD, and what writer may charge") < said.index("parts of a round")
    assert "--calls kept" in said and "answers of paid parts were bought" in said


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ([AskingCost(True, 0.04, is_play=True), AskingCost(True, 0.0)], "0.5 USD of play money, 2.00 images"),
        ([AskingCost(True, 0.04, is_play=True), AskingCost(False, 0.1)], "0.5 USD, play money included, 2.00 images"),
        ([AskingCost(False, 0.1)], "0.5 USD, 2.00 images asked for, 3.0 looks (2 accepted of 4)"),
    ],
)
def test_play_money_is_called_so_and_paid_money_is_not(costs: list[AskingCost], said: str) -> None:
    parts = [PartRate(f"teachers.{number}", cost) for number, cost in enumerate(costs)]
    figures = LoopFigures(parts, money=LoopMoney(Spent(4, 6, 1.0, 2), None))
    assert said in figures.rows()["an accepted sample"]["seeds and rounds"]


@pytest.mark.slow
def test_a_run_that_holds_no_round_says_why(tmp_path: Path) -> None:
    loop = measured(tmp_path, trainer={"max_epochs": 1})
    assert "training ended before one was due" in loop["problem"] and loop["round"] is None
    assert loop["parts"]["teachers.toy"]["answers"] == SEEDS, "the seeds were bought"


@pytest.mark.slow
def test_what_ends_the_round_is_told_beside_the_figures_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = measured(tmp_path, code=1, data={"seeds": None})
    assert "has no revision. Allowed is one of both" in loop["problem"] and loop["round"] is None
    assert "images/s" in capsys.readouterr().out and json.loads((tmp_path / "figures.json").read_text())["train"]


@pytest.mark.slow
def test_a_run_that_only_trains_has_no_loop(tmp_path: Path) -> None:
    loop = measured(tmp_path, evolution={"budget": {"budget_teacher_calls": 0}})
    assert loop["problem"] == "budget_teacher_calls is 0, so this run only trains" and not loop["parts"]


@pytest.mark.slow
def test_a_round_before_the_first_step_belongs_to_no_epoch(tmp_path: Path) -> None:
    loop = measured(tmp_path, evolution={"first_rounds": 2, "max_rounds": 2})
    assert loop["round"]["idle_share"] > 0 and loop["epoch"] is None
    assert any("held before the first training step" in note for note in loop["notes"])


@pytest.mark.slow
def test_a_root_without_seeds_lends_its_prompts_and_is_not_touched(tmp_path: Path) -> None:
    root = tmp_path / "elsewhere"
    with DatasetStore(root, create=True) as store:
        prompts = tuple(Prompt.create(f"tone {tone}") for tone in (10, 20, 30))
        store.publish(None, "import", RevisionChange(prompts=prompts))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    here = tmp_path / "here"
    here.mkdir()
    loop = measured(here, data={"root": str(root), "seeds": None})
    assert loop["money"]["whole"]["images"] >= 3 and loop["round"] is not None
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.slow
def test_more_seeds_than_images_are_left_out_and_told(tmp_path: Path) -> None:
    loop = measured(tmp_path, "--images", "2")
    assert loop["money"]["whole"]["images"] <= 4 and loop["notes"][0].startswith("2 of 6 seed prompts")


def test_a_finished_run_is_read_at_no_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, max_epochs=2, judge_health=False, callbacks=[RunSummary()]).fit()
    asked, books = len(run.teacher.asked), (run.root / "ledger.sqlite").read_bytes()
    assert main(["bench", "--run", str(tmp_path), "--json", str(tmp_path / "figures.json")]) == 0
    loop = json.loads((tmp_path / "figures.json").read_text())["loop"]
    whole, parts, times = loop["money"]["whole"], loop["parts"], loop["times_of_last_process"]
    assert (parts["teachers.toy"]["answers"], parts["judge"]["answers"]) == (asked, run.judge.asked)
    assert parts["judge"]["per_s"] == parts["judge"]["answers"] / parts["judge"]["seconds"]
    assert times["rounds"] == 1 and 0 < times["drawing_s"] < times["rounds_s"] < times["wall_s"]
    assert whole["images"] == asked and whole["looks"] == run.judge.asked and whole["accepted"] > 0
    assert len(run.teacher.asked) == asked and (run.root / "ledger.sqlite").read_bytes() == books
    said = " ".join(capsys.readouterr().out.split())
    assert f"accepted of {asked})" in said and "looks/s (" in said and "idle in a round" in said


@pytest.mark.parametrize(
    ("summary", "code", "said"),
    [
        ('{"loop": {"parts": {"judge": 3}}}', 2, "summary.json of"),
        ('{"rounds": 1}', 0, "was not noted by this run, which an earlier version held"),
    ],
)
def test_a_run_of_an_earlier_version_or_a_damaged_one(
    tmp_path: Path, summary: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with DatasetStore(tmp_path / "data", create=True) as store:
        store.publish(None, "import", RevisionChange(prompts=(Prompt.create("tone 1"),)))
    (tmp_path / "summary.json").write_text(summary)
    assert (main(["bench", "--run", str(tmp_path)]) or 0) == code
    shown = capsys.readouterr()
    assert said in " ".join((shown.out + shown.err).split())


def test_a_run_without_books_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "summary.json").write_text("{}")
    assert main(["bench", "--run", str(tmp_path)]) == 2
    assert "has no dataset with books" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_pipeline_of_diffusers_is_measured_as_it_draws_for_a_round(tmp_path: Path) -> None:
    """A tiny real one draws, the embedded judge looks at it, a tiny real student trains."""
    pipelines = tmp_path / "pipelines"
    here = tmp_path / "here"
    here.mkdir()
    student = student_tree(sample_size=32, patch_size=8, layers=1, head_dim=8)
    student["init_args"]["image_size_px"] = 32
    extra = {"use_resolution_binning": False, "clean_caption": False}
    options = {"model": str(save_tiny("pixart", pipelines)), "dtype": "float32", "num_inference_steps": 2}
    teacher = {
        "class_path": "evolvedirector.teachers.DiffusersTeacher",
        "init_args": {**options, "device": "cpu", "batch_size": 2, "extra": extra},
    }
    shapes = "evolvedirector.worlds.shapes"
    evolution = {"teachers": {"pixart": teacher}, "judge": {"class_path": f"{shapes}.MiniatureJudge"}}
    evolution["writer"] = {"class_path": f"{shapes}.MiniatureWriter"}
    (here / "shapes.txt").write_text("a red circle\na blue square\ntwo green circles\n")
    data = {"seeds": str(here / "shapes.txt"), "image_size_px": 32}
    path = config(here, model=student, evolution=evolution, data=data)
    assert not main(["bench", "-c", str(path), "--steps", "1", "--json", str(here / "figures.json")])
    loop = json.loads((here / "figures.json").read_text())["loop"]
    drawn = loop["parts"]["teachers.pixart"]
    assert drawn["is_free"] and drawn["per_s"] > 0 and drawn["answers"] == loop["money"]["whole"]["images"] >= 3
    assert drawn["first_answer_s"] < drawn["seconds"] and drawn["works"] == "here"
    assert loop["money"]["whole"]["cost_usd"] == 0 and loop["round"]["phases_s"]["judging"] > 0
    assert loop["peak_bytes"]["teaching"] > 2**20


def skill_writer(here: Path) -> SkillWriter:
    """Return one over a paid writer, which it asks for 20 texts at a time."""
    skill = here / "tones.yaml"
    skill.write_text(json.dumps({"name": "tones", "seeds": ["tone of a bell"], "rules": ["Be short."]}))
    return SkillWriter(SilentWriter(), [str(skill)], here / "prompts", rouge_limit=1.0)


def test_a_writer_of_skills_asks_no_more_than_is_said_and_leaves_its_folder_alone(tmp_path: Path) -> None:
    writer = skill_writer(tmp_path)
    asked = [WriteRequest(f"w{count}", "mutation", None, "tones", count, 0) for count in (3, 9)]
    assert len(next(iter(writer.write(asked[:1]))).texts) == 3
    before = (tmp_path / "prompts" / "tones.jsonl").read_bytes()
    Paid.calls.clear()
    plan = loop_plan([callback(writer, tmp_path)], calls=5)
    assert isinstance(plan, LoopPlan)
    meter = Meter(plan.limits())
    keep_apart(writer, meter, tmp_path / "apart")
    wanted = WriteRequest("more", "mutation", None, "tones", 40, 0)
    (reply,) = writer.write([wanted])
    assert Paid.calls["prompts"] == 5 and meter.withheld["writer.writer"] > 0
    assert 20 <= len(reply.texts) <= 25 and reply.answered, "what was kept, and what the limit left"
    assert (tmp_path / "prompts" / "tones.jsonl").read_bytes() == before
    assert (tmp_path / "apart" / "tones.jsonl").read_bytes().startswith(before)


def test_a_writer_of_skills_on_a_cluster_cannot_be_held_apart(tmp_path: Path) -> None:
    cluster = SimpleNamespace(placed={"writer"})
    said = loop_plan([callback(skill_writer(tmp_path), tmp_path, cluster=cluster)], calls=5)
    assert isinstance(said, str) and "SkillWriter works on the cluster" in said


def callback(writer: SkillWriter, here: Path, cluster: Any = None) -> EvolutionCallback:
    found = EvolutionCallback({"toy": FreeTeacher()}, FreeJudge(), writer, Rule(), Budget(10), judge_health=False)
    found.cluster = cluster
    return found


def test_what_no_ledger_holds_is_told() -> None:
    free, paid, asked = AskingCost(True, 0.0), AskingCost(False, None), [Asked("x", 3, 3, 1.0, 0.5)]
    named = [PartRate("teachers.toy", paid, asked), PartRate("judge", paid, asked), PartRate("rewards.a", free, asked)]
    assert not_in_books([*named, PartRate("embedder", paid)]) == []
    (said,) = not_in_books([*named, PartRate("writer", paid, asked), PartRate("rewards.b", paid, asked)])
    assert said.startswith("What writer, rewards.b took is in no ledger")


@pytest.mark.parametrize(
    ("teachers", "judge", "price_usd", "said"),
    [
        (["worlds.shapes.MiniatureTeacher"], "judges.OpenAIVisionJudge", 0.0, " of play money"),
        (["worlds.shapes.MiniatureTeacher"], "judges.OpenAIVisionJudge", 0.01, ", play money included"),
        (["worlds.shapes.MiniatureTeacher"], "worlds.shapes.MiniatureJudge", 0.01, " of play money"),
        (["worlds.emoji.EmojiTeacher", "teachers.BFLTeacher"], "judges.PanelJudge", 0.0, ", play money included"),
        (["teachers.BFLTeacher"], "worlds.shapes.MiniatureJudge", 0.0, ""),
    ],
)
def test_play_money_of_a_finished_run_is_called_so(
    teachers: list[str], judge: str, price_usd: float, said: str
) -> None:
    arguments = {
        "teachers": {name: {"class_path": f"evolvedirector.{name}"} for name in teachers},
        "judge": {"class_path": f"evolvedirector.{judge}"},
        "budget": {"price_per_look_usd": price_usd},
    }
    callbacks = [{"class_path": "evolvedirector.callbacks.RunSummary"}, {"class_path": "x", "init_args": arguments}]
    assert play_money({"trainer": {"callbacks": callbacks}}) == said


@pytest.mark.parametrize(
    "config", [{}, {"trainer": None}, {"trainer": {"callbacks": [3]}}, {"trainer": {"callbacks": None}}]
)
def test_a_config_that_says_nothing_of_money(config: dict[str, Any]) -> None:
    assert play_money(config) == ""


def test_a_paid_part_that_answers_nothing_is_not_called_unasked() -> None:
    free, paid = AskingCost(True, 0.0), AskingCost(False, 0.04)
    silent = Asked("teachers.toy", 3, 0, 1.0, None)
    assert bought_told([PartRate("teachers.toy", free, [silent])]) == "Nothing was bought"
    assert bought_told([PartRate("teachers.toy", paid, [])]) == "Nothing was bought"
    assert bought_told([PartRate("teachers.toy", paid, [silent])]).startswith("3 requests went to paid parts")
    answered = Asked("judge", 3, 2, 1.0, 0.5)
    both = [PartRate("teachers.toy", paid, [silent]), PartRate("judge", paid, [answered])]
    assert bought_told(both) == "2 answers of paid parts were bought"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-c", "x.yaml", "--calls", "0"], "--calls is 0. Allowed is 1 or more"),
        (["-c", "x.yaml", "--images", "-1"], "--images is -1"),
        (["-c", "x.yaml", "--epoch-batches", "0"], "--epoch-batches is 0"),
        (["--run", "nowhere"], "'nowhere' is no folder"),
        (["--run", "nowhere", "-c", "x.yaml"], "-c x.yaml beside it means nothing"),
    ],
)
def test_bad_input_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
