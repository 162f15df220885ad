import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from evolvedirector.records import MAX_PROMPT_CHARACTERS, Prompt
from evolvedirector.store import DatasetStore, RevisionReader, StoreError
from evolvedirector.store.imports import (
    folder_images,
    import_images,
    import_prompts,
    read_prompt_file,
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


def test_a_text_file_has_one_prompt_per_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\ufeffa red circle\n\n  two   dogs \n", "utf-8")
    assert [prompt.text for prompt in read_prompt_file(tmp_path / "p.txt")] == ["a red circle", "two dogs"]


def test_a_jsonl_file_may_name_skills(tmp_path: Path) -> None:
    lines = [{"prompt": "one"}, {"text": "two", "skill": "counting"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [(p.text, p.skill) for p in read_prompt_file(tmp_path / "p.jsonl")] == [
        ("one", "unlabelled"),
        ("two", "counting"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "", "holds no prompt"),
        ("p.txt", "fine\n" + "x" * (MAX_PROMPT_CHARACTERS + 1), r"line 2: The prompt has 2001 characters"),
        ("p.txt", b"\xff\xfe", "cannot be read"),
        ("p.jsonl", '{"prompt": "fine"}\n{"prompt": 3}\nnonsense', r"line 2: (.|\n)*line 3: "),
        ("p.jsonl", '["a"]', "line 1"),
        ("p.jsonl", '{"prompt": "x", "skill": ["y"]}', "is no text"),
    ],
)
def test_a_bad_prompt_file_names_its_lines(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StoreError, match=message):
        read_prompt_file(tmp_path / name)
    with pytest.raises(StoreError, match="cannot be read"):
        read_prompt_file(tmp_path / "missing.txt")


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
    assert (report.images, report.duplicates) == (3, 1)
    assert len(problems) == 1 and "e.png" in problems[0] and "no caption" in problems[0]
    assert len(report.problems) == 1 and "f.png" in report.problems[0]
    live = store.state(report.revision_sha).in_state("live")
    assert [entry.prompt.text for entry in live] == ["picture 0", "picture 1", "picture 2"]
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


def test_what_is_no_whole_local_tar_is_refused(store: DatasetStore, tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "x.tar", {f"{n}.png": picture(n) for n in range(10)})
    cut = tmp_path / "cut.tar"
    cut.write_bytes(Path(whole).read_bytes()[: 1024 * 10])  # at a member's end: a tar reader notices nothing
    marker = tmp_path / "ran"
    for pattern in (str(cut), f"pipe:touch {marker}", "http://127.0.0.1:9/x.tar", str(tmp_path / "missing.tar")):
        with pytest.raises(StoreError, match=r"does not exist|no complete tar"):
            import_images(store, tar_images(pattern, []))
    assert not marker.exists() and store.current() is None
