import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from evolvedirector.commands.data import main
from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore
from tests.store.sample_files import embedding, kept, picture


def test_import_and_show_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.txt").write_text("a red circle\nA red circle.\ntwo dogs\n")
    root = str(tmp_path / "data")
    assert main(["import", root, "--prompts", str(tmp_path / "p.txt")]) == 0
    assert "Imported 2 prompts and 0 captioned images" in capsys.readouterr().out
    assert main(["show", root]) == 0
    shown = capsys.readouterr().out
    assert "revision 1" in shown and "2: 2 candidate" in shown and "0 teacher calls" in shown
    assert main(["import", root, "--prompts", str(tmp_path / "p.txt")]) == 1
    assert "already holds revision 1" in capsys.readouterr().err


def test_show_an_older_revision_of_an_evolved_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = Prompt.create("a dog", skill="single")
    child = Prompt.create("a dog in the rain", "expansion", "single", seed)
    with DatasetStore(tmp_path, create=True) as store:
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4)).save(buffer, "PNG")
        sample = Sample.create(seed, store.blobs.put(buffer.getvalue()), "artist")
        first = store.publish(None, "import", RevisionChange(samples=(sample,), skill_weights={"single": 1.0}))
        store.publish(first, "round1", RevisionChange(prompts=(child,), states={seed.id: "mastered"}))
    assert main(["show", str(tmp_path)]) == 0
    newest = capsys.readouterr().out
    assert "revision 2" in newest and "1 mastered" in newest and "depth 1" in newest and "1 artist" in newest
    assert main(["show", str(tmp_path), "--revision", first[:8]]) == 0
    older = capsys.readouterr().out
    assert "revision 1" in older and "1: 1 live" in older and "no, that is" in older
    assert main(["show", str(tmp_path), "--revision", "ffffffff"]) == 1
    assert "The revisions there are: 000001-" in capsys.readouterr().err


def test_import_pictures_lists_what_it_skips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    (tmp_path / "a.txt").write_text("a black square")
    assert main(["import", str(tmp_path / "data"), "--images", str(tmp_path / "**")]) == 0
    printed = capsys.readouterr()
    assert "0 prompts and 1 captioned images" in printed.out and "b.png" in printed.err


def test_roles_and_variants_are_shown_where_there_are_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, content in {"a.png": picture(1), "a.txt": b"a thing", "a.mask.png": picture(9, mode="L")}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    root = tmp_path / "data"
    assert main(["import", str(root), "--webdataset", str(tmp_path / "x.tar"), "--roles", "mask"]) == 0
    assert main(["show", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "image, mask (1 of 1 samples)" in shown and "further images of" not in shown
    with DatasetStore(root) as store:
        sha = store.current() or ""
        sha = store.publish(sha, "round1", RevisionChange(samples=(kept(store.blobs, 1), kept(store.blobs, 1, 5, "b"))))
        keys = [s.key for entry in store.state(sha).entries.values() for s in entry.samples]
        store.publish_companion(sha, "clip", [(key, {"image_embedding": embedding(1)}) for key in keys])
    assert main(["show", str(root)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "mask (1 of 3 samples), image_embedding (3 samples, derived: c0003-" in shown
    assert "1 further images of 1 prompts" in shown and "3 images in 2 shards" in shown
    with pytest.raises(SystemExit):
        main(["import", str(tmp_path / "other"), "--images", "x/**", "--roles", "mask"])
    assert "beside --webdataset" in capsys.readouterr().err


def test_a_mistyped_file_leaves_no_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(tmp_path / "data"), "--prompts", str(tmp_path / "missing.txt")]) == 1
    assert "cannot be read" in capsys.readouterr().err and not (tmp_path / "data").exists()
    assert main(["show", str(tmp_path / "data")]) == 1
    assert "is no dataset root" in capsys.readouterr().err


def test_every_left_out_file_is_listed_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(25):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{n:02}[b].png")
    root, pictures = tmp_path / "runs" / "data", str(tmp_path / "*.png")
    assert main(["import", str(root), "--images", pictures]) == 1
    printed = capsys.readouterr().err
    assert "No captioned picture could be imported" in printed and printed.count("it has no caption") == 20
    listed = root.with_name("data.left_out.txt")
    assert f"All 25 are listed in '{listed}'" in printed and len(listed.read_text().splitlines()) == 25
    assert not root.exists() and "24[b].png: it has no caption; write one into '24[b].txt'" in listed.read_text()
    for n in range(2):
        (tmp_path / f"{n:02}[b].txt").write_text("one caption")
    assert main(["import", str(root), "--images", pictures]) == 0
    printed = capsys.readouterr()
    assert "1 captioned images" in printed.out and "left out 1 duplicates and 23 unusable" in printed.out
    assert "All 24 are listed" in printed.err and len(listed.read_text().splitlines()) == 24
    assert main(["import", str(root), "--images", pictures]) == 1
    assert "already holds" in capsys.readouterr().err and len(listed.read_text().splitlines()) == 24


def test_show_tells_who_did_not_answer_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with DatasetStore(tmp_path, create=True) as store:
        store.publish(None, "import", RevisionChange(prompts=(Prompt.create("a dog"),)))
        store.ledger.faults.add("r1", "teacher one", ["HTTP 402: no money", "HTTP 402: no money", "cut off"])
        store.ledger.faults.add("r1", "judge", ["HTTP 429"])
    assert main(["show", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "no answer" in shown and "teacher one 2 x HTTP 402: no money, 1 x cut off" in shown
    assert "judge 1 x HTTP 429" in shown
