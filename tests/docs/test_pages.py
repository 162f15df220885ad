"""Nothing in the documentation is only words: examples run, configs parse, commands exist."""

from __future__ import annotations

import json
import math
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from evolvedirector.cli import FURTHER_WORDS, LIGHTNING_WORDS, main
from evolvedirector.judges import Judge
from evolvedirector.records import ImageAndPrompt, ImageReply, ImageRequest, OrderedPair, WriteRequest
from evolvedirector.teachers import Teacher
from evolvedirector.worlds.shapes import MiniatureTeacher
from evolvedirector.writers import PromptWriter
from tests.parsed_config import ParsedConfig

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"])
NAMES = [page.name for page in PAGES]
MOST_LINES = 40
TRAIN = {"own-module.md": "runs/painter/data", "lightning.md": "runs/mine/data"}
"""Pages whose scripts train, and the dataset that must have evolved then."""


OTHER_PROGRAMS = {"python3.11", ".", "pip", "pytest", "python", "ray", "tensorboard", "git", "cd", ".ci/run"}


def blocks(page: str) -> list[tuple[str, str, str]]:
    """List the fenced blocks of a page: language, title (or nothing) and text."""
    text = next(path for path in PAGES if path.name == page).read_text("utf-8")
    return re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', text, flags=re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    """List the words of every shell command of a page, without its comment and the file its output goes to."""
    scripts = [text.replace("\\\n", " ") for language, _, text in blocks(page) if language == "bash"]
    lines = [line for text in scripts for line in text.splitlines()]
    split = (shlex.split(line, comments=True) for line in lines)
    return [words[: words.index(">")] if ">" in words else words for words in split if words]


def of_ours(page: str) -> list[list[str]]:
    """List what follows `evolvedirector` in the commands of a page, however it is started."""
    return [words[words.index("evolvedirector") + 1 :] for words in commands(page) if "evolvedirector" in words]


class Parsed(NamedTuple):
    """A command whose configs have to be parsed."""

    word: str
    options: tuple[str, ...]


def parsed(page: str) -> list[Parsed]:
    """List the runs that a page starts or checks; one shipped recipe as it is parses in tests/test_configs.py."""
    runs = [words for words in of_ours(page) if words[0] in (*LIGHTNING_WORDS, "check") and "-c" in words]
    found = []
    for word, *options in runs:
        shipped = len(options) == 2 and (ROOT / options[1]).is_file()
        if not shipped and "..." not in options:
            given = tuple(option for option in options if option != "--print_config")
            found.append(Parsed("fit" if word == "check" else word, given))
    return found


def write_files(page: str, folder: Path) -> None:
    """Write the titled blocks of a page, and what its commands take for given."""
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "prompts.txt").write_text("a red circle\ntwo green squares\na blue star\n")
    (folder / "pictures").mkdir()
    for number, image in enumerate(images(3)):
        (folder / "pictures" / f"{number}.png").write_bytes(image)
        (folder / "pictures" / f"{number}.txt").write_text(f"a red circle number {number}")
    for _, title, text in blocks(page):
        if title:
            (folder / title).write_text(text)


def images(count: int) -> list[bytes]:
    requests = [ImageRequest(str(number), "a red circle", number, 32, 32) for number in range(count)]
    return [reply.image for reply in MiniatureTeacher().generate(requests) if reply.image is not None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project folder, current and on Python's path; its modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


# ---- commands


@pytest.mark.parametrize("page", NAMES)
def test_commands_exist(page: str) -> None:
    for words in commands(page):
        if words[0] == "make":
            for word in words[1:]:
                done = subprocess.run(["make", "-n", word], cwd=ROOT, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr
        elif "evolvedirector" not in words:
            assert words[0] in OTHER_PROGRAMS, words
    for words in of_ours(page):
        assert words[0] in (*LIGHTNING_WORDS, *FURTHER_WORDS, "--help", "--version"), words
        if words[0] not in (*LIGHTNING_WORDS, "check"):
            files = sorted((ROOT / "evolvedirector" / "commands").glob(f"{words[0].replace('-', '_')}*.py"))
            source = "".join(file.read_text("utf-8") for file in files)
            for option in (word for word in words if word.startswith("--")):
                assert f'"{option.split("=")[0]}"' in source, f"`{words[0]}` knows no {option}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in NAMES if parsed(page)])
def test_configs_of_commands_parse(page: str, folder: Path) -> None:
    write_files(page, folder)
    known = {(command.word, *command.options) for command in parsed(page)}
    for command in known:
        config = ParsedConfig(list(command)).config
        assert config[config.subcommand].trainer.default_root_dir


SHORT = ["--trainer.max_steps=2", "--data.init_args.batches_per_epoch=2", "--data.init_args.global_batch_size=8"]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in NAMES if any("my_run.yaml" in words for words in of_ours(page))])
def test_own_runs_start(page: str, folder: Path) -> None:
    """Every check and fit of a page (one epoch, no round), with the classes and files the reader is told to write."""
    write_files(page, folder)
    shutil.copytree(folder / "pictures", folder / "gold")  # the gold set of the page on judges
    for number in range(1, 3):
        (folder / "gold" / f"000{number}.png").write_bytes(images(number)[-1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "IMAGE_KEY": "secret"}
    runs = [words for words in of_ours(page) if "--webdataset" not in words and "--print_config" not in words]
    for words in runs:
        if words[0] in ("check", "fit") and "my_run.yaml" in words:
            words = [*words, *SHORT]
        elif words[:2] != ["data", "import"]:
            continue
        if words[0] == "fit" and page == "own-teacher.md":
            continue  # nobody answers at its address here
        command = [sys.executable, "-m", "evolvedirector", *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", [page for page in NAMES if any("--draw" in words for words in of_ours(page))])
def test_what_a_page_draws_is_drawn(page: str, folder: Path) -> None:
    write_files(page, folder)
    for words in of_ours(page):
        if "--draw" in words:
            assert main(words) in (None, 0), shlex.join(words)
            assert (folder / words[words.index("--out") + 1]).stat().st_size > 0


def test_configs_named_anywhere_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"\bconfigs/[\w/]+\.yaml", page.read_text("utf-8")):
            assert (ROOT / name).is_file(), f"{page.name} names {name}"


def untitled_yaml(page: str) -> list[str]:
    """List the YAML of a page that is no file of its own."""
    titled = {text for name in NAMES for _, title, text in blocks(name) if title}
    return [text for language, _, text in blocks(page) if language == "yaml" and text not in titled]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in NAMES if untitled_yaml(page)])
def test_yaml_without_a_file_fits_the_quickstart(page: str, folder: Path) -> None:
    for text in untitled_yaml(page):
        write = folder / "snippet.yaml"
        write.write_text(text)
        assert ParsedConfig(["fit", "-c", str(ROOT / "configs" / "quickstart.yaml"), "-c", str(write)]).config


# ---- examples


def test_examples_are_short_and_named() -> None:
    for page in NAMES:
        for language, title, text in blocks(page):
            if language == "python":
                assert title, f"{page}: an example without a file name is not tested"
                assert len([line for line in text.splitlines() if line.strip()]) <= MOST_LINES, f"{page}: {title}"


# WebDataset leaves its tars to the garbage collector; torch wants to write into arrays that were only decoded.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
@pytest.mark.parametrize("page", [page for page in NAMES if any(block[0] == "python" for block in blocks(page))])
def test_examples_run(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the page, as a reader would run them; the tests below ask more of the parts."""
    write_files(page, folder)
    for _, title, _ in (block for block in blocks(page) if block[0] == "python"):
        runpy.run_path(str(folder / title), run_name="__main__")
    if page in TRAIN:
        assert main(["data", "show", TRAIN[page]]) == 0
        shown = re.search(r"revision (\d+)(.|\n)* (\d+) teacher calls", capsys.readouterr().out)
        assert shown and int(shown[1]) >= 3 and int(shown[3]) > 3, "no round bought anything"


def test_importing_as_the_page_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files("own-data.md", folder)
    runpy.run_path(str(folder / "import_pictures.py"), run_name="__main__")
    done = []
    for words in of_ours("own-data.md"):
        if words[0] == "data" and "--webdataset" not in words:  # the same with shards: tested with the store
            assert main(words) == 0
            done.append(words[1])
    assert {"import", "add", "retire", "keys", "show", "verify", "diff"} <= set(done)
    assert "4 prompts" in capsys.readouterr().out


# ---- the parts, against a server on loopback


class Server:
    """Answers every POST with what `answer` makes of its body: a status and bytes."""

    def __init__(self, answer: Callable[[dict[str, Any]], tuple[int, bytes]]) -> None:
        self.headers: list[dict[str, str]] = []
        seen = self.headers

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                seen.append(dict(self.headers))
                status, body = answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_the_web_teacher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files("own-teacher.md", folder)
    part = runpy.run_path("my_teacher.py")["WebTeacher"]
    (image,) = images(1)
    statuses = {"a red circle": 200, "blood": 400, "busy": 503}
    server = Server(lambda body: (statuses[body["prompt"]], image))
    monkeypatch.setenv("IMAGE_KEY", "secret")
    teacher = part(server.url, "sketch-2", cost_usd_per_image=0.04)
    assert isinstance(teacher, Teacher)
    try:
        asked = [ImageRequest(prompt, prompt, 1, 32, 32) for prompt in statuses]
        replies: dict[str, ImageReply] = {reply.request_id: reply for reply in teacher.generate(asked)}
    finally:
        server.close()
    assert {key: reply.status for key, reply in replies.items()} == {
        "a red circle": "image", "blood": "refusal", "busy": "failure",
    }  # fmt: skip
    assert replies["a red circle"].image == image
    assert [reply.cost_usd for reply in replies.values()].count(0.04) == 1
    assert {headers["Idempotency-Key"] for headers in server.headers} == set(statuses)
    (unreachable,) = teacher.generate(asked[:1])
    assert unreachable.status == "failure"


def test_the_chat_judge(folder: Path) -> None:
    write_files("own-judge.md", folder)
    part = runpy.run_path("my_judge.py")["ChatJudge"]

    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        *pictures, question = body["messages"][0]["content"]
        if "garbage" in question["text"]:
            return 200, b"no json"
        shares = {"Yes": 0.5, " yes": 0.1, "no": 0.2} if len(pictures) == 1 else {"first": 0.2, "second": 0.6}
        words = [{"token": word, "logprob": math.log(share)} for word, share in shares.items()]
        return 200, json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": words}]}}]}).encode()

    server = Server(answer)
    judge = part(server.url, "vlm-7b")
    assert isinstance(judge, Judge)
    (image,) = images(1)
    try:
        shown, garbage = judge.check(
            [ImageAndPrompt("a", image, "a red circle"), ImageAndPrompt("b", image, "garbage")]
        )
        (pair,) = judge.look([OrderedPair("c", image, image, "a red circle")])
    finally:
        server.close()
    assert (round(shown.probability, 6), round(shown.covered_mass, 6)) == (0.75, 0.8)
    assert (round(pair.probability, 6), round(pair.covered_mass, 6)) == (0.25, 0.8)
    assert garbage.covered_mass == 0


def test_the_template_writer(folder: Path) -> None:
    write_files("own-writer.md", folder)
    writer = runpy.run_path("my_writer.py")["TemplateWriter"]()
    assert isinstance(writer, PromptWriter)
    expansion = WriteRequest("e", "expansion", "an owl on a rock", "position", 4, seed=1)
    mutation = WriteRequest("m", "mutation", None, None, 6, seed=2)
    unknown = WriteRequest("u", "mutation", None, "counting", 1, seed=3)
    once = list(writer.write([expansion, mutation, unknown]))
    assert once == list(writer.write([expansion, mutation, unknown]))  # a repeated round asks for the same
    expanded, mutated, refused = once
    assert len(expanded.texts) == 4 and all("an owl" in text for text in expanded.texts)
    assert len(mutated.texts) == len(mutated.skills) == 6
    assert refused.refusal and not refused.texts
