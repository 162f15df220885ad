"""The parts of a report alone: curves, pictures, secrets, read-only ledgers, words."""

from __future__ import annotations

import base64
import io
import json
import os
import sqlite3
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin
from torch.utils.tensorboard import SummaryWriter

from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.report import curves as curves_module
from evolvedirector.report.artwork import artwork_of
from evolvedirector.report.charts import training_charts
from evolvedirector.report.curves import MAX_POINTS, curves_of, thinned
from evolvedirector.report.film import MAX_FRAMES, film_of
from evolvedirector.report.headline import duration, percent, sentences, tiles
from evolvedirector.report.history import read_history
from evolvedirector.report.pairs import evenly
from evolvedirector.report.run_folder import RunFolder
from evolvedirector.report.thumbnails import SIDE_PX, Thumbnails
from evolvedirector.secrecy.page import clean_text, without_secrets
from evolvedirector.store import DatasetStore, RevisionFiles, StoreError
from evolvedirector.store.ledger import Ledger
from tests import toys
from tests.report_runs import RunBuilder


def test_curves_come_from_csv_and_tensorboard_and_a_resumed_step_counts_once(tmp_path: Path) -> None:
    for version, lines in {"version_0": "1,0.5,\n2,0.25,\n3,0.2,7\n", "version_1": "3,0.125,\n,,\n4,nan,\n"}.items():
        (tmp_path / "logs" / version).mkdir(parents=True)
        (tmp_path / "logs" / version / "metrics.csv").write_text("step,train/loss,accuracy/mean\n" + lines)
    with SummaryWriter(str(tmp_path / "logs" / "version_2")) as writer:
        writer.add_scalar("train/images_per_s", 12.5, 5)
        writer.add_text("note", "no curve")
    curves, problems = curves_of(RunFolder(tmp_path, None))
    assert curves["train/loss"] == [(1, 0.5), (2, 0.25), (3, 0.125), (4, None)]
    assert curves["train/images_per_s"] == [(5, 12.5)]
    assert set(curves) == {"train/loss", "accuracy/mean", "train/images_per_s"} and not problems


def test_a_cut_off_file_of_events_gives_what_it_has(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "logs")) as writer:
        for step in range(50):
            writer.add_scalar("train/loss", step, step)
    (events,) = (tmp_path / "logs").iterdir()
    events.write_bytes(events.read_bytes()[:-37])
    curves, problems = curves_of(RunFolder(tmp_path, None))
    assert 40 < len(curves["train/loss"]) < 50 and not problems


def _metrics(folder: Path, lines: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("step,train/loss\n" + lines)
    return folder / "metrics.csv"


def test_a_file_over_the_limit_is_read_up_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves_module, "MAX_FILE_BYTES", 2000)
    _metrics(tmp_path / "logs" / "csv", "".join(f"{step},0.5\n" for step in range(1000)))
    with SummaryWriter(str(tmp_path / "logs" / "events")) as writer:
        for step in range(200):
            writer.add_scalar("cost/usd", step, step)
    found, problems = curves_of(RunFolder(tmp_path, None))
    assert 100 < found["train/loss"][-1][0] < 999 and 10 < found["cost/usd"][-1][0] < 199
    assert len(problems) == 2 and all("the first 2,000 were read" in said for said in problems)


def test_only_the_loggers_of_the_run_are_read(tmp_path: Path) -> None:
    _metrics(tmp_path / "other_project" / "logs", "1,9\n")
    os.utime(_metrics(tmp_path / "lightning_logs" / "version_0", "1,8\n2,8\n"), (1, 1))
    os.utime(tmp_path / "lightning_logs" / "version_0", (1, 1))
    _metrics(tmp_path / "lightning_logs" / "version_1", "1,0.5\n")
    _metrics(tmp_path / "tries" / "mine", "3,0.25\n")
    assert curves_of(RunFolder(tmp_path, None))[0] == {"train/loss": [(1, 0.5)]}
    outside = _metrics(tmp_path.with_name(tmp_path.name + "_outside"), "1,7\n").parent
    noted = ["tries/mine", f"../{outside.name}", 3]
    (tmp_path / "run.json").write_text(json.dumps({"log_dirs": noted}))
    assert curves_of(RunFolder(tmp_path, None))[0] == {"train/loss": [(3, 0.25)]}


@pytest.mark.parametrize("state", ["finished", "running"])
def test_steps_that_a_resumed_run_left_behind_are_not_shown(tmp_path: Path, state: str) -> None:
    old = _metrics(tmp_path / "logs" / "version_0", "1,0.5\n8,0.25\n")
    RunBuilder(tmp_path).film("tone 1", steps=(10, 20)).close()
    for path in (old, *(tmp_path / "previews").rglob("*.png")):
        os.utime(path, (1, 1))
    (tmp_path / "run.json").write_text(json.dumps({"state": state, "global_step": 5}))
    run = RunFolder(tmp_path, None)
    assert curves_of(run)[0] == {"train/loss": [(1, 0.5)]} and film_of(run, Thumbnails()) == []
    if state == "running":  # what was written after the note is newer than it
        os.utime(tmp_path / "run.json", (2, 2))
        os.utime(old)
        assert curves_of(run)[0] == {"train/loss": [(1, 0.5), (8, 0.25)]}


def test_artwork_of_others_is_named_as_in_the_notice() -> None:
    said = artwork_of({"callbacks": [{"class_path": "evolvedirector.worlds.emoji.EmojiTeacher"}]})
    notice = " ".join((Path(__file__).parents[2] / "NOTICE").read_text(encoding="utf-8").split())
    for words in ("by Twitter and contributors", "CC-BY-4.0", "HfG Schwaebisch Gmuend and contributors",
                  "CC-BY-SA-4.0", "Google Inc", "Microsoft Corporation", "https://creativecommons.org/licenses/by/4.0/",
                  "Changes: rasterised, resized and placed on plain backgrounds."):  # fmt: skip
        assert words in said and words in notice
    assert artwork_of({"teacher": "evolvedirector.teachers.painter.Painter"}) == ""


def test_long_curves_are_averaged_and_keep_their_end() -> None:
    curve = thinned([(step, float(step % 2)) for step in range(10_000)])
    assert len(curve) == MAX_POINTS and curve[-1][0] == 9999
    assert all(0.4 < value < 0.6 for _, value in curve)


def test_a_value_that_is_not_finite_stays_a_gap_and_is_marked() -> None:
    curve = thinned([(step, None if step == 5000 else 2.0) for step in range(10_000)])
    (gap,) = [step for step, value in curve if value is None]
    assert 4990 < gap < 5040 and len(curve) == MAX_POINTS
    (drawn,) = training_charts({"train/loss": curve})
    line, marks = drawn["traces"]
    assert line["y"].count(None) == 1 and marks["x"] == [gap] and marks["y"] == [2.0]
    assert "not finite" in drawn["note"]
    (nothing,) = training_charts({"train/loss": [(1, None), (2, None)]})
    assert nothing["traces"][1]["y"] == [0.0, 0.0]


def test_pictures_are_small_and_carry_nothing_but_pixels() -> None:
    note = PngImagePlugin.PngInfo()
    note.add_text("prompt", "secret words")
    buffer = io.BytesIO()
    Image.effect_noise((400, 200), 90).convert("RGB").save(buffer, "PNG", pnginfo=note)
    thumbnails = Thumbnails()
    key = thumbnails.add("ab" * 32, buffer.getvalue)
    assert key is not None and thumbnails.add("ab" * 32, lambda: b"never read") == key
    data = base64.b64decode(thumbnails.urls()[key].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (SIDE_PX, SIDE_PX // 2)
    assert b"secret" not in data


def test_pictures_keep_to_the_budget_of_the_page() -> None:
    thumbnails = Thumbnails(max_bytes=500)
    keys = [thumbnails.add(f"{tone:064x}"[::-1], lambda tone=tone: toys.flat_png(tone)) for tone in range(100, 130)]  # type: ignore[misc]
    assert 0 < len(thumbnails.urls()) < 30
    assert thumbnails.left_out == keys.count(None) == 30 - len(thumbnails.urls())
    assert sum(map(len, thumbnails.urls().values())) <= 500
    thumbnails.start()
    assert not thumbnails.urls() and not thumbnails.left_out


def test_a_damaged_picture_is_counted() -> None:
    thumbnails = Thumbnails()
    assert thumbnails.add("00", lambda: b"no image") is None
    assert thumbnails.damaged == 1


def test_a_film_strip_keeps_first_and_last(tmp_path: Path) -> None:
    RunBuilder(tmp_path).film("tone 1", steps=tuple(range(0, 1000, 10))).close()
    (strip,) = film_of(RunFolder(tmp_path, None), Thumbnails())
    steps = [step for step, _ in strip["frames"]]
    assert len(steps) == MAX_FRAMES and steps[0] == 0 and steps[-1] == 990
    assert strip["teacher"] is not None


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({"api_key": "x1"}, {"api_key": "(hidden)"}),
        ({"OPENAI_API_KEY": "x1", "hf_token": "x2"}, {"OPENAI_API_KEY": "(hidden)", "hf_token": "(hidden)"}),
        ({"api_key_env": "PAINTER", "tokenizer": "t5"}, {"api_key_env": "PAINTER", "tokenizer": "t5"}),
        ({"password": None, "text_tokens": 77}, {"password": None, "text_tokens": 77}),
        ([{"note": "Bearer abcdefghijklmnop"}], [{"note": "(hidden)"}]),
        ({"url": "https://me:pw@host/x"}, {"url": "https://(hidden)@host/x"}),
    ],
)
def test_secrets_are_hidden_and_their_names_are_not(config: object, kept: object) -> None:
    assert without_secrets(config) == kept


def test_texts_name_no_home_folder_and_hold_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere/me")
    assert clean_text("/somewhere/me/runs\x07\n") == "~/runs\ufffd\n"


def test_a_ledger_is_read_while_it_is_written_and_never_changed(tmp_path: Path) -> None:
    builder = RunBuilder(tmp_path).seeds("tone 1")
    with Ledger.for_reading(tmp_path / "data" / "ledger.sqlite") as view:
        builder.round("tone 2")
        assert len(view.prompts.all()) == 2
        with pytest.raises(StoreError, match="readonly"):
            view.prompts.hold_out(["x"])
    builder.close()


def test_a_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=1")
    connection.close()
    with pytest.raises(StoreError, match="has schema 1"):
        Ledger.for_reading(path)


def test_rows_are_spread_evenly_and_the_same_each_time(tmp_path: Path) -> None:
    builder = RunBuilder(tmp_path).seeds(*(f"tone {tone}" for tone in range(25)))
    with Ledger.for_reading(tmp_path / "data" / "ledger.sqlite") as view:
        first, total = evenly(view.file, "text", "prompts", "1", 5)
        assert total == 25 and first == evenly(view.file, "text", "prompts", "1", 5)[0]
        assert [row[0] for row in first] == ["tone 4", "tone 9", "tone 14", "tone 19", "tone 24"]
        assert len(evenly(view.file, "text", "prompts", "1", 100)[0]) == 25
    builder.close()


def test_images_of_all_variants_are_counted_each_once(tmp_path: Path) -> None:
    with DatasetStore(tmp_path / "data", create=True) as store:
        many, one = Prompt.create("tone 3"), Prompt.create("tone 9")
        names = store.blobs.put_many([toys.flat_png(tone) for tone in (1, 2, 3)])
        chosen = [("", names[0]), ("sharp", names[1]), ("bright", names[1])]  # two aspects chose one image
        samples = [Sample.create(many, name, "toy", variant=variant) for variant, name in chosen[1:]]
        first = store.publish(None, "one", RevisionChange(samples=(Sample.create(many, chosen[0][1], "toy"),)))
        more = RevisionChange(samples=(*samples, Sample.create(one, names[2], "toy")))
        second = store.publish(first, "two", more)
        third = store.publish(second, "three", RevisionChange(states={many.id: "retired"}))
        steps = read_history(store.ledger, RevisionFiles(tmp_path / "data"), third).steps
    assert [step["images"] for step in steps] == [1, 3, 1]
    (said,) = sentences({"images_seen": 10}, {}, steps[1])
    assert said == "The student has seen 10 training images made of 3 different ones."


def test_the_words_fit_the_numbers() -> None:
    assert (percent(0.5), percent(1), percent(0.999), percent(0.004)) == ("50 %", "100 %", "99.9 %", "0.4 %")
    assert (duration(5.0), duration(65), duration(3700), duration(None)) == ("5 s", "1 min 5 s", "1 h 1 min", "")
    assert sentences({}, {}, {}) == ["This run has no finished epoch yet; what is known so far is below."]
    (said,) = sentences({"images_seen": 10, "rounds": 1, "rounds_skipped": 2}, {}, {"live": 3})
    assert said == (
        "The student has seen 10 training images made of 3 different ones over 1 round of evolution "
        "(2 more were skipped)."
    )


def test_calls_of_all_suites_are_summed_beside_what_training_bought() -> None:
    summary = {
        "evaluation_teacher_calls": 40,
        "other/evaluation_teacher_calls": 8,
        "third/evaluation_teacher_calls": None,
    }
    bought = next(
        tile for tile in tiles(summary, {"teacher_calls": 100, "cost_usd": 2.0}, []) if "Bought" in tile["title"]
    )
    assert (bought["figure"], bought["note"]) == ("100 calls", "$2.00; 48 more to measure it")
