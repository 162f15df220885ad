"""The decoded images of every arm on the page of one run, and of several runs side by side."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from evolvedirector.report.build import build_comparison, build_report
from evolvedirector.report.embedding_arms import arms_of
from evolvedirector.report.run_folder import RunFolder
from evolvedirector.report.thumbnails import Thumbnails
from tests.toys import flat_png


def run_of(
    folder: Path, tone: int, arms: tuple[str, ...] = ("drawn", "true embedding", "text itself", "prior")
) -> RunFolder:
    shown = []
    for prompt in ("a <b>red</b> circle", "two crosses"):
        row = {"prompt": prompt, "skill": "x", "pictures": {}, "right": {}}
        for number, arm in enumerate(arms):
            picture = flat_png(tone + 10 * number)
            name = sha256(picture).hexdigest()
            path = folder / "evaluation" / "embedding_arms" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)
            row["pictures"][arm] = name  # type: ignore[index]
            if arm != "drawn":
                row["right"][arm] = arm != "prior"  # type: ignore[index]
        shown.append(row)
    (folder / "summary.json").write_text(json.dumps({"embedding_arms": shown, "suites": {}}))
    return RunFolder(folder, None)


def test_a_run_shows_its_arms_with_their_verdicts(tmp_path: Path) -> None:
    found = arms_of([("one", run_of(tmp_path, 20))], Thumbnails())
    assert found is not None
    assert found["names"] == ["true image", "true embedding", "text itself", "prior"]
    assert [cell["says"] for cell in found["rows"][0]["cells"]] == ["", "right", "right", "wrong"]
    assert all(cell["picture"] for row in found["rows"] for cell in row["cells"])
    page = build_report(RunFolder(tmp_path, None))
    assert 'id="arms"' in page and "<b>red</b>" not in page


def test_runs_side_by_side_show_common_arms_once_and_each_prior_under_its_name(tmp_path: Path) -> None:
    runs = []
    for name, tone in (("eclipse", 20), ("projection", 90)):
        (tmp_path / name).mkdir()
        runs.append((name, run_of(tmp_path / name, tone)))
    found = arms_of(runs, Thumbnails())
    assert found is not None and found["names"] == [
        "true image",
        "true embedding",
        "text itself",
        "eclipse",
        "projection",
    ]
    last = [cell["picture"] for cell in found["rows"][0]["cells"]][-2:]
    assert last[0] != last[1]
    assert 'id="arms"' in build_comparison([run for _, run in runs])


def test_a_run_without_arms_has_no_such_part_and_a_missing_picture_costs_itself_alone(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "summary.json").write_text("{}")
    assert arms_of([("plain", RunFolder(tmp_path / "plain", None))], Thumbnails()) is None
    assert 'id="arms"' not in build_report(RunFolder(tmp_path / "plain", None))
    run = run_of(tmp_path, 20)
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["embedding_arms"][0]["pictures"]["prior"] = "../../secret"
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    found = arms_of([("one", run)], Thumbnails())
    assert found is not None and found["rows"][0]["cells"][-1]["picture"] is None
    assert found["rows"][1]["cells"][-1]["picture"] is not None
