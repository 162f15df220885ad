"""The page of a run as text: what it says, what it never says, and what it makes of damage."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.report import RunFolder, build, build_comparison, build_report
from evolvedirector.report.build import write_page
from evolvedirector.store import RevisionFiles
from evolvedirector.store.ledger import Ledger
from tests.report_runs import HOSTILE, RunBuilder, small_run


@pytest.fixture(autouse=True)
def _small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searching five megabytes of drawing library takes longer than building the page."""
    monkeypatch.setattr(build, "_plotly", lambda: "const Plotly = {};")


def page_of(folder: Path) -> str:
    return build_report(RunFolder.open(folder))


def data_of(page: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def words_of(page: str) -> str:
    """The text a reader sees before any script ran."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", page))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("runs") / "painter")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "painter"))


def test_the_headline_is_in_plain_words(run: Path) -> None:
    said = words_of(page_of(run))
    assert "draws what the prompt says in 50 % of its images, measured on 12 prompts" in said
    assert "95 % interval 25 to 75 %" in said
    assert "Side by side with toy, its image is the better one in 25 % of cases" in said
    assert "It cost 5 teacher calls and 0 looks of the judge: $0.20 in all" in said
    assert "2 → 5" in said, "the dataset grew from two seeds by three children"


def test_suites_have_a_table_and_damaged_ones_are_told(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    row = {"value": 0.625, "interval": [0.5, 0.75], "of": 16, "unit": "prompts"}
    (run / "summary.json").write_text(json.dumps({**summary, "suites": {"geneval": {"mean": row, "<b>": row}}}))
    page = page_of(run)
    assert "geneval" in words_of(page) and "0.500 to 0.750" in words_of(page) and "<b>" not in words_of(page)
    (run / "summary.json").write_text(json.dumps({**summary, "suites": {"geneval": {"counting": 3}}}))
    assert "summary.json cannot be read" in words_of(page_of(run))


def test_each_round_tells_its_story(run: Path) -> None:
    said = words_of(page_of(run))
    assert "Round 1 step 10 2 written · 2 of 2 failed · 2 bought → 4 in training" in said
    assert "Round 2 step 20 1 written · 1 of 1 failed · 1 bought · 1 mastered → 5 in training" in said
    assert "Round 3 step 30 skipped nothing was bought" in said
    assert "The judge was below its floors, so it decided nothing (its lowest marks: canary blank 12%)" in said
    assert "toy beat other at tone" in said
    assert "unseen and failed &lt;i&gt; (2)" in said


def test_candidates_are_told_apart_by_who_wrote_them(run: Path) -> None:
    page = page_of(run)
    cells = re.findall(r"<td>(.*?)</td>", page[page.index("What candidates yield") :])
    assert [cell.split(":")[0] for cell in cells[:8]] == ["1", "2 of 2", "2 of 2", "–", "2", "1 of 1", "1 of 1", "–"]
    assert " to 100 %)" in cells[1]
    charts = {chart["id"]: chart for chart in data_of(page)["charts"]["dataset"]}
    assert [trace["name"] for trace in charts["origins"]["traces"]] == ["all candidates", "children of failed prompts"]


def test_pairs_families_films_and_charts_are_there_for_the_script(run: Path) -> None:
    data = data_of(page_of(run))
    newest, *_ = data["pairs"]["pairs"]
    assert (newest["text"], newest["verdict"], newest["round"], newest["by"]) == ("tone 21", "teacher", 2, "toy")
    assert [look["p"] for look in newest["looks"]] == [0.1, 0.8]
    assert data["pairs"]["total"] == 3
    nodes = data["lineage"]["nodes"]
    parents = {text: nodes[parent][0] if parent >= 0 else None for text, parent, *_ in nodes}
    assert parents == {"tone 1": None, "tone 2": None, "tone 11": "tone 2", "tone 12": "tone 2", "tone 21": "tone 12"}
    states = {node[0]: node[4] for node in nodes}
    assert states["tone 12"] == "mastered" and states["tone 21"] == "live"
    assert [step for step, _ in data["film"][0]["frames"]] == [10, 20]
    shown = {chart["id"] for charts in data["charts"].values() for chart in charts}
    assert {"accuracy", "win_rate", "dataset", "spending", "failures", "bought", "judge", "learning"} <= shown
    used = {pair["student"] for pair in data["pairs"]["pairs"]} | {node[6] for node in nodes}
    assert used <= data["pictures"].keys()
    assert all(url.startswith("data:image/webp;base64,") for url in data["pictures"].values())


def test_the_page_is_one_file_that_asks_nobody_for_anything(run: Path) -> None:
    page = page_of(run)
    for script in re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL):
        sha = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{sha}'" in html.unescape(page.split("</head>")[0]), (
            "every script is allowed by its hash and no other"
        )
        page = page.replace(script, "")
    assert len(re.findall(r"<script\b", page)) == 3
    assert not re.search(r'\b(?:src|href)="(?!#|data:,)', page), "nothing is loaded from anywhere"
    assert "default-src 'none'" in html.unescape(page) and "connect-src" not in page
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path, run: Path) -> None:
    names = {"skill": '<script>a</script>" onload=b', "teacher": "<img src=x onerror=c>{{ 7 * 7 }}</script>"}
    builder = RunBuilder(tmp_path / "run", **names).seeds("tone 1").round(*HOSTILE).round("tone 3").summary()
    page = page_of(builder.film(*HOSTILE).curves().config(model={"note": HOSTILE}).close())
    plain = page_of(run)
    for name in ("script", "img", "svg", "style", "!--", "body"):
        assert page.count(f"<{name}") == plain.count(f"<{name}"), name
    data = data_of(page)
    shown = {pair["text"] for pair in data["pairs"]["pairs"]}
    for text in HOSTILE:
        cut = text if len(text) < 400 else f"{text[:400]}… (10,005 characters)"
        assert cut.replace("\x00", "\ufffd") in shown
    assert "<" not in re.search(r'id="data">(.*?)</script>', page, flags=re.DOTALL)[1]  # type: ignore[index]
    for chart in (chart for charts in data["charts"].values() for chart in charts):
        drawn = json.dumps([chart["traces"], chart["title"]]).replace("<extra></extra>", "")
        assert "<" not in drawn, "plotly reads some HTML, so names reach it escaped"


def test_the_page_tells_who_did_not_answer_why_and_what_is_known_of_the_judge(run: Path) -> None:
    with Ledger(run / "data" / "ledger.sqlite") as ledger:
        ledger.faults.add("r1", "teacher <b>one", ["HTTP 402: no money"] * 8)
        ledger.faults.add("r1", "judge", ["key sk-" + "a1B2" * 10])
    page = page_of(run)
    assert "teacher &lt;b&gt;one" in page and "8 × <bdi>HTTP 402: no money" in page
    assert "a1B2" not in page
    assert "Failed without the judge's mistakes (95 % interval): <bdi>" in page


def test_a_run_folder_without_rounds_says_so(tmp_path: Path) -> None:
    said = words_of(page_of(RunBuilder(tmp_path / "run").seeds("tone 1").summary(rounds=0).close()))
    assert "This run has no rounds: its dataset did not evolve and stayed as it was bought or imported." in said
    assert "Nothing was screened or compared in this run." in said


def test_a_run_folder_without_a_dataset_still_shows_its_figures(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "summary.json").write_text('{"images_seen": 64, "accuracy_mean": 0.125}')
    said = words_of(page_of(folder))
    assert "12 %" in said and "There is no dataset with a ledger in this run folder" in said


def test_a_crashed_run_shows_what_it_bought_and_how_to_go_on(tmp_path: Path) -> None:
    builder = RunBuilder(tmp_path / "run").seeds("tone 1").round("tone 2").round("tone 3", "tone 4", finish=False)
    (builder.folder / "logs").mkdir()
    (builder.folder / "logs" / "metrics.csv").write_text("step,train/loss\n1,0.5\n2,0.")  # cut off in a number
    folder = builder.close()
    (folder / "data" / ".lock").unlink()  # the process that held it is gone
    said = words_of(page_of(folder))
    assert "ended early" in said and "--ckpt_path last" in said
    assert "Round 2 step 20 unfinished 2 written · 2 of 2 failed · 2 bought" in said
    assert "This run has no finished epoch yet" in said


@pytest.mark.parametrize(
    ("noted", "says"),
    [
        ({"state": "finished", "planned_steps": 90}, "stopped early In short"),
        (
            {"state": "ended early", "planned_steps": 90, "reason": "RunError"},
            "before its end at step 38 of 90 (RunError)",
        ),
        ({"state": "finished", "planned_steps": 38}, "came to its end at step 38."),
        ({"state": "finished", "planned_steps": None}, "came to its end at step 38."),
    ],
)
def test_a_run_that_came_to_less_than_it_was_to_is_named(run: Path, noted: dict[str, Any], says: str) -> None:
    (run / "run.json").write_text(json.dumps({"global_step": 38, **noted}))
    said = words_of(page_of(run))
    is_early = "to its end at" not in says
    assert says.partition(" In short")[0] in said
    told = "The run was stopped at step 38 of 90" if noted["state"] == "finished" else says
    assert (told in said.partition("In short")[2].partition("What do these words mean")[0]) == is_early
    compared = words_of(build_comparison([RunFolder.open(run)] * 2))
    assert ("Not all of these runs came to their end" in compared) == is_early


def test_steps_that_were_not_finite_and_lost_calls_are_named(tmp_path: Path) -> None:
    builder = RunBuilder(tmp_path / "run").seeds("tone 1").curves()
    builder.summary(nonfinite_steps=4, nonfinite_at=[34, 35, 36, 37], lost_calls=2)
    (builder.folder / "logs" / "version_0" / "metrics.csv").write_text("step,train/loss\n1,0.5\n2,nan\n3,inf\n")
    folder = builder.close()
    page = page_of(folder)
    assert "wrong in 4 steps, the first at step 34: loss or gradient was not finite (NaN or infinite)" in words_of(page)
    (chart,) = data_of(page)["charts"]["training"]
    assert chart["traces"][0]["y"] == [0.5, None, None] and chart["traces"][1]["x"] == [2, 3]
    rows = {
        row["title"]: row["cells"] for row in data_of(build_comparison([RunFolder.open(folder)] * 2))["runs"]["table"]
    }
    assert rows["Steps that were not finite"][0] == [4, None] and rows["Calls lost on the way"][0] == [2, None]


def test_how_far_rounds_lagged_behind_is_said(tmp_path: Path) -> None:
    beside = {"stale_epochs": 2, "as_soon_as_ready": False, "waited_s": 3.2, "idle_share": 0.04}
    builder = RunBuilder(tmp_path / "run").seeds("tone 1").curves()
    builder.summary(background=beside)
    said = words_of(page_of(builder.close()))
    assert "what they bought was read 2 epochs after the student" in said
    assert "training waited 3 s for them (4 % of their time)" in said


def test_a_run_that_goes_on_is_called_running(tmp_path: Path) -> None:
    builder = RunBuilder(tmp_path / "run").seeds("tone 1").round("tone 2", finish=False)
    try:
        assert "The run was going on when this page was written" in words_of(page_of(builder.folder))
    finally:
        builder.close()


@pytest.mark.parametrize(
    ("noted", "age_s", "says"),
    [
        ({"pid": os.getpid(), "host": socket.gethostname()}, 0, "The run was going on when this page was written"),
        ({"pid": 2**22 + 1, "host": socket.gethostname()}, 0, "ended before its end"),
        ({"pid": 0, "host": socket.gethostname()}, 0, "ended before its end"),
        ({"pid": 1, "host": "elsewhere.example"}, 60, "The run was going on when this page was written"),
        ({"pid": 1, "host": "elsewhere.example"}, 9000, "Whether the run still goes on is not known"),
    ],
)
def test_a_run_without_a_dataset_is_known_by_its_process(
    tmp_path: Path, noted: dict[str, Any], age_s: int, says: str
) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"state": "running", "global_step": 7, **noted}))
    os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    assert says in words_of(page_of(tmp_path))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: (run / "summary.json").write_text("{"), "summary.json cannot be read"),
        (lambda run: (run / "summary.json").write_text('{"accuracy_mean": "much"}'), "summary.json cannot be read"),
        (lambda run: (run / "data" / "ledger.sqlite").write_bytes(b"no database" * 500), "The dataset cannot be shown"),
        (lambda run: newest(run).write_bytes(b"{}"), "the story ends before it"),
        (lambda run: [p.write_bytes(b"gone") for p in (run / "data/blobs").rglob("*.png")], "missing or damaged"),
        (lambda run: (run / "config.yaml").write_text("a: [1"), "There is no config.yaml"),
        (lambda run: (run / "run.json").write_text('{"versions": 3}'), "The run noted no versions"),
    ],
    ids=["torn summary", "wrong summary", "ledger", "revision", "images", "config", "status"],
)
def test_damage_costs_its_own_part_only(run: Path, damage: Any, says: str) -> None:
    damage(run)
    said = words_of(page_of(run))
    assert says in said
    assert "Settings and versions" in said and "Family tree of prompts" in said


def newest(run: Path) -> Path:
    files = RevisionFiles(run / "data")
    (path,) = files.folder.glob(f"*-{str(files.current())[:12]}.json")
    return path


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no run folder: it has neither.*add `--data`"):
        RunFolder.open(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        RunFolder.open(tmp_path / "missing")
    with pytest.raises(ValueError, match="is no dataset root"):
        RunFolder.open(tmp_path, tmp_path)


def test_the_config_is_shown_without_secrets(tmp_path: Path) -> None:
    builder = RunBuilder(tmp_path / "run").seeds("tone 1")
    builder.config(
        teacher={"api_key": "plain-words", "api_key_env": "PAINTER_KEY", "note": "use sk-abcdefghijklmnop1234"},
        url="https://me:hunter2@host/path",
        text_tokens=77,
    )
    page = page_of(builder.close())
    assert "PAINTER_KEY" in page and "text_tokens: 77" in page
    for secret in ("plain-words", "sk-abcdefghijklmnop1234", "hunter2"):
        assert secret not in page


def test_a_comparison_shows_all_runs(tmp_path: Path, run: Path) -> None:
    other = RunBuilder(tmp_path / "other").seeds("tone 1").film("tone 1").curves()
    other.summary(accuracy={"tone": 0.75, "colour": 0.1}, accuracy_mean=0.4)
    page = build_comparison([RunFolder.open(run), RunFolder.open(other.close())])
    data = data_of(page)
    rows = {row["title"]: [value for value, _ in row["cells"]] for row in data["runs"]["table"]}
    assert data["runs"]["names"] == ["painter", "other"]
    assert rows["Accuracy, tone"] == [0.5, 0.75] and rows["Accuracy, colour"] == [None, 0.1]
    assert rows["Wins against toy"] == [0.25, 0.25]
    assert [strip["prompt"] for strip in data["film"]] == ["tone 1"], "only what both drew"
    assert {"mean", "loss", "grown"} <= {chart["id"] for chart in data["charts"]["compare"]}


def test_a_comparison_counts_what_no_summary_tells(run: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(run, tmp_path / "bare"))
    (bare / "summary.json").unlink()
    wrong = Path(shutil.copytree(run, tmp_path / "wrong"))
    (wrong / "summary.json").write_text('{"accuracy_mean": "much", "win_rate_held_out": 3}')
    page = build_comparison([RunFolder.open(path) for path in (run, bare, wrong)])
    rows = {row["title"]: [value for value, _ in row["cells"]] for row in data_of(page)["runs"]["table"]}
    assert rows["Teacher calls"] == [4, 5, 5] and rows["Cost (USD)"] == [0.2, 0.2, 0.2]
    assert rows["Live prompts"] == [4, 4, 4] and rows["Accuracy, mean"] == [0.5, None, None]
    assert "wrong: summary.json cannot be read" in words_of(page)


def test_the_footer_names_the_artwork(run: Path) -> None:
    assert "CC-BY-SA" not in page_of(run)
    (run / "config.yaml").write_text("teacher: {class_path: evolvedirector.worlds.emoji.EmojiTeacher}")
    assert "OpenMoji (HfG Schwaebisch Gmuend and contributors, CC-BY-SA-4.0" in words_of(page_of(run))


def test_a_page_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "report" / "index.html"
    write_page(path, "one")
    write_page(path, "two \ud800")
    assert path.read_text(encoding="utf-8") == "two ?"
    assert [found.name for found in path.parent.iterdir()] == ["index.html"]
