"""`data add`, `data retire` and `data keys` as a user gives them."""

import csv
import fcntl
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evolvedirector.commands.data import main
from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore
from tests.store.sample_files import kept, picture, thing

Keys = Callable[..., str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with DatasetStore(tmp_path / "data", create=True) as store:
        odd = Prompt.create('a "quoted"\ttext, <b>[red]', skill="odd")
        samples = (
            *(kept(store.blobs, number) for number in range(3)),
            Sample.create(odd, store.blobs.put(picture(9)), "t"),
        )
        store.publish(None, "import", RevisionChange(samples=samples))
    return tmp_path / "data"


@pytest.fixture
def keys(root: Path, capsys: pytest.CaptureFixture[str]) -> Keys:
    def printed(*options: str) -> str:
        capsys.readouterr()
        assert main(["keys", str(root), *options]) == 0
        return capsys.readouterr().out

    return printed


def test_add_and_retire_say_what_they_did(root: Path, keys: Keys, capsys: pytest.CaptureFixture[str]) -> None:
    before = keys().splitlines()
    assert len(before) == 4
    more = root.parent / "more"
    more.mkdir()
    (more / "owl.png").write_bytes(picture(40))
    (more / "owl.txt").write_text("an owl")
    (more / "bat.png").write_bytes(picture(41))
    assert main(["add", str(root), "--images", str(more / "*.png")]) == 0
    said = capsys.readouterr()
    assert "Added 1 prompts and 1 captioned images" in said.out and "1 unusable ones" in said.out
    assert "Revision 2 (" in said.out and "a new run on this root reads it" in said.out and "bat.png" in said.err
    assert main(["retire", str(root), "--skill", "skill0"]) == 0
    assert main(["retire", str(root), before[1]]) == 0
    assert "Retired 1 prompts with 1 images" in capsys.readouterr().out
    assert len(keys().splitlines()) == 2
    (root.parent / "back.txt").write_text("thing 1\n")
    assert main(["add", str(root), "--prompts", str(root.parent / "back.txt")]) == 0
    assert "brought back 1 retired prompts" in capsys.readouterr().out
    assert before[1] in keys().splitlines() and keys("--revision", _first(root)).splitlines() == before
    assert main(["retire", str(root), "--prompts", str(root.parent / "back.txt")]) == 0


def _first(root: Path) -> str:
    return min((root / "revisions").glob("*.json")).stem.partition("-")[2]


def test_lists_for_programs_hold_every_text_as_it_is(root: Path, keys: Keys) -> None:
    listed = json.loads(keys("--json"))
    rows = list(csv.DictReader(io.StringIO(keys("--tsv")), dialect="excel-tab"))
    assert [row["key"] for row in rows] == [sample["key"] for sample in listed] == keys().splitlines()
    assert rows[3]["prompt"] == listed[3]["prompt"] == 'a "quoted"\ttext, <b>[red]'
    assert (root / rows[0]["shard"]).is_file() and rows[0]["parent"] == ""
    main(["retire", str(root), thing(1).id])
    assert keys("--left-out") == f"{rows[1]['shard']}/{rows[1]['key']}\n"


def test_a_list_may_be_cut_off_by_its_reader(root: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from evolvedirector.commands.data import main; sys.exit(main(sys.argv[1:]))",
    ]
    process = subprocess.Popen([*command, "keys", str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (0, b"")
    process.stderr.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["add", "ROOT", "--prompts", "p.txt"], "is open for writing in"),
        (["add", "ROOT", "--images", "p.png"], "is open for writing in"),
        (["retire", "ROOT", "--skill", "odd"], "is open for writing in"),
    ],
)
def test_an_edit_is_refused_while_a_run_holds_the_root(
    root: Path,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(root.parent)
    Path("p.txt").write_text("an owl")
    Path("p.png").write_bytes(picture(40))
    with open(root / ".lock", "r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main([str(root) if word == "ROOT" else word for word in words]) == 1
        assert message in capsys.readouterr().err
        assert main(["keys", str(root)]) == 0, "listing needs no lock"
    assert len(list((root / "revisions").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["retire", "data", "nobody"], 1, "1 of 1 ids are not in revision 1: 'nobody'"),
        (["retire", "data", "--skill", "nothing"], 1, "Its skills are 'odd', 'skill0', 'skill1'"),
        (["retire", "data"], 2, "ids, or --prompts FILE, or --skill NAME"),
        (["retire", "data", "x", "--skill", "odd"], 2, "ids, or --prompts FILE, or --skill NAME"),
        (["add", "data"], 2, "one of the arguments --prompts --images --webdataset is required"),
        (["add", "data", "--prompts", "missing.txt"], 1, "missing.txt"),
        (["add", "data", "--images", "*.png", "--roles", "mask"], 2, "beside --webdataset"),
        (["add", "nowhere", "--prompts", "missing.txt"], 1, "is no dataset root"),
        (["keys", "nowhere"], 1, "is no dataset root"),
        (["keys", "data", "--revision", "123456"], 1, "does not exist"),
    ],
)
def test_a_mistake_is_one_message_and_changes_nothing(
    root: Path,
    words: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(root.parent)
    try:
        assert main(words) == code
    except SystemExit as refused:
        assert refused.code == code
    assert message in capsys.readouterr().err
    assert len(list((root / "revisions").glob("*.json"))) == 1 and not Path("nowhere").exists()
