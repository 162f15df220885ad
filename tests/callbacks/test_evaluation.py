"""One callback measures all suites: in training, and alone in `validate`, where it prints a table and keeps JSON."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evolvedirector.callbacks import EvaluationCallback, RunSummary, evaluation
from evolvedirector.evaluation.suites import GenEval, HeldOutAccuracy, RewardMeans, TeacherComparison
from evolvedirector.planning.roles import PlannedRun
from evolvedirector.records import Prompt, Score
from tests import toys
from tests.callbacks.held_out_toys import HeldOutData, trainer_of

HELD_OUT = [Prompt.create(f"tone {tone}", skill="dark" if tone < 100 else "light") for tone in (10, 20, 120, 125, 250)]
pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")


class Brightness:
    fingerprint = "brightness"

    def score(self, items):
        return (Score(item.item_id, toys.mean_tone(item.image)) for item in items)


class Data(HeldOutData):
    def __init__(self) -> None:
        super().__init__(HELD_OUT)


def student(tone: int = 122) -> toys.ToyStudent:
    module = toys.ToyStudent(learning_rate=0.0)
    torch.nn.init.constant_(module.line.bias, tone / 255)
    return module


def suites(**more) -> EvaluationCallback:
    listed = {
        "held_out": HeldOutAccuracy(toys.ToyJudge(), seeds_per_prompt=2),
        "win_rate": TeacherComparison(toys.ToyJudge(), {"toy": toys.ToyTeacher()}),
        "rewards": RewardMeans({"brightness": Brightness()}),
    }
    return EvaluationCallback({**listed, **more})


def test_a_validation_alone_measures_everything_and_says_so(tmp_path: Path, capsys) -> None:
    trainer_of(tmp_path, suites()).validate(student(), datamodule=Data(), verbose=False)
    said = capsys.readouterr().out
    lines = {tuple(line.split()[:2]): line for line in said.splitlines()}
    assert "95 % interval" in said and "[" in lines["held_out", "mean"] and "5 prompts" in lines["win_rate", "toy"]
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    assert figures["suites"]["rewards"]["brightness"]["value"] == pytest.approx(122)
    assert figures["suites"]["held_out"]["light"] == {
        "value": pytest.approx(2 / 3, abs=1e-6),
        "interval": figures["accuracy_interval"]["light"],
        "of": 3,
        "unit": "prompts",
    }
    assert (figures["loop"], figures["weights"], figures["evaluation_teacher_calls"]) == ("validate", "trained", 5)


def test_two_callbacks_make_one_table_and_one_file(tmp_path: Path, capsys) -> None:
    other = EvaluationCallback({"bright": RewardMeans({"brightness": Brightness()})})
    trainer = trainer_of(tmp_path, suites(), other)
    trainer.fit(student(), datamodule=Data())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    capsys.readouterr()
    trainer = trainer_of(tmp_path, suites(), other)
    trainer.validate(student(), datamodule=Data(), verbose=False, ckpt_path=str(tmp_path / "end.ckpt"))
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(figures["suites"]) == {"held_out", "win_rate", "rewards", "bright"}
    assert figures["global_step"] == 2 and figures["accuracy_mean"] is not None
    assert figures["win_rate_history"][-1]["global_step"] == 2
    assert capsys.readouterr().out.count("95 % interval") == 1


def test_suites_of_one_class_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Opposite(toys.ToyJudge):
        """Sees the contrary, so that no figure of the two is the same by chance."""

        fingerprint = "opposite"

        def look(self, pairs):
            return (replace(look, probability=1 - look.probability) for look in super().look(pairs))

        def check(self, items):
            return (replace(look, probability=1 - look.probability) for look in super().check(items))

    teacher = toys.ToyTeacher()
    logged: dict[str, float] = {}
    monkeypatch.setattr(evaluation, "log_figures", lambda trainer, figures: logged.update(figures))
    measured = suites(
        second=HeldOutAccuracy(Opposite(), seeds_per_prompt=2),
        win_rate=TeacherComparison(toys.ToyJudge(), {"toy": teacher}, budget_teacher_calls=4),
        other=TeacherComparison(Opposite(), {"toy": teacher, "new": toys.ToyTeacher("new")}, budget_teacher_calls=3),
    )
    later = EvaluationCallback({"third": HeldOutAccuracy(Opposite(), seeds_per_prompt=2)})
    trainer = trainer_of(tmp_path, measured, later, RunSummary())
    trainer.fit(student(), datamodule=Data())
    summary = json.loads((tmp_path / "summary.json").read_text())
    for name, prefix in (("held_out", ""), ("second", "second/"), ("third", "third/")):
        mean = summary["suites"][name]["mean"]["value"]
        assert summary[f"{prefix}accuracy_mean"] == mean == logged[f"{prefix}final_accuracy/mean"]
    assert summary["accuracy_mean"] != summary["second/accuracy_mean"]
    assert {"accuracy/mean", "second/accuracy/mean", "third/accuracy/mean"} <= set(trainer.callback_metrics)
    assert summary["win_rate_held_out"]["toy"] != summary["other/win_rate_held_out"]["toy"]
    assert logged["other/win_rate/toy"] == summary["other/win_rate_held_out"]["toy"]["win_rate"]
    # each has its budget, and an image that the first comparison bought is bought once
    assert (summary["evaluation_teacher_calls"], summary["other/evaluation_teacher_calls"]) == (4, 3)
    assert len(teacher.asked) == len(set(teacher.asked)) == 5
    assert [summary["other/win_rate_held_out"][name]["prompts"] for name in ("toy", "new")] == [5, 2]


@pytest.mark.parametrize("name", ["a/b", "..", ""])
def test_a_name_that_cannot_tell_two_suites_apart_is_refused(name: str, tmp_path: Path) -> None:
    held_out = HeldOutAccuracy(toys.ToyJudge())
    EvaluationCallback({name: held_out})  # alone it is no part of a key
    with pytest.raises(ValueError, match="is the second HeldOutAccuracy of the run"):
        EvaluationCallback({"held_out": held_out, name: held_out})
    trainer = trainer_of(
        tmp_path, EvaluationCallback({"a": held_out, "b": held_out}), EvaluationCallback({"a": held_out})
    )
    with pytest.raises(ValueError, match=r"suites\.a stands in two callbacks"):
        trainer.fit(student(), datamodule=Data())


def test_only_what_reads_the_loops_images_where_validate_shall_not_ask(tmp_path: Path) -> None:
    teacher = toys.ToyTeacher()
    listed = {
        "held_out": HeldOutAccuracy(toys.ToyJudge()),
        "win_rate": TeacherComparison(toys.ToyJudge(), {"toy": teacher}),
    }
    measured = EvaluationCallback(listed, in_validate=False)
    trainer = trainer_of(tmp_path, measured)
    trainer.fit(student(), datamodule=Data())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    asked = list(teacher.asked)
    trainer_of(tmp_path, measured).validate(student(), Data(), str(tmp_path / "end.ckpt"), verbose=False)
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(figures["suites"]) == {"held_out"} and teacher.asked == asked
    assert "win_rate_held_out" not in figures, "what the checkpoint remembers was measured at another time"


def test_training_leaves_the_table_in_the_summary_and_the_old_keys_beside_it(tmp_path: Path) -> None:
    trainer_of(tmp_path, suites(), RunSummary()).fit(student(), datamodule=Data())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["suites"]) == {"held_out", "win_rate", "rewards"}
    assert summary["accuracy_mean"] == summary["suites"]["held_out"]["mean"]["value"]
    assert summary["win_rate_held_out"]["toy"]["win_rate"] == summary["suites"]["win_rate"]["toy"]["value"]
    assert not (tmp_path / "evaluation.json").exists()


def test_a_reader_that_breaks_costs_its_suite_in_training_and_ends_a_validation(tmp_path: Path) -> None:
    class Broken(Brightness):
        def score(self, items):
            raise OSError("no reward")

    def broken() -> EvaluationCallback:
        return suites(rewards=RewardMeans({"brightness": Broken()}))

    measured = broken()
    with pytest.warns(UserWarning, match=r"The suite rewards of EvaluationCallback is left out.*no reward"):
        trainer_of(tmp_path, measured).fit(student(), datamodule=Data())
    assert set(measured.summary_entries()["suites"]) == {"held_out", "win_rate"}
    with pytest.raises(RuntimeError, match=r"The suite rewards .* broke off.*no reward"):
        trainer_of(tmp_path, broken()).validate(student(), datamodule=Data(), verbose=False)


def test_figures_that_cannot_be_made_cost_their_suite_only(tmp_path: Path) -> None:
    class Strange(RewardMeans):
        def figures(self, readings, sitting):
            raise ArithmeticError("no mean")

    measured = suites(rewards=Strange({"brightness": Brightness()}))
    with pytest.warns(UserWarning, match=r"rewards of EvaluationCallback is left out.*no mean"):
        trainer_of(tmp_path, measured).fit(student(), datamodule=Data())
    assert set(measured.summary_entries()["suites"]) == {"held_out", "win_rate"}


def test_figures_of_a_validation_that_cannot_be_made_do_not_end_a_training(tmp_path: Path) -> None:
    class Strange(HeldOutAccuracy):
        def figures(self, readings, sitting):
            raise ArithmeticError("no share")

    measured = EvaluationCallback({"held_out": Strange(toys.ToyJudge())})
    with pytest.warns(UserWarning, match=r"held_out of EvaluationCallback .*is left out.*no share") as told:
        trainer_of(tmp_path, measured).fit(student(), datamodule=Data())
    said = [str(warning.message) for warning in told if "is left out" in str(warning.message)]
    assert ["of this validation" in line for line in said] == [True, False]
    with pytest.raises(ArithmeticError):
        trainer_of(tmp_path, measured).validate(student(), datamodule=Data(), verbose=False)


def test_a_prompt_file_of_another_form_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a photo of a bench\n")
    measured = suites(geneval=GenEval(tmp_path / "prompts.txt", toys.ToyJudge()))
    trainer = trainer_of(tmp_path, measured)
    for run in (trainer.fit, trainer.validate):
        with pytest.raises(ValueError, match=r"is no file of GenEval: line 1 is no JSON object"):
            run(student(), datamodule=Data())
    assert trainer.global_step == 0


def test_the_plan_counts_looks_and_images_of_every_suite() -> None:
    measured = suites()
    run = PlannedRun(epochs=4, validations=2, held_out_prompts=5)
    looks = {reader.who: reader.looks for reader in measured.planned_looks(run)}
    assert looks == {
        "EvaluationCallback.suites.held_out.reader": 5 * 2 + 5 * 2,
        "EvaluationCallback.suites.win_rate.judge": 2 * 5,
        "EvaluationCallback.suites.rewards.rewards.brightness": 5,
    }
    planned = measured.planned_images()
    assert set(planned.teachers) == {"toy"} and planned.budget.teacher_budgets == {"toy": 64}
    (said,) = measured.plan_summary().values()
    assert said == "at most 64"
    (both,) = suites(again=TeacherComparison(toys.ToyJudge(), {"toy": toys.ToyTeacher()}, 10)).plan_summary().values()
    assert both == "at most 74", "every comparison counts"
    assert EvaluationCallback({"a": HeldOutAccuracy(toys.ToyJudge())}).planned_images().teachers == {}


@pytest.mark.parametrize(
    ("wrong", "said"), [({}, "suites is empty"), ({"judge": toys.ToyJudge()}, "suites.judge is a ToyJudge.*no suite")]
)
def test_what_is_no_suite_is_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EvaluationCallback(wrong)
