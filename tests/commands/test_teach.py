"""`evolvedirector teach`: one image, or a server that ends cleanly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from evolvedirector.cli import main
from evolvedirector.commands.teach import build_teacher, write_picture
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.store.images import decode_image
from evolvedirector.teachers.local.diffusers_teacher import DiffusersTeacher
from evolvedirector.worlds.shapes import MiniatureTeacher

MINIATURE = "evolvedirector.worlds.shapes.MiniatureTeacher"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.yaml"
    path.write_text(f"class_path: {MINIATURE}\ninit_args: {{name: mine, seed: 3}}\n", encoding="utf-8")
    return path


def test_one_image_is_drawn(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / "x.png"
    words = ["--teacher", str(config), "--size", "48x32", "--seed", "5", "--out", str(out)]
    assert main(["teach", "--draw", "a red circle", *words]) == 0
    assert f"Drawn: {out}" in capsys.readouterr().out
    (reply,) = MiniatureTeacher(name="mine", seed=3).generate([ImageRequest("r", "a red circle", 5, 48, 32)])
    assert out.read_bytes() == reply.image and decode_image(out.read_bytes()).shape == (32, 48, 3)


def test_a_refusal_says_why_and_is_no_success(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.png"
    assert main(["teach", "--draw", "a unicorn", "--teacher", str(config), "--out", str(out)]) == 1
    assert "No image: refusal: 'a unicorn' is outside of the grammar" in capsys.readouterr().err
    assert not out.exists()


class Counted(MiniatureTeacher):
    """Counts what is paid for."""

    asked = 0

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        Counted.asked += len(requests)
        yield from super().generate(requests)


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("there.png", "where a file is already"),
        ("folder", "a folder. Allowed is a file"),
        ("there.png/x.png", "cannot be written"),
        ("link.png", "a link to nothing"),
        ("x" * 300 + ".png", "cannot be written"),
    ],
)
def test_a_path_that_cannot_be_written_is_told_before_anything_is_drawn(
    out: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Counted.asked = 0
    (tmp_path / "there.png").write_bytes(b"paid")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere")
    words = ["--teacher", "tests.commands.test_teach.Counted", "--out", out]
    assert main(["teach", "--draw", "a red circle", *words]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "there.png").read_bytes() == b"paid" and Counted.asked == 0


def test_a_picture_is_replaced_only_when_it_is_said(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "x.jpg"
    out.write_bytes(b"paid")
    words = ["teach", "--draw", "a red circle", "--size", "32x32", "--teacher", str(config), "--out", "~/x.jpg"]
    assert main([*words, "--overwrite"]) == 0
    assert out.read_bytes()[:4] == b"\x89PNG" and sorted(tmp_path.iterdir()) == [config, out]
    assert "The picture is PNG" in capsys.readouterr().err


def test_a_picture_that_is_paid_for_is_kept_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    came_between = tmp_path / "x.png"
    came_between.write_bytes(b"other")
    beside = write_picture(came_between, b"new", False)
    assert beside.parent == tmp_path and beside.read_bytes() == b"new" and came_between.read_bytes() == b"other"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    elsewhere = write_picture(tmp_path / "gone" / "y.png", b"new", False)
    assert elsewhere.parent == tmp_path and elsewhere.read_bytes() == b"new"


def test_a_teacher_is_a_file_or_a_class_and_single_options_can_change(config: Path) -> None:
    named = build_teacher(str(config), ["--teacher.init_args.seed", "9"])
    assert isinstance(named, MiniatureTeacher) and (named.name, named.seed) == ("mine", 9)
    config.write_text(f"teacher: {{class_path: {MINIATURE}}}", encoding="utf-8")
    assert isinstance(build_teacher(str(config), []), MiniatureTeacher)
    local = build_teacher(
        "evolvedirector.teachers.DiffusersTeacher",
        ["--teacher.model=owner/name", "--teacher.quantisation=nf4", '--teacher.extra={"true_cfg_scale": 3.5}'],
    )
    assert isinstance(local, DiffusersTeacher) and (local.model, local.quantisation) == ("owner/name", "nf4")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--teacher", "missing.yaml"], "The teacher file 'missing.yaml' cannot be read"),
        (["--teacher", "bad.yaml"], "names no class_path"),
        (
            ["--teacher", "evolvedirector.worlds.shapes.MiniatureTeache"],
            "Did you mean `evolvedirector.worlds.shapes.MiniatureTeacher`?",
        ),
        (
            ["--teacher", MINIATURE, "--teacher.nam", "x"],
            "`--teacher.init_args.nam` is not an option of MiniatureTeacher",
        ),
        (["--teacher", MINIATURE, "--teacher.miscount", "x"], "`teacher.init_args.miscount` is 'x'. It takes float."),
        (["--teacher", MINIATURE, "--teacher.miscount", "-1"], "miscount=-1.0"),
        (["--teacher", "evolvedirector.worlds.shapes.MiniatureJudge"], "MiniatureJudge"),
        (["--teacher", MINIATURE, "--size", "12"], "--size is '12'"),
        (["--teacher", MINIATURE, "--draw", " "], "--draw has 0 characters"),
        (["--teacher", "evolvedirector.teachers.FolderTeacher", "--teacher.path", "nowhere"], "'nowhere' is no folder"),
    ],
)
def test_mistakes_are_told_in_one_paragraph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("- a", encoding="utf-8")
    assert main(["teach", "--draw", "a red circle", *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert says in said and "Traceback" not in said and len(said) < 900
    assert not (tmp_path / "image.png").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--port", "70000"], "port 70000"),
        (["--size", "32x64"], "--size is 32x64"),
        (["--batch_size", "0"], "batch_size is 0"),
        (["--api_key_env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
    ],
)
def test_a_server_that_cannot_be_is_told(
    config: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["teach", "--serve", "--teacher", str(config), *words]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "words",
    [[], ["--serve", "--draw", "x"], ["--serve", "--prot", "1"], ["--serve", "stray"], ["--serve", "--out", "x"]],
)
def test_words_that_do_not_fit_together_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["teach", "--teacher", MINIATURE, *words])
    assert "usage: evolvedirector teach" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly(config: Path, number: signal.Signals) -> None:
    words = ["teach", "--serve", "--teacher", str(config), "--port", "0", "--host", "0.0.0.0", "--size", "32x32"]
    server = subprocess.Popen(
        [sys.executable, "-m", "evolvedirector", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.search(r"'MiniatureTeacher' at http://0\.0\.0\.0:(\d+)/v1", line)
        assert found, line
        call = urllib.request.Request(
            f"http://127.0.0.1:{found[1]}/v1/images/generations",
            json.dumps({"prompt": "a red circle"}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(call, timeout=60) as answer:
            assert len(json.load(answer)["data"]) == 1
        server.send_signal(number)
        printed, warned = server.communicate(timeout=60)
    finally:
        server.kill()
        server.wait()
    assert server.returncode == 0
    assert "Ended: images 1, refusals 0, failures 0, batches 1" in printed
    assert "WARNING: whoever reaches 0.0.0.0" in warned and "Traceback" not in warned


@pytest.mark.parametrize("variable", ["SOME_API_KEY", "HOUSE_WORD"])
@pytest.mark.parametrize("in_file", [True, False])
def test_a_key_in_a_setting_is_refused_by_name(
    config: Path, variable: str, in_file: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "open-sesame-open")
    endpoint = f"{{base_url: 'https://api.example.org', api_key_env: {variable}}}"
    header = "headers: {X-Word: open-sesame-open}, " if in_file else ""
    config.write_text(
        "class_path: evolvedirector.teachers.HTTPTeacher\n"
        f"init_args: {{{header}endpoint: {endpoint}, path: x, body: {{p: '{{prompt}}'}}, image_path: a}}\n",
        encoding="utf-8",
    )
    words = [] if in_file else ['--teacher.headers={"X-Word": "open-sesame-open"}']
    assert main(["teach", "--draw", "a red circle", "--teacher", str(config), *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"headers.X-Word` (the value of {variable})" in said and "sesame" not in said
