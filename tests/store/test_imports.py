import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from evolvedirector.records import MAX_PROMPT_CHARACTERS, Prompt
from evolvedirector.store import DatasetStore, RevisionReader, StoreError
from evolvedirector.store.imports import (
    CaptionedImage,
    folder_images,
    import_images,
    import_prompts,
    new_root,
    tar_images,
)
from tests.store.sample_files import npy


def picture(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def tar_of(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.fixture
def store(tmp_path: Path):
    with DatasetStore(tmp_path / "data", create=True) as opened:
        yield opened


def test_prompts_become_candidates_without_duplicates_and_held_out_ones(store: DatasetStore) -> None:
    prompts = [Prompt.create(text) for text in ("A red circle.", "a red  circle", "two dogs", "a secret")]
    report = import_prompts(store, prompts, {Prompt.create("The secret").id})
    assert (report.prompts, report.duplicates, report.held_out) == (2, 1, 1)
    state = store.state(report.revision_sha)
    assert [entry.prompt.text for entry in state.in_state("candidate")] == ["A red circle.", "two dogs"]
    with pytest.raises(StoreError, match="already holds revision 1"):
        import_prompts(store, [Prompt.create("more")])


def test_nothing_to_import_is_an_error(store: DatasetStore) -> None:
    with pytest.raises(StoreError, match=r"0 duplicates and 1 held-out"):
        import_prompts(store, [Prompt.create("a secret")], {Prompt.create("a secret").id})
    assert store.current() is None


def test_captioned_pictures_become_live_samples(store: DatasetStore, tmp_path: Path) -> None:
    folder = tmp_path / "pictures" / "deep"
    folder.mkdir(parents=True)
    for n, (name, kind) in enumerate([("a.png", "PNG"), ("b.JPG", "JPEG"), ("c.webp", "WEBP"), ("d.png", "PNG")]):
        (folder / name).write_bytes(picture(n, kind))
        (folder / name).with_suffix(".txt").write_text(f"picture {n}" if name != "d.png" else "Picture 0.")
    (folder / "e.png").write_bytes(picture(9))
    (folder / "f.png").write_bytes(picture(9)[:-35])
    (folder / "f.txt").write_text("cut short")
    problems: list[str] = []
    report = import_images(store, folder_images(str(tmp_path / "pictures"), problems))
    assert (report.images, report.duplicates) == (4, 0)
    assert len(problems) == 1 and "e.png" in problems[0] and "no caption" in problems[0]
    assert len(report.problems) == 1 and "f.png" in report.problems[0]
    live = store.state(report.revision_sha).in_state("live")
    assert [entry.prompt.text for entry in live] == ["picture 0", "picture 1", "picture 2"]
    assert [len(entry.samples) for entry in live] == [2, 1, 1]
    assert {entry.sample.teacher for entry in live if entry.sample} == {"given"}


def test_pictures_that_cannot_be_used_are_listed(store: DatasetStore, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"<html>")
    (tmp_path / "a.txt").write_text("a page")
    with pytest.raises(StoreError, match=r"No captioned picture could be imported(.|\n)*a\.png"):
        import_images(store, folder_images(str(tmp_path / "*.png"), []))
    with pytest.raises(StoreError, match="matches no picture"):
        import_images(store, folder_images(str(tmp_path / "*.gif"), []))
    assert store.current() is None


def test_foreign_tars_are_streamed(store: DatasetStore, tmp_path: Path) -> None:
    about = json.dumps({"caption": "from json", "skill": "colour"}).encode()
    tar_of(
        tmp_path / "x-000.tar", {"a.png": picture(1), "a.txt": b"from text", "a.pkl": b"cos\nsystem\n(S'false'\ntR."}
    )
    tar_of(tmp_path / "x-001.tar", {"b.JPG": picture(2, "JPEG"), "b.json": about, "c.txt": b"no picture"})
    problems: list[str] = []
    report = import_images(store, tar_images(str(tmp_path / "x-{000..001}.tar"), problems))
    live = store.state(report.revision_sha).in_state("live")
    assert [(e.prompt.text, e.prompt.skill) for e in live] == [("from text", "unlabelled"), ("from json", "colour")]
    assert len(problems) == 1 and "x-001.tar:c" in problems[0]


def test_further_roles_of_foreign_tars_are_kept_when_asked_for(store: DatasetStore, tmp_path: Path) -> None:
    grey, array = picture(7), npy([1, 2])
    members = {"a.png": picture(1), "a.txt": b"whole", "a.mask.png": grey, "a.source.JPEG": picture(2, "JPEG")}
    members |= {"b.png": picture(3), "b.txt": b"no mask", "b.source.jpg": picture(2, "JPEG")}
    members |= {"c.png": picture(4), "c.txt": b"no picture", "c.mask.png": array, "c.source.jpg": picture(2, "JPEG")}
    members |= {"d.png": picture(5), "d.txt": b"two masks", "d.mask.png": grey, "d.mask.npy": array}
    tar_of(tmp_path / "x.tar", members)
    problems: list[str] = []
    report = import_images(store, tar_images(str(tmp_path / "x.tar"), problems, ["mask", "source"]))
    (entry,) = store.state(report.revision_sha).in_state("live")
    assert entry.sample is not None and entry.sample.roles == ("image", "mask", "source")
    assert entry.sample.files["source"].media_type == "image/jpeg" and entry.sample.files["mask"].width_px == 8
    reader = RevisionReader(store.root, report.revision_sha, ("image", "mask", "source"))
    assert reader.raw(0, verify=True)["mask.png"] == grey
    assert [problem.split(":", 1)[1][:1] for problem in problems] == ["b", "c", "d"]
    assert "0 members 'mask.<extension>'" in problems[0] and "the role 'mask': This is no image" in problems[1]
    with pytest.raises(StoreError, match="cannot be used"):
        list(tar_images(str(tmp_path / "x.tar"), [], ["../mask"]))


def test_a_role_with_a_question_mark_is_kept_of_the_samples_that_have_it(store: DatasetStore, tmp_path: Path) -> None:
    members = {"a.png": picture(1), "a.txt": b"one", "a.edge.png": picture(7)}
    members |= {"b.png": picture(3), "b.txt": b"other", "c.png": picture(4), "c.txt": b"odd", "c.edge.gif": b"GIF"}
    tar_of(tmp_path / "x.tar", members)
    problems, notes = list[str](), list[str]()
    report = import_images(store, tar_images(str(tmp_path / "x.tar"), problems, ["edge?"], notes))
    roles = [entry.sample.roles for entry in store.state(report.revision_sha).in_state("live") if entry.sample]
    assert roles == [("image", "edge"), ("image",)] and not notes
    assert len(problems) == 1 and "0 members 'edge.<extension>'" in problems[0]  # there, and of no kind that is read
    with pytest.raises(StoreError, match="cannot be used"):
        tar_images(str(tmp_path / "x.tar"), [], ["?"])


def test_only_local_files_are_opened(store: DatasetStore, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for pattern in (f"pipe:touch {marker}", "http://127.0.0.1:9/x.tar", str(tmp_path / "missing.tar")):
        with pytest.raises(StoreError, match="does not exist"):
            import_images(store, tar_images(pattern, []))
    with pytest.raises(StoreError, match="matches no tar"):
        tar_images(str(tmp_path / "*.tar"), [])
    assert not marker.exists() and store.current() is None


def test_pictures_of_one_caption_are_variants_and_the_same_bytes_are_named(store: DatasetStore, tmp_path: Path) -> None:
    about = [
        (1, "A card.", "x"),
        (2, "a card", "unlabelled"),
        (3, "the card", "y"),
        (1, "a card", "x"),
        (1, "a fox", "x"),
    ]
    images = [CaptionedImage(f"row {n}", text, picture(tone), skill) for n, (tone, text, skill) in enumerate(about)]
    report = import_images(store, images)
    card, fox = store.state(report.revision_sha).in_state("live")
    assert [len(card.samples), len(fox.samples)] == [3, 1] and report.images == 4 and report.duplicates == 1
    assert {(s.prompt.text, s.prompt.skill) for s in card.samples} == {("A card.", "x")}
    assert card.samples[1].variant == hashlib.sha256(picture(2)).hexdigest()[:12]
    assert report.problems == ["row 3: the same picture with the same caption as row 0"]
    assert report.notes == ["row 2: counted under 'x', as its caption is, not 'y'"]
    assert len(RevisionReader(store.root, report.revision_sha)) == 4


def test_pictures_of_other_forms_come_in(store: DatasetStore, tmp_path: Path) -> None:
    for name, kind in (("a.gif", "GIF"), ("b.BMP", "BMP"), ("c.tga", "TGA")):
        (tmp_path / name).write_bytes(picture(7, kind))
        (tmp_path / name).with_suffix(".txt").write_text(name)
    Image.new("L", (2, 2)).save(tmp_path / "d.gif", save_all=True, append_images=[Image.new("L", (2, 2), 9)])
    (tmp_path / "d.json").write_text('{"text": "moving"}')
    problems: list[str] = []
    report = import_images(store, folder_images(str(tmp_path / "*.*"), problems), problems)
    assert report.images == 3 and report.problems is problems and len(problems) == 1
    assert "d.gif" in problems[0] and "several frames" in problems[0]
    assert RevisionReader(store.root, report.revision_sha).raw(0, verify=True)["png"].startswith(b"\x89PNG")


def test_files_that_belong_to_no_picture_are_named(tmp_path: Path) -> None:
    for name in ("a.png", "a.caption", "b.heic", "b.txt", "c.PNG", "c.TXT", "d.json"):
        (tmp_path / name).write_bytes(picture(1) if name.lower().endswith("png") else b"words")
    problems: list[str] = []
    assert [item.caption for item in folder_images(str(tmp_path), problems)] == ["words"]
    reasons = {Path(problem.split(": ")[0]).name: problem for problem in problems}
    assert sorted(reasons) == ["a.caption", "a.png", "b.heic", "b.txt", "d.json"]
    assert "'a.caption' is not read" in reasons["a.png"] and "not supported: '.heic'" in reasons["b.heic"]
    assert "no picture of this name" in reasons["b.txt"] and "no picture of this name" in reasons["d.json"]


def test_further_files_that_no_role_names_are_noted(tmp_path: Path) -> None:
    members = {"a.png": picture(1), "a.txt": b"a", "a.mask.png": picture(2), "a.cls": b"3"}
    notes: list[str] = []
    list(tar_images(tar_of(tmp_path / "x.tar", members), [], (), notes))
    assert len(notes) == 1 and "mask.png (1)" in notes[0] and "cls (1)" in notes[0]
    list(tar_images(str(tmp_path / "x.tar"), [], ["mask"], notes := []))
    assert "mask" not in notes[0].rpartition(":")[2]


def test_captions_that_cannot_be_stored_cost_one_picture(store: DatasetStore) -> None:
    texts = ["fine", "a cat \ud83d", "a\0b", "", "x" * (MAX_PROMPT_CHARACTERS + 1)]
    images = [CaptionedImage(f"row {n}", text, picture(n)) for n, text in enumerate(texts)]
    report = import_images(store, [*images, CaptionedImage("row 5", "skill", picture(9), "sk\udc00ill")])
    assert report.images == 1 and [problem[:5] for problem in report.problems] == [f"row {n}" for n in range(1, 6)]


@pytest.mark.parametrize("existing", ["nothing", "empty", "hidden"])
def test_a_root_made_for_a_failed_import_goes_again(tmp_path: Path, existing: str) -> None:
    root = tmp_path / "deep" / "data"
    if existing != "nothing":
        root.mkdir(parents=True)
    if existing == "hidden":
        (root / ".keep").write_text("")
    with pytest.raises(StoreError, match="No captioned"), new_root(root) as store:
        store.blobs.put(picture(1))
        import_images(store, [])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ([".keep"] if existing == "hidden" else [])
    assert root.exists() == (existing != "nothing") == root.parent.exists()
    with new_root(root) as store:
        import_images(store, [CaptionedImage("row", "a card", picture(1))])
    with pytest.raises(StoreError, match="already holds revision 1"), new_root(root) as store:
        import_images(store, [])
    assert (root / "CURRENT").exists()
