"""`evolvedirector judge` on real files: a table, a picture, and a corrected judge to paste."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from evolvedirector.cli import main
from evolvedirector.judges import CalibratedJudge, Judge
from evolvedirector.records import ImageAndPrompt, Look
from tests import toys


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = []
    for place in range(12):
        tone, shown = 20 * place, 20 * place + (100 if place % 2 else 0)
        Path(f"{place}.png").write_bytes(toys.flat_png(shown % 256))
        lines.append(json.dumps({"image": f"{place}.png", "prompt": f"tone {tone}", "shows": place % 2 == 0}))
    Path("gold.jsonl").write_text("\n".join(lines))
    Path("good.yaml").write_text("class_path: tests.toys.ToyJudge\n")
    Path("mute.yaml").write_text("judge:\n  class_path: tests.toys.ToyJudge\n  init_args: {mass: 0.0}\n")
    return tmp_path


def test_judges_are_compared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "compare", "good.yaml", "mute.yaml", "--gold", "gold.jsonl", "--out", "out"]) == 0
    printed = capsys.readouterr().out
    rows = {line[:28].strip(): line[28:].split() for line in printed.splitlines()}
    assert rows["right about single images"][0] == "100%" and rows["right about single images"][-1] == "-"
    assert rows["unreadable"] == ["0%", "100%"] and "Asking mute: 12 images" in printed
    figures = json.loads((here / "out" / "judges.json").read_text())
    assert figures["good"]["agreement"] == {
        "value": 1.0,
        "interval": figures["good"]["agreement"]["interval"],
        "of": 12,
    }
    assert figures["mute"]["agreement"] is None
    assert (here / "out" / "judges.png").read_bytes().startswith(b"\x89PNG")


def test_a_corrected_judge_is_written_and_can_be_used(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "calibrate", "good.yaml", "--gold", "gold.jsonl", "--out", "out"]) == 0
    assert "out/calibrated.yaml" in capsys.readouterr().out
    content = yaml.safe_load((here / "out" / "calibrated.yaml").read_text())
    assert content["init_args"]["judge"] == {"class_path": "tests.toys.ToyJudge"}
    assert content["init_args"]["temperature"] < 1, "it was right every time, and said so with 0.9 only"
    from evolvedirector.commands.part_files import build_part

    judge = build_part(content, Judge, "judge", "out/calibrated.yaml")
    assert isinstance(judge, CalibratedJudge) and isinstance(judge.judge, toys.ToyJudge)
    assert main(["judge", "compare", "out/calibrated.yaml", "good.yaml", "--gold", "gold.jsonl"]) == 0


def test_a_gold_source_can_be_named_and_cut_short(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = {"class_path": "evolvedirector.judges.GoldFile", "init_args": {"path": "gold.jsonl"}}
    Path("gold.yaml").write_text(yaml.safe_dump({"gold": source}))
    words = ["judge", "compare", "good.yaml", "--gold", "gold.yaml", "--items", "6", "--pairs", "1", "--out", "out"]
    assert main(words) == 0
    assert "Asking good: 6 images, 1 pairs" in capsys.readouterr().out
    assert json.loads((here / "out" / "judges.json").read_text())["good"]["looks"] == 8


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["compare", "none.yaml"], "The judge file 'none.yaml' cannot be read"),
        (["compare", "empty.yaml"], "names no class_path"),
        (["compare", "wrong.yaml"], "nothing"),
        (["compare", "writer.yaml"], "Judge"),
        (["compare", "good.yaml", "good.yaml"], "'good.yaml' is named twice"),
        (["compare", "good.yaml", "--items", "1"], "--items is 1"),
        (["compare", "good.yaml", "--pairs", "-1"], "--pairs is -1"),
        (["compare", "good.yaml", "unready.yaml"], "The model is not there"),
        (["calibrate", "contrary.yaml"], "or its contrary"),
    ],
)
def test_mistakes_are_told_in_one_paragraph(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    Path("empty.yaml").write_text("{}")
    Path("wrong.yaml").write_text("class_path: tests.toys.ToyJudge\ninit_args: {nothing: 1}")
    Path("writer.yaml").write_text("class_path: tests.toys.ToyWriter")
    Path("unready.yaml").write_text(f"class_path: {__name__}.Unready")
    Path("contrary.yaml").write_text(f"class_path: {__name__}.Contrary")
    assert main(["judge", *words, "--gold", "gold.jsonl"]) == 2
    told = capsys.readouterr()
    assert says in " ".join(told.err.split()) and "Traceback" not in told.err
    assert not Path("judges").exists()
    if "unready.yaml" in words:
        assert "Asking" not in told.out, "no judge is asked while another cannot work"


class Unready(toys.ToyJudge):
    def verify(self) -> None:
        from evolvedirector.commands.readable_errors import ConfigurationMistake

        raise ConfigurationMistake("The model is not there.")


class Contrary(toys.ToyJudge):
    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        yield from (Look(look.item_id, float(look.probability < 0.5)) for look in super().check(items))


def test_a_key_in_a_judge_file_is_refused_and_not_repeated(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "canary-0123456789")
    Path("leak.yaml").write_text("class_path: tests.toys.ToyJudge\ninit_args: {mass: canary-0123456789}")
    assert main(["judge", "compare", "leak.yaml", "--gold", "gold.jsonl"]) == 2
    told = capsys.readouterr()
    assert "SOME_API_KEY" in told.err and "canary" not in told.err + told.out
