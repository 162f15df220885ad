"""Before anything is bought every part is asked whether it would work, and every problem is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from evolvedirector.callbacks import EvolutionCallback
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evolution import Budget
from evolvedirector.planning.preflight import RunOptions, problems_of, problems_of_options
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from tests.callbacks.measuring import held_out, win_rate
from tests.toys import ToyJudge, ToyPrompts, ToyStudent, ToyTeacher, ToyWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*", "ignore:.*training data.*")
KEY = "canary-0123456789"


class Refusing:
    """Says why it would not work, and counts how often it was asked."""

    message = ""
    verified = 0

    def verify(self) -> None:
        self.verified += 1
        if self.message:
            raise ValueError(self.message)


class Teacher(Refusing, ToyTeacher):
    price: float | None = None

    def price_usd(self) -> float | None:
        return self.price


class Judge(Refusing, ToyJudge):
    pass


class Writer(Refusing, ToyWriter):
    pass


def evolution(**changes: Any) -> EvolutionCallback:
    parts: dict[str, Any] = {
        "teachers": {"toy": Teacher()},
        "judge": Judge(),
        "writer": Writer(),
        "policy": EvolveDirectorPolicy(expansions=1),
        "budget": Budget(40),
    }
    return EvolutionCallback(**{**parts, **changes})


def fit(folder: Path, *callbacks: pl.Callback, student: ToyStudent | None = None) -> None:
    data = EvolvingDataModule(folder / "data", ToyPrompts(4), global_batch_size=2, batches_per_epoch=2, image_size_px=8)
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        max_epochs=1,
    )
    trainer.fit(student or ToyStudent(), datamodule=data)


def test_all_problems_stand_in_one_message_and_nothing_is_bought(tmp_path: Path) -> None:
    callback = evolution()
    callback.teachers["toy"].message = "The key in TOY_KEY is refused (401)."  # type: ignore[attr-defined]
    callback.judge.message = "The model vlm-7b is unknown at http://host."  # type: ignore[attr-defined]
    reader = Judge()
    reader.message = callback.judge.message  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"2 things keep") as refused:
        fit(tmp_path, callback, held_out(reader), win_rate(ToyJudge(), {"held": Teacher()}))
    said = str(refused.value)
    assert "EvolutionCallback.teachers.toy: The key in TOY_KEY is refused" in said
    assert "EvolutionCallback.judge and EvaluationCallback.suites.held_out.reader: The model vlm-7b" in said
    assert callback.teachers["toy"].asked == []  # type: ignore[attr-defined]
    assert not (tmp_path / "data" / "ledger.sqlite").exists() or callback.state_dict()["rounds_done"] == 0


def test_parts_that_work_are_asked_once_and_the_run_goes_on(tmp_path: Path) -> None:
    callback, reading = evolution(), win_rate(Judge(), {"held": Teacher()})
    fit(tmp_path, callback, reading)
    asked = [callback.teachers["toy"], callback.judge, callback.writer, reading.suites["win_rate"].teachers["held"]]
    assert [part.verified for part in (*asked, reading.suites["win_rate"].judge)] == [1] * 5  # type: ignore[attr-defined]


def test_an_error_of_any_kind_is_a_problem_and_quotes_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(ToyJudge):
        def verify(self) -> None:
            raise KeyError(f"header {KEY}")

    monkeypatch.setenv("TOY_API_KEY", KEY)
    (problem,) = problems_of([evolution(judge=Broken())])
    assert "EvolutionCallback.judge: it cannot be checked: KeyError" in problem
    assert KEY not in problem and "TOY_API_KEY" in problem


def test_money_needs_a_price_that_someone_knows() -> None:
    limited = Budget(40, budget_cost_usd=5.0)
    (problem,) = problems_of([evolution(budget=limited)])
    assert "price of an image by toy is unknown" in problem and "prices_usd: {toy: 0.04}" in problem
    assert problems_of([evolution(budget=Budget(40, budget_cost_usd=5.0, prices_usd={"toy": 0.1}))]) == []
    priced = Teacher()
    priced.price = 0.2
    assert problems_of([evolution(teachers={"toy": priced}, budget=limited)]) == []


def test_a_key_in_an_attribute_of_a_part_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_API_KEY", KEY)
    teacher = Teacher()
    teacher.headers = {"Authorization": f"Bearer {KEY}"}  # type: ignore[attr-defined]
    (problem,) = problems_of([evolution(teachers={"toy": teacher})])
    assert "`EvolutionCallback.teachers.toy.headers.Authorization` (the value of TOY_API_KEY)" in problem
    assert KEY not in problem


def test_two_teachers_that_cannot_be_told_apart_are_refused() -> None:
    (problem,) = problems_of([evolution(teachers={"one": Teacher(), "two": Teacher()})])
    assert problem.startswith("teachers.one and teachers.two cannot be told apart (same fingerprint ")


class Encoder(Refusing):
    """A part of the student, as a text encoder is."""

    fingerprint = "toy encoder"


class Encoding(ToyStudent):
    """A student that names its parts."""

    def __init__(self, message: str = "") -> None:
        super().__init__()
        self.encoder = Encoder()
        self.encoder.message = message

    def parts(self) -> dict[str, Encoder]:
        return {"text_encoder": self.encoder}


def test_a_student_that_cannot_work_is_told_before_a_teacher_is_asked(tmp_path: Path) -> None:
    callback, student = evolution(), Encoding("No folder t5-xxl. Allowed: a saved model. Write its path.")
    with pytest.raises(ValueError, match=r"^Encoding\.text_encoder: No folder t5-xxl"):
        fit(tmp_path, callback, student=student)
    assert callback.teachers["toy"].asked == []  # type: ignore[attr-defined]
    assert not (tmp_path / "data" / "blobs").exists() or not list((tmp_path / "data" / "blobs").rglob("*.png"))


def test_a_student_whose_parts_work_is_verified_once_and_trained(tmp_path: Path) -> None:
    callback, student = evolution(), Encoding()
    fit(tmp_path, callback, student=student)
    assert student.encoder.verified == 1 and callback.teachers["toy"].asked  # type: ignore[attr-defined]


def test_student_and_data_stand_in_the_same_list_of_problems() -> None:
    (problem,) = problems_of([evolution()], hosts=(Encoding("No such model."), object()))
    assert problem == "Encoding.text_encoder: No such model."


def test_a_policy_without_a_fingerprint_is_refused_with_what_to_add() -> None:
    class Silent:
        def write(self, requests: Any) -> Any: ...

    (problem,) = problems_of([evolution(writer=Silent())])
    assert problem.startswith("writer is a Silent without `fingerprint`. Allowed is every class with the members of ")


# ---- options under which nothing would be trained


class Picky(ToyStudent):
    """Trains on 8 px, in full precision."""

    def check_precision(self, precision: str) -> None:
        if precision != "32-true":
            raise ValueError(f"no {precision}")

    def check_image_size(self, image_size_px: int) -> None:
        if image_size_px != 8:
            raise ValueError(f"no {image_size_px} px")


@pytest.mark.parametrize(
    ("options", "module", "size_px", "problems"),
    [
        ({}, Picky, 8, []),
        ({"precision": "16-true"}, Picky, 16, ["no 16-true", "no 16 px"]),
        ({"precision": "16-true"}, ToyStudent, 16, []),  # a module of others says nothing: the rehearsal will
        ({"limit_train_batches": 0.01}, ToyStudent, 8, ["limit_train_batches is 0.01, which leaves 0 of 5 batches"]),
        ({"limit_train_batches": 0}, ToyStudent, 8, ["limit_train_batches is 0, which leaves 0 of 5 batches"]),
        ({"limit_train_batches": 1}, ToyStudent, 8, []),
        ({"limit_train_batches": 0.2}, ToyStudent, 8, []),
        ({"overfit_batches": 1, "limit_train_batches": 1}, ToyStudent, 8, ["overfit_batches is 1"]),
        ({"overfit_batches": 0.01, "limit_train_batches": 0.01}, ToyStudent, 8, ["overfit_batches is 0.01"]),
        ({"fast_dev_run": 1, "limit_train_batches": 1, "max_steps": 1}, ToyStudent, 8, []),
        ({"val_check_interval": 6}, ToyStudent, 8, ["val_check_interval is 6, but an epoch has 5 batches"]),
        ({"val_check_interval": 2, "limit_train_batches": 1}, ToyStudent, 8, ["but an epoch has 1 batches"]),
        ({"val_check_interval": 6, "across_epochs": True}, ToyStudent, 8, []),
        ({"limit_val_batches": 0.3}, ToyStudent, 8, ["limit_val_batches is 0.3, which leaves 0 of 3 validation"]),
        ({"limit_val_batches": 0.3, "world_size": 3}, ToyStudent, 8, ["leaves 0 of 1 validation batches"]),
        ({"limit_val_batches": 0.4}, ToyStudent, 8, []),
        ({"limit_val_batches": 0}, ToyStudent, 8, []),
        ({"gradient_clip_val": -1.0}, ToyStudent, 8, ["gradient_clip_val is -1, which turns every gradient round"]),
        ({"max_steps": 0}, ToyStudent, 8, ["trainer.max_steps is 0"]),
        ({"max_epochs": 0, "max_steps": 0}, ToyStudent, 8, ["trainer.max_steps is 0", "trainer.max_epochs is 0"]),
    ],
)
def test_options_that_leave_no_working_step_are_named(
    tmp_path: Path, options: dict[str, Any], module: type[ToyStudent], size_px: int, problems: list[str]
) -> None:
    data = EvolvingDataModule(
        tmp_path, None, ToyPrompts(), batches_per_epoch=5, image_size_px=size_px, generation_chunk_size=4
    )
    found = problems_of_options(RunOptions(**options), module(), data)
    assert len(found) == len(problems)
    assert all(wanted in text for wanted, text in zip(problems, found, strict=True))
