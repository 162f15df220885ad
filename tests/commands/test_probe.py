"""`evolvedirector probe` looks at a student without teachers: page, figures, prompts to begin a run with."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest
import torch
import yaml
from torch import Tensor

from evolvedirector.cli import main
from evolvedirector.records import ImageReply, ImageRequest, WriteReply, WriteRequest, seed_of
from evolvedirector.store import DatasetStore
from tests.toys import ToyStudent, ToyTeacher, flat_png


class Forbidden(ToyTeacher):
    """Raises wherever it is touched."""

    def verify(self) -> None:
        raise ValueError("a teacher was verified")

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        raise AssertionError("a teacher was asked")


class ColouredWriter:
    """Writes `tone N word`: half of the texts say `dark`, half `light`."""

    fingerprint = "coloured writer"

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        for request in requests:
            draws = [seed_of(request.seed, place) for place in range(request.count)]
            texts = tuple(f"tone {draw % 256} {('dark', 'light')[draw // 256 % 2]}" for draw in draws)
            yield WriteReply(request.request_id, texts)


class HalfBlind(ToyStudent):
    """Draws every tone right, but black where the prompt says `dark`; it starts trained, and says so."""

    def starts_from(self) -> str | None:
        return "a painter's hand"

    def generate(self, requests: Sequence[ImageRequest]) -> list[Tensor]:
        tones = [0 if "dark" in r.prompt else int(r.prompt.split()[1]) for r in requests]
        return [torch.full((3, 8, 8), tone, dtype=torch.uint8) for tone in tones]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for tone in range(0, 200, 20):
        (tmp_path / f"{tone}.png").write_bytes(flat_png(tone))
    rows = [{"image": f"{tone}.png", "prompt": f"tone {tone + off}", "shows": not off} for tone in range(0, 200, 20)
            for off in (0, 60)]  # fmt: skip
    (tmp_path / "gold.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def config(student: str = "tests.commands.test_probe.HalfBlind", judge: dict[str, Any] | None = None) -> None:
    gold = {"class_path": "evolvedirector.judges.GoldFile", "init_args": {"path": "gold.jsonl"}}
    evolution = {
        "teachers": {"never": {"class_path": "tests.commands.test_probe.Forbidden"}},
        "judge": {"class_path": "tests.toys.ToyJudge", "init_args": judge or {}},
        "writer": {"class_path": "tests.commands.test_probe.ColouredWriter"},
        "judge_health": {"gold": gold},
        "budget": {"budget_teacher_calls": 10, "price_per_look_usd": 0.01},
    }
    tree = {
        "seed_everything": 0,
        "model": {"class_path": student},
        "data": {"class_path": "lightning.pytorch.demos.boring_classes.BoringDataModule"},
        "trainer": {
            "default_root_dir": "run",
            "accelerator": "cpu",
            "callbacks": [{"class_path": "evolvedirector.callbacks.EvolutionCallback", "init_args": evolution}],
        },
    }
    Path("run.yaml").write_text(yaml.safe_dump(tree))


def asked() -> list[tuple[Any, ...]]:
    with sqlite3.connect("run/probe/store/ledger.sqlite") as ledger:
        return ledger.execute("SELECT COUNT(*), SUM(lost) FROM looks").fetchall()


def seeds_without_a_look() -> None:
    """Failing prompts become seeds, which are bought as they are: no round screens them."""
    lines = [json.loads(line) for line in Path("run/probe/failed.jsonl").read_text().splitlines()]
    assert len(lines) > 5 and all("dark" in line["prompt"] for line in lines)
    assert main(["data", "import", "root", "--prompts", "run/probe/failed.jsonl"]) == 0
    with DatasetStore(Path("root")) as store:
        entries = store.state(store.current() or "").entries.values()
        assert {entry.prompt.text for entry in entries} == {line["prompt"] for line in lines}
        assert {(entry.state, entry.prompt.origin) for entry in entries} == {("candidate", "seed")}


def test_it_names_the_word_and_asks_nothing_twice(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config()
    words = ["probe", "-c", "run.yaml", "--looks", "80", "--within", "0"]
    assert main([*words[:-4], "--looks", "50", "--within", "0"]) == 0
    said = capsys.readouterr().out
    assert "At most 50 looks x 0.01 USD = 0.50 USD" in said and "no teacher" in said and "a painter's hand" in said
    assert asked() == [(50, 0)], "gold is part of the budget"
    assert main(words) == 0
    assert main(words) == 0 and asked() == [(80, 0)], "neither is the judge measured again"
    figures = json.loads(Path("run/probe/probe.json").read_text())
    assert asked() == [(80, 0)], "what was asked before is remembered"
    assert figures["named"] == ["dark"] and figures["looks"] == 80 and figures["health_looks"] == 20
    assert figures["cost_usd"] == pytest.approx(0.8) and figures["judge"]["sensitivity"] == 1.0
    assert "It fails" in capsys.readouterr().out and not Path("run/config.yaml").exists()
    seeds_without_a_look()
    page = Path("run/probe/index.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http-equiv", "") and page.count("data:image/webp") > 3


@pytest.mark.parametrize(
    ("student", "judge", "words", "code", "says"),
    [
        ("tests.toys.ToyStudent", {}, [], 2, "The student is untrained: run holds no finished checkpoint"),
        ("tests.commands.test_probe.HalfBlind", {"mass": 0.0}, [], 1, "Nothing is looked at"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("tests.commands.test_probe.HalfBlind", {}, ["--looks", "0"], 2, "looks is 0"),
                ("tests.commands.test_probe.HalfBlind", {}, ["--ckpt_path", "no.ckpt"], 2, "'no.ckpt' does not exist"),
                ("lightning.pytorch.demos.boring_classes.BoringModel", {}, [], 2, "has no `generate`"),
                ("tests.commands.test_probe.HalfBlind", {}, ["--nothing", "1"], 2, "`--nothing` is not an option"),
            )
        ),
    ],
)
def test_it_ends_before_it_spends(
    here: Path, capsys: pytest.CaptureFixture[str], student: str, judge: dict, words: list[str], code: int, says: str
) -> None:
    config(student, judge)
    assert main(["probe", "-c", "run.yaml", *words]) == code
    assert says in " ".join(capsys.readouterr().err.split())
    store = Path("run/probe/store")
    assert not list(store.glob("blobs/*/*")), "nothing was drawn"


@pytest.mark.slow
def test_untrained_weights_are_looked_at_when_they_are_asked_for(here: Path) -> None:
    config("tests.toys.ToyStudent")  # neither `forward` nor `predict_step`, as foreign modules may be
    assert main(["probe", "-c", "run.yaml", "--untrained", "--looks", "40"]) == 0
    assert "the weights it is built with" in json.loads(Path("run/probe/probe.json").read_text())["student"]


def test_a_plan_costs_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config()
    assert main(["probe", "-c", "run.yaml", "--plan", "--usd", "1"]) == 0
    assert "It ends at 1.00 USD" in capsys.readouterr().out and not Path("run").exists()
    assert main(["probe"]) == 2 and "No config is given" in capsys.readouterr().err


@pytest.mark.slow
def test_money_ends_it(here: Path) -> None:
    config()
    assert main(["probe", "-c", "run.yaml", "--usd", "0.35"]) == 0
    assert asked() == [(35, 0)]
