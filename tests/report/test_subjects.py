"""Subjects on the page: one table with all ends, a chart that needs no script, and pairs as they were made."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

from evolvedirector.pairs.evaluation.subject_suite import BOX, EDIT, TEXT_ONLY, WORDS
from evolvedirector.report.build import build_comparison, build_report
from evolvedirector.report.run_folder import RunFolder
from evolvedirector.report.scatter import scatter_of
from evolvedirector.report.subjects import subjects_of
from evolvedirector.report.thumbnails import Thumbnails
from evolvedirector.store import DatasetStore
from tests.pairs.pair_toys import builder
from tests.toys import flat_png


def figure(value: float) -> dict[str, object]:
    return {"value": value, "interval": [value - 0.1, value + 0.1], "of": 4}


def run_of(folder: Path, value: float = 0.5, key: str = "subjects") -> RunFolder:
    folder.mkdir(exist_ok=True)
    arms = {arm: {"all": figure(value), "to target": figure(value / 2)} for arm in (WORDS, BOX, EDIT, TEXT_ONLY)} | {
        "exact target": {"all": figure(1.0), "to target": figure(1.0)}
    }
    place = folder / "evaluation" / key.removesuffix("subjects").replace("second/", "suites/second/") / "subjects"
    place.mkdir(parents=True, exist_ok=True)
    name = "a" * 64
    (place / f"{name}.png").write_bytes(flat_png(90))
    about = {
        "arms": arms,
        "by_kind": {kind: arms for kind in ("place", "tint")},
        "apart": ["style"],
        "subjects": 2,
        "questions": 4,
        "shown": [{"prompt": "a <b>red</b> dog", "kind": "tint", "subject": "x", "pictures": {"reference": name}}],
    }
    (folder / "summary.json").write_text(json.dumps({key: about, "suites": {}}))
    return RunFolder(folder, None)


def test_a_page_shows_table_chart_and_pictures_without_a_script(tmp_path: Path) -> None:
    page = build_report(run_of(tmp_path))
    section = page[page.index('id="subjects"') :]
    section = section[: section.index("</section>")]
    assert section.count("<circle class=") == 5 and '<svg class="scatter"' in section
    assert "<script" not in section and "style=" not in section
    rows = re.findall(r"<tr( class=\"end\")?><th scope=\"row\">(.*?)</th>", section)
    assert ("", WORDS) in rows and (' class="end"', "exact target") in rows
    assert "<b>red</b>" not in section and "data-picture" in section and "style" in section


def test_suites_of_one_run_and_several_runs_are_told_apart(tmp_path: Path) -> None:
    found = subjects_of([("one", run_of(tmp_path / "one", key="second/subjects"))], Thumbnails())
    assert [of["title"] for of in found] == ["second"] and found[0]["pictures"][0]["cells"][0]
    runs = [run_of(tmp_path / name, value) for name, value in (("low", 0.2), ("high", 0.8))]
    (both,) = subjects_of([("low", runs[0]), ("high", runs[1])], Thumbnails())
    named = [(row["run"], row["arm"]) for row in both["rows"]]
    assert named.count(("low", BOX)) == named.count(("high", BOX)) == named.count(("", "exact target")) == 1
    page = build_comparison(runs)
    assert page.count("<circle class=") == 9


def test_a_kind_that_one_run_alone_was_asked_for_keeps_its_column(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, value) for name, value in (("low", 0.2), ("high", 0.8))]
    summary = json.loads((tmp_path / "high/summary.json").read_text())
    kinds = summary["subjects"]["by_kind"]
    summary["subjects"]["by_kind"] = {"texture": kinds["tint"], **kinds}
    (tmp_path / "high/summary.json").write_text(json.dumps(summary))
    (both,) = subjects_of([("low", runs[0]), ("high", runs[1])], Thumbnails())
    rows = [row["shares"] for row in both["kinds"] if row["arm"] == BOX]
    assert [list(row) for row in rows] == [["place", "tint", "texture"]] * 2
    assert rows[0]["texture"] is None and rows[1]["texture"] == 0.8
    page = build_comparison(runs)
    table = page[page.index("Changes made as asked, by kind") :]
    assert {row.count("<td>") for row in table[: table.index("</table>")].split("<tr>")[2:]} == {3}


def test_a_summary_of_another_form_costs_no_other_part(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({"subjects": {"arms": 3}, "suites": {}}))
    page = build_report(run)
    assert "What was drawn of subjects cannot be shown" in page and 'id="training"' in page


def test_names_of_a_chart_never_stand_on_each_other() -> None:
    chart = scatter_of([(str(n), 0.5, 0.001 * n, n == 0) for n in range(20)] + [("low", -0.2, -0.4, False)], "x", "y")
    many = scatter_of([(str(n), 0.5, 0.5, True) for n in range(53)], "x", "y")
    assert min(point.label_y for point in many.points) >= many.top and many.height > chart.height
    heights = sorted(point.label_y for point in chart.points)
    assert all(b - a >= 15.9 for a, b in pairwise(heights))
    assert all(chart.left <= p.x <= chart.right and chart.top <= p.y <= chart.bottom for p in chart.points)
    assert [text for _, text in chart.x_ticks][-1] == "1"


def test_pairs_are_shown_step_by_step(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with DatasetStore(root, create=True) as store:
        builder().build(store)
    page = build_report(RunFolder.open(tmp_path, root))
    section = page[page.index('id="built-pairs"') :]
    section = section[: section.index("</section>")]
    for column in ("reference", "draft", "refined", "mask", "result", "source (editing)"):
        assert f'<th scope="col">{column}</th>' in section
    assert section.count("data-picture") > 10 and "went through a refiner" in section


def test_a_figure_that_is_not_known_leaves_its_cell_empty(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["subjects"]["arms"][BOX]["all"] = {"value": None, "interval": None, "of": 0}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (shown,) = subjects_of([("one", run)], Thumbnails())
    assert "all" not in next(row for row in shown["rows"] if row["arm"] == BOX)["figures"]
