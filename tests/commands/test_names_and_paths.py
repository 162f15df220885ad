"""Names of users are shown as they are, and each word of the command line reads a path in the same way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import evolvedirector
from evolvedirector.assets.cache import cache_folder
from evolvedirector.cli import main
from evolvedirector.commands.config_sources import check_config_files
from evolvedirector.commands.lightning_cli import SaveConfigInRunFolder
from evolvedirector.commands.readable_errors import ConfigurationMistake
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.errors import UserError
from evolvedirector.judges.health.gold_file import GoldFile
from evolvedirector.lightning_modules.families.pretrained import Pretrained
from evolvedirector.store import DatasetStore, RevisionFiles
from evolvedirector.store.ledger.file import LedgerFile
from evolvedirector.transport.job_journal import JobJournal

NAMES = ("text [in quotes]", "[red]counting", "closing [/tag]", "a :smile: <b>&", "${HOME} `ls` 100%")
SOURCES = [path for path in Path(evolvedirector.__file__).parent.rglob("*.py")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder beside the home folder."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


def root_with_names(root: Path | str) -> None:
    lines = [json.dumps({"prompt": f"thing {n}", "skill": name}) for n, name in enumerate(NAMES)]
    Path("p.jsonl").write_text("\n".join(lines))
    assert main(["data", "import", str(root), "--prompts", "p.jsonl"]) == 0


def test_a_dataset_is_shown_with_its_names(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = "data [v2] [/v2]"
    root_with_names(root)
    assert main(["data", "show", root]) == 0
    shown = capsys.readouterr().out
    assert f"{root}: revision 1" in shown
    for name in NAMES:
        assert f"1 {name}" in " ".join(shown.split())


def test_runs_are_compared_under_their_names(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ("one [v1]", "two [/v2]", "~/three :smile:")
    for folder in folders:
        place = Path(folder.replace("~", str(home)))
        place.mkdir(parents=True)
        accuracy = dict.fromkeys(NAMES, 0.5)
        (place / "summary.json").write_text(json.dumps({"teacher_calls": 3, "accuracy": accuracy}))
    assert main(["compare", *folders]) == 0
    shown = capsys.readouterr().out
    assert all(folder.replace("~", str(home)) in shown for folder in folders)
    assert all(name in shown for name in NAMES)


def test_every_table_of_a_command_is_printed_plainly() -> None:
    for path in SOURCES:
        consoles = re.findall(r"\bConsole\(([^)]*)\)", path.read_text(encoding="utf-8"))
        assert all("markup=False" in given and "emoji=False" in given for given in consoles), path


def test_nobody_reads_a_home_folder_on_its_own() -> None:
    alone = [path for path in SOURCES if ".expanduser(" in path.read_text(encoding="utf-8")]
    # secrecy/page.py looks for the home folder's name in what is passed on; the teacher of folders comes next
    assert {path.name for path in alone} <= {"paths.py", "page.py", "folder_teacher.py"}


def test_a_tilde_is_the_home_folder_wherever_a_path_is_given(home: Path) -> None:
    with DatasetStore("~/data", create=True) as store:  # type: ignore[arg-type]
        assert store.root == home / "data"
    assert RevisionFiles("~/data").folder == home / "data" / "revisions"  # type: ignore[arg-type]
    assert EvolvingDataModule(root="~/data").data_root == home / "data"
    assert GoldFile("~/gold.jsonl").path == str(home / "gold.jsonl")
    assert JobJournal("~/jobs.sqlite").path == home / "jobs.sqlite"
    assert cache_folder("~/cache") == home / "cache"
    (home / "model").mkdir()
    assert Pretrained("~/model").name == str(home / "model")
    assert not Path("~").exists()


def test_a_tilde_is_the_home_folder_on_the_command_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "p.csv").write_text("prompt,skill\na red circle,single\n")
    assert main(["data", "import", "~/data", "--prompts=~/p.csv"]) == 0
    assert (home / "data" / "CURRENT").exists() and not Path("~").exists()
    assert main(["data", "show", "~/data"]) == 0
    for words in (["compare", "~/run"], ["report", "~/run"], ["check", "--config=~/missing.yaml"]):
        capsys.readouterr()
        assert main(words) == 2
        assert f"{home}/" in capsys.readouterr().err
    assert main(["data", "show", "~no-such-user/data"]) == 2
    assert "there is no user 'no-such-user'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"trainer: caf\xe9", "byte 0xE9 in line 1 is not UTF-8"),
        ("trainer: {}".encode("utf-16"), "it is UTF-16"),
        (b"a: " + b"[" * 3_000, "nested too deeply"),
        (b"a: \0b", "special characters"),
        (b"- a", "A config is a mapping"),
    ],
)
def test_a_config_that_cannot_be_read_is_one_sentence(home: Path, content: bytes, says: str) -> None:
    Path("bad [v2].yaml").write_bytes(content)
    for words in (["fit", "-c", "bad [v2].yaml"], ["fit", "--config=bad [v2].yaml"]):
        with pytest.raises(ConfigurationMistake, match=says):
            check_config_files(words)


def test_a_user_without_a_home_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "EVOLVEDIRECTOR_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", none)
    for place in (cache_folder, JobJournal, lambda: EvolvingDataModule(root="~/data")):
        with pytest.raises(UserError, match="home folder"):
            place()


def test_showing_a_root_writes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root_with_names("data")

    def there() -> list[tuple[str, int]]:
        # SQLite keeps its own two files beside a ledger that is read, where it may
        found = [path for path in Path("data").rglob("*") if not path.name.startswith("ledger.sqlite-")]
        return sorted((path.name, path.stat().st_mtime_ns) for path in found)

    before = there()
    monkeypatch.setattr(LedgerFile, "for_writing", None)
    assert main(["data", "show", "data"]) == 0
    assert there() == before


def test_a_run_folder_that_may_not_be_written_can_be_validated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    trainer: Any = SimpleNamespace(default_root_dir=str(tmp_path))
    saving: Any = SimpleNamespace(parser=None, config=None)
    SaveConfigInRunFolder.save_config(saving, trainer, trainer, "validate")
    assert list(tmp_path.iterdir()) == [] and "config-validate.yaml is left out" in capsys.readouterr().err


@pytest.mark.slow
def test_closed_folders_are_sentences_for_a_user_without_rights(home: Path) -> None:
    """In a process that may not pass permissions by, which root otherwise does."""
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    root_with_names("data")
    Path("closed").mkdir()
    for place, mode in (("closed", 0o555), ("data", 0o555), ("data/ledger.sqlite", 0o444), ("data/revisions", 0o555)):
        Path(place).chmod(mode)
    for words, code, says in (
        (["data", "show", "data"], 0, ""),
        (["data", "import", "closed/data", "--prompts", "p.jsonl"], 2, "closed/data"),
        (["data", "import", "data", "--prompts", "p.jsonl"], 1, "data/ledger.sqlite' cannot be written"),
    ):
        done = subprocess.run(
            [*drop, sys.executable, "-m", "evolvedirector", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        assert says in " ".join(done.stderr.split())
