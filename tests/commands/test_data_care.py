import json
from pathlib import Path

import pytest

from evolvedirector.commands.data import main
from evolvedirector.records import RevisionChange
from evolvedirector.store import DatasetStore, RevisionFiles
from tests.store.sample_files import kept


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with DatasetStore(tmp_path / "data", create=True) as store:
        first = store.publish(None, "import", RevisionChange(samples=(kept(store.blobs, 0), kept(store.blobs, 1))))
        store.publish(first, "round1", RevisionChange(states={kept(store.blobs, 1).prompt.id: "mastered"}))
    return tmp_path / "data"


def test_verify_says_what_is_wrong_mends_it_and_says_so_by_its_exit_code(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(root)]) == 0
    assert "2 revisions, 1 shards, 2 blobs and the ledger: whole (0.0 MiB read)" in capsys.readouterr().out
    next(root.glob("shards/*.tar")).unlink()
    assert main(["verify", str(root), "--quick"]) == 1
    said = capsys.readouterr().out
    assert "missing: shards/r0001-" in said and "--repair" in said and "1 damaged (names and sizes alone)" in said
    assert main(["verify", str(root), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["damages"][0]["kind"] == "missing"
    assert main(["verify", str(root), "--repair"]) == 0
    assert ": mended\n2 revisions" in capsys.readouterr().out


def test_a_folder_that_is_no_root_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 1
    assert "is no dataset root" in capsys.readouterr().err


def test_push_says_what_it_brought_and_the_url_can_be_looked_at(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOLVEDIRECTOR_CACHE", str(tmp_path / "cache"))
    url = f"file://{tmp_path}/there"
    assert main(["push", str(root), url]) == 0
    newest = RevisionFiles(root).current()
    assert newest is not None
    said = capsys.readouterr().out
    assert said.startswith("Pushed 2 revisions (7 objects, 0.0 MiB) to 'file://")
    assert f"The newest one there is {newest[:12]}." in said
    assert main(["push", str(root), url, "--thorough"]) == 0
    assert "Pushed 0 revisions (0 objects" in capsys.readouterr().out
    assert main(["diff", url]) == 0
    assert "1 prompts: live -> mastered" in capsys.readouterr().out
    assert main(["show", url]) == 0
    said = capsys.readouterr().out
    assert f"{url}: revision 2 ({newest[:12]})" in said
    assert "no ledger" in said
    with pytest.raises(SystemExit):
        main(["collect", url])
    assert "At a URL work `data show` and `data diff`" in capsys.readouterr().err
    first = min(path.stem for path in root.glob("revisions/*.json")).partition("-")[2]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RevisionFiles, "current", lambda files: files.resolve(first))
        assert main(["diff", url]) == 1
    assert f"Revision 1 of '{url}' is the first" in capsys.readouterr().err
    assert main(["push", str(root), "sftp://host.invalid/there"]) == 1
    assert "cannot create a name only where there is none" in capsys.readouterr().err


def test_diff_tells_what_changed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = min(path.stem for path in root.glob("revisions/*.json")).partition("-")[2]
    assert main(["diff", str(root), first]) == 0
    said = capsys.readouterr().out
    assert "to 2" in said and "1 prompts: live -> mastered" in said and "live prompts: 2 -> 1" in said
    assert main(["diff", str(root)]) == 0
    assert capsys.readouterr().out == said
    assert main(["diff", str(root), first, first]) == 0
    assert "nothing: both hold and draw the same" in capsys.readouterr().out
    assert main(["diff", str(root), first, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["states"].values()) == [["live", "mastered"]]


def test_compact_says_what_it_writes_and_collect_what_it_deletes(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DatasetStore(root) as store:
        for number in (2, 3):
            added = RevisionChange(samples=(kept(store.blobs, number),))
            store.publish(store.current(), f"round{number}", added)
    before = sorted(path for path in root.rglob("*") if ".sqlite-" not in path.name)
    assert main(["compact", str(root), "--dry-run"]) == 0
    assert "Would write 4 samples of 3 shards" in capsys.readouterr().out
    assert main(["collect", str(root), "--dry-run", "--keep", "1"]) == 0
    assert "Would delete 0 files, 0 bytes. Nothing was deleted." in capsys.readouterr().out
    assert sorted(path for path in root.rglob("*") if ".sqlite-" not in path.name) == before
    assert main(["compact", str(root)]) == 0
    assert "in 1, as revision 5 (" in capsys.readouterr().out
    assert main(["compact", str(root)]) == 0
    assert "Revision 5 lies in 1 shard: nothing to compact." in capsys.readouterr().out
    assert main(["collect", str(root), "--keep", "1", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.count("\nshard: ") + said.startswith("shard: ") == 6 and "Would delete 6 files" in said
    assert main(["collect", str(root), "--keep", "1"]) == 0
    said = capsys.readouterr().out
    assert "6 files of shards: " in said and "Kept whole: 1 revisions: 1 (newest)" in said
    assert "Losing files: 4 older ones.\nDeleted 6 files" in said
    assert main(["verify", str(root)]) == 0


@pytest.mark.parametrize("word", [["compact"], ["compact", "--dry-run"], ["collect"], ["collect", "--dry-run"]])
def test_both_are_refused_while_another_process_writes(
    root: Path, word: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with DatasetStore(root):
        assert main([word[0], str(root), *word[1:]]) == 1
    assert "open for writing" in capsys.readouterr().err
