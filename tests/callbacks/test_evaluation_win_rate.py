import json
from collections import Counter
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from evolvedirector.callbacks import RunCheckpoint, RunSummary
from evolvedirector.callbacks.checkpoint import latest_committed
from evolvedirector.judges import CalibratedJudge
from evolvedirector.records import ImageReply, Look, Prompt
from tests import toys
from tests.callbacks.evolving_toy import Evolving
from tests.callbacks.measuring import win_rate

HELD_OUT = [Prompt.create(f"tone {tone}", skill="dark" if tone < 100 else "light") for tone in (10, 20, 130, 140, 150)]
pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")


class Data(pl.LightningDataModule):
    def held_out_prompts(self) -> list[Prompt]:
        return HELD_OUT

    def train_dataloader(self):
        batch = {"prompt": ["tone 0"], "image": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}
        return torch.utils.data.DataLoader([batch, batch], batch_size=None)


class Student(toys.ToyStudent):
    """Draws the tone 10 whatever is asked."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0)
        torch.nn.init.constant_(self.line.bias, 10 / 255)


class Constant(toys.ToyTeacher):
    """Draws one tone whatever is asked; refuses one prompt, fails at another."""

    def __init__(self, tone: int, refused: str = "", failed: str = "") -> None:
        super().__init__(f"constant {tone}", cost_usd=0.5)
        self.tone, self.refused, self.failed = tone, refused, failed

    def generate(self, requests):
        for request in requests:
            self.asked.append(request.prompt)
            status = {self.refused: "refusal", self.failed: "failure"}.get(request.prompt, "image")
            image = toys.flat_png(self.tone) if status == "image" else None
            yield ImageReply(request.request_id, status, image, cost_usd=self.cost_usd)


def fit(folder: Path, *callbacks: pl.Callback, ckpt: Path | None = None, **options) -> None:
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[*callbacks, RunCheckpoint()], **{"max_epochs": 2, **options},
    )  # fmt: skip
    trainer.fit(Student(), datamodule=Data(), ckpt_path=ckpt, weights_only=True if ckpt else None)


def test_the_student_is_compared_with_each_teacher(tmp_path: Path) -> None:
    teachers = {"exact": toys.ToyTeacher(), "white": Constant(255, refused="tone 20", failed="tone 140")}
    measured = win_rate(toys.ToyJudge(), teachers)
    fit(tmp_path, measured)
    entries = measured.summary_entries()
    exact, white = entries["win_rate_held_out"]["exact"], entries["win_rate_held_out"]["white"]
    # equally good images: the toy judge prefers the second place, so its two orders disagree, which is a tie
    assert (exact["win_rate"], exact["prompts"]) == (0.1, 5)
    assert exact["skills"]["dark"]["win_rate"] == 0.25 and exact["skills"]["light"]["win_rate"] == 0.0
    # |10 - tone| < |255 - tone| for 10, 130; not for 150
    assert (white["win_rate"], white["prompts"]) == (pytest.approx(2 / 3, abs=1e-6), 3)
    assert (white["refused"], white["failed"]) == (1, 1)
    assert white["interval"][0] < 2 / 3 < white["interval"][1]
    assert entries["evaluation_teacher_calls"] == 10 and entries["evaluation_cost_usd"] == 2.5


def test_later_readings_and_later_runs_ask_teachers_nothing_again(tmp_path: Path) -> None:
    teacher, judge = toys.ToyTeacher(), toys.ToyJudge()
    for epochs in (2, 3):
        fit(tmp_path, win_rate(judge, {"toy": teacher}, every_n_epochs=1), max_epochs=epochs)
    assert Counter(teacher.asked) == {prompt.text: 1 for prompt in HELD_OUT}
    assert judge.asked == 5 * 10, "each of the five readings looks at five pairs in both orders"


def test_a_run_that_is_over_reports_its_figures_again(tmp_path: Path, capsys) -> None:
    fit(tmp_path, RunSummary(), win_rate(toys.ToyJudge(), {"toy": toys.ToyTeacher()}))
    said = capsys.readouterr().out
    assert "Win rate against: toy 0.10 [0.01, 0.54] of 5\n" in said
    again = win_rate(toys.ToyJudge(), {"toy": toys.ToyTeacher()})
    fit(tmp_path, RunSummary(), again, ckpt=latest_committed(tmp_path))
    assert again.summary_entries() == figures_in(tmp_path)
    assert "Win rate against: toy 0.10 [0.01, 0.54] of 5\n" in capsys.readouterr().out


def figures_in(folder: Path) -> dict:
    keys = ("win_rate_held_out", "win_rate_by_training_judge", "win_rate_history")
    keys = (*keys, "evaluation_teacher_calls", "evaluation_cost_usd", "suites")
    figures = json.loads((folder / "summary.json").read_text())
    return {key: figures[key] for key in keys}


def test_prompts_are_bounded_and_spread_over_skills(tmp_path: Path) -> None:
    teacher = toys.ToyTeacher()
    fit(tmp_path, win_rate(toys.ToyJudge(), {"toy": teacher}, max_prompts=2))
    assert sorted(toys.tone_of(prompt) < 100 for prompt in teacher.asked) == [False, True]


def test_the_limit_of_calls_holds_and_is_reported(tmp_path: Path) -> None:
    teachers = {"one": toys.ToyTeacher("one"), "two": toys.ToyTeacher("two")}
    measured = win_rate(toys.ToyJudge(), teachers, budget_teacher_calls=6)
    fit(tmp_path, measured)
    assert [len(teacher.asked) for teacher in teachers.values()] == [5, 1]
    assert measured.summary_entries()["win_rate_held_out"]["two"]["not_asked"] == 4


def test_a_teacher_that_breaks_costs_its_figures_only(tmp_path: Path) -> None:
    class Broken(toys.ToyTeacher):
        def generate(self, requests):
            yield from super().generate(requests[:1])
            raise OSError("no connection")

    measured = win_rate(toys.ToyJudge(), {"broken": Broken("b"), "toy": toys.ToyTeacher()})
    with pytest.warns(UserWarning, match="'broken' broke off.*no connection"):
        fit(tmp_path, measured)
    rates = measured.summary_entries()["win_rate_held_out"]
    assert rates["broken"]["prompts"] == 1 and rates["broken"]["failed"] == 4 and rates["toy"]["prompts"] == 5


def test_a_judge_that_breaks_costs_the_figures_and_not_the_run(tmp_path: Path) -> None:
    class Broken(toys.ToyJudge):
        def look(self, pairs):
            raise OSError("no judge")

    measured = win_rate(Broken(), {"toy": toys.ToyTeacher()})
    with pytest.warns(UserWarning, match="left out: the judge broke off"):
        fit(tmp_path, measured)
    assert measured.summary_entries()["win_rate_held_out"]["toy"]["win_rate"] is None
    assert latest_committed(tmp_path) is not None


class Sizeless(Student):
    image_size_px = None  # type: ignore[assignment]


def trainer_of(folder: Path, *callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, max_epochs=1, callbacks=list(callbacks),
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip


def test_an_unknown_size_is_refused_before_training(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, win_rate(toys.ToyJudge(), {"toy": toys.ToyTeacher()}))
    with pytest.raises(RuntimeError, match=r"win_rate.* draws is unknown"):
        trainer.fit(Sizeless(), datamodule=Data())
    assert trainer.global_step == 0


def test_the_size_of_the_datamodule_will_do(tmp_path: Path) -> None:
    class Sized(Data):
        image_size_px = 8

    measured = win_rate(toys.ToyJudge(), {"toy": toys.ToyTeacher()})
    trainer_of(tmp_path, measured).fit(Sizeless(), datamodule=Sized())
    assert measured.summary_entries()["win_rate_held_out"]["toy"]["prompts"] == 5


def test_a_teacher_and_a_judge_that_break_at_closing_cost_no_run(tmp_path: Path) -> None:
    class Teacher(toys.ToyTeacher):
        def close(self):
            raise OSError("teacher stuck")

    class Judge(toys.ToyJudge):
        def close(self):
            raise OSError("judge stuck")

    with pytest.warns(UserWarning, match="judge stuck"), pytest.warns(UserWarning, match="teacher stuck"):
        trainer_of(tmp_path, win_rate(Judge(), {"toy": Teacher()})).fit(Student(), datamodule=Data())


def test_no_held_out_prompts_is_no_figure(tmp_path: Path) -> None:
    class Bare(Data):
        held_out_prompts = None  # type: ignore[assignment]

    measured = win_rate(toys.ToyJudge(), {"toy": toys.ToyTeacher()})
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, max_epochs=1, callbacks=[measured],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Student(), datamodule=Bare())
    assert measured.summary_entries() == {}


@pytest.mark.parametrize(
    "wrong", [{"teachers": {}}, {"max_prompts": 0}, {"every_n_epochs": 0}, {"budget_teacher_calls": -1}]
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        win_rate(**{"judge": toys.ToyJudge(), "teachers": {"toy": toys.ToyTeacher()}, **wrong})


class Loving(toys.ToyJudge):
    """Prefers the darker image, whatever the prompt: a judge that a dark student pleases."""

    fingerprint = "loving"

    def look(self, pairs):
        for pair in pairs:
            self.asked += 1
            darker = toys.mean_tone(pair.first) < toys.mean_tone(pair.second)
            yield Look(pair.item_id, 0.9 if darker else 0.1)


def test_both_judges_see_the_same_pairs_and_a_divergence_is_told(tmp_path: Path, capsys) -> None:
    training, teacher = Loving(), toys.ToyTeacher()
    measured = win_rate(toys.ToyJudge(), {"toy": teacher}, every_n_epochs=1, compare_with_training_judge=True)
    fit(tmp_path, RunSummary(), Evolving(training), measured)
    entries = measured.summary_entries()
    seen = entries["win_rate_by_training_judge"]["toy"]
    # the student draws tone 10: darker than four of five, equal to one (the toy then prefers the second: a tie)
    assert seen["win_rate"] == pytest.approx(0.9) and entries["win_rate_held_out"]["toy"]["win_rate"] == 0.1
    assert seen["difference"] == pytest.approx(0.8) and seen["same_verdict"] == 0.2
    history = entries["win_rate_history"]
    assert [point["global_step"] for point in history] == [2, 4] and training.asked == 2 * 10
    assert history[-1] == {"global_step": 4, "evaluation": {"toy": 0.1}, "training": {"toy": 0.9}}
    assert "Judges diverge: win rate against toy +80 points" in capsys.readouterr().out
    assert len(teacher.asked) == 5, "the second judge costs no image"
    assert (
        measured.plan_summary()["evaluation looks (outside the budget)"]
        == "at most 128 a reading by each of two judges"
    )


def test_the_same_model_is_not_asked_as_a_second_opinion(tmp_path: Path) -> None:
    training = toys.ToyJudge()
    again = CalibratedJudge(toys.ToyJudge(), temperature=2.0)
    measured = win_rate(again, {"toy": toys.ToyTeacher()}, compare_with_training_judge=True)
    with pytest.warns(UserWarning, match=r"suites\.win_rate\.judge is the judge of the training data too"):
        fit(tmp_path, Evolving(training), measured)
    assert training.asked == 0 and measured.summary_entries()["win_rate_by_training_judge"] is None


def test_a_training_judge_that_breaks_costs_only_its_own_figures(tmp_path: Path) -> None:
    class Broken(Loving):
        def look(self, pairs):
            raise OSError("no judge")

    measured = win_rate(toys.ToyJudge(), {"toy": toys.ToyTeacher()}, compare_with_training_judge=True)
    with pytest.warns(UserWarning, match="the judge broke off"):
        fit(tmp_path, Evolving(Broken()), measured)
    entries = measured.summary_entries()
    assert entries["win_rate_held_out"]["toy"]["win_rate"] == 0.1
    assert entries["win_rate_by_training_judge"]["toy"]["difference"] is None
