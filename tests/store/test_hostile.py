"""A hundred hostile tars and pictures: each is refused with its reason or read as what it is, and runs nothing."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolvedirector.records import RevisionChange
from evolvedirector.store import DatasetStore, RevisionFiles, RevisionReader, StoreError
from evolvedirector.store.evolving_dataset import decode_sample
from evolvedirector.store.files import checked_file
from evolvedirector.store.images import decode_image
from evolvedirector.store.imports import tar_images, usable_image
from evolvedirector.store.pictures import kept_picture
from evolvedirector.store.shards import index_tar, open_index, write_index
from evolvedirector.store.verify import verify_root
from tests.crash.faulty_disk import in_a_child
from tests.store.hostile_files import GOOD, Hostile, pictures, tars
from tests.store.sample_files import kept

MORE_MEMORY_BYTES = 768 * 2**20
"""What reading may take beside what the process has: a picture of the largest size takes 100 MB, and is copied."""
_RUNS = ("exec", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class", "os.fork")


def guarded(work: Callable[[], Any], folder: Path) -> Any:
    """Do something in a process that has little memory, may start nothing, and may write to one folder alone."""
    found = folder / "found.json"

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _RUNS and not (event == "exec" and _is_import(sys._getframe(1))):
            raise AssertionError(f"{event} {arguments}")
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = Path(os.fsdecode(arguments[0])).absolute()
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not path.is_relative_to(folder):
                raise AssertionError(f"{path} is written")
            if path == Path("/etc/passwd"):
                raise AssertionError(f"{path} is read")

    def child() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY_BYTES, used + MORE_MEMORY_BYTES))
        sys.addaudithook(watch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = work()
        found.write_text(json.dumps(result))

    assert in_a_child(child) == (0, "")
    return json.loads(found.read_text())


def _is_import(frame: Any) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("importlib") or "importlib" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


every_tar = cache(lambda: list(tars()))
every_picture = cache(lambda: list(pictures()))
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def imported(hostile: Hostile, path: Path) -> list[Any]:
    """Read a tar as `data import` does; returns captions of what enters, and what is said of the rest."""
    path.write_bytes(hostile.data)
    problems: list[str] = []
    captions = []
    for image in tar_images(str(path), problems, ["mask"] if hostile.name.startswith("mask") else []):
        try:
            usable_image(image)
            captions.append(image.caption)
        except StoreError as error:
            problems.append(str(error))
    return [captions, problems]


@linux
def test_hostile_tars_are_imported_as_far_as_they_can_be_and_the_rest_is_told(tmp_path: Path) -> None:
    every = every_tar()
    assert len({hostile.name for hostile in every}) == len(every) >= 80
    every_picture()  # brings the plugins of Pillow in, before nothing may be executed
    found = guarded(lambda: [imported(hostile, tmp_path / "x.tar") for hostile in every], tmp_path)
    wrong = [
        (hostile.name, captions, problems)
        for hostile, (captions, problems) in zip(every, found, strict=True)
        if (captions.count(GOOD), len(captions) - captions.count(GOOD)) != (hostile.good_ones, hostile.entering)
        or bool(problems) != hostile.is_told
        or not all(reason.strip() for reason in problems)
    ]
    assert not wrong
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json", "x.tar"]


def picture_read(data: bytes, extension: str) -> str:
    """Keep a picture as an import does, and read it as training does; returns why it cannot be used."""
    try:
        content = kept_picture(data, extension)
        checked_file(content, "jpg" if content[:2] == b"\xff\xd8" else "webp" if content[:4] == b"RIFF" else "png")
    except StoreError as error:
        return str(error)
    return ""


@linux
def test_hostile_pictures_are_refused_or_read_whole(tmp_path: Path) -> None:
    every = every_picture()
    assert len(every) + len(every_tar()) >= 120
    found = guarded(lambda: [picture_read(data, extension) for _, extension, data, _ in every], tmp_path)
    pairs = zip(every, found, strict=True)
    assert [(name, reason) for (name, _, _, is_taken), reason in pairs if is_taken == bool(reason)] == []


def test_what_a_camera_turned_and_16_bits_are_seen_as_training_would() -> None:
    by_name = {name: data for name, _, data, _ in every_picture()}
    assert decode_image(by_name["turned by its camera"]).shape == (16, 8, 3)
    assert decode_image(by_name["16 bits of grey"])[0, 0].tolist() == [156, 156, 156]
    assert decode_image(by_name["CMYK"]).shape == (8, 16, 3)


def read_and_verified(shard: bytes, root: Path, template: Path) -> list[Any]:
    """Read and verify a root around a tar; returns what was said."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root)
    said: list[str] = []
    try:
        index_tar(_reworked(root, shard))
    except StoreError as error:
        said.append(str(error))
    found = verify_root(root)
    try:
        reader = RevisionReader(root, RevisionFiles(root).current() or "")
        decode_sample(reader.raw(0, verify=True), 8)
    except StoreError as error:
        said.append(str(error))
    return [said, found.is_whole]


def _reworked(root: Path, shard: bytes) -> Path:
    """Put a shard in the place of the one that the newest revision names."""
    files = RevisionFiles(root)
    body = files.body(files.current() or "")
    (old,) = body["shards"]
    digest = hashlib.sha256(shard).hexdigest()
    name = f"r0001-{digest[:12]}"
    (root / "shards" / f"{name}.tar").write_bytes(shard)
    records, _ = open_index(root / "shards" / f"{old['name']}.index")
    write_index(root / "shards" / f"{name}.index", np.array(records), len(shard))
    body["shards"] = [{**old, "name": name, "sha256": digest, "tar_bytes": len(shard)}]
    body["samples"][0]["shard"] = name
    files.set_current(files.write(body))
    return root / "shards" / f"{name}.tar"


@pytest.mark.slow
@linux
def test_a_root_with_a_hostile_shard_is_refused_by_reader_and_verify(tmp_path: Path) -> None:
    with DatasetStore(tmp_path / "template", create=True) as store:
        store.publish(None, "import", RevisionChange(samples=(kept(store.blobs, 0),)))
    every = every_tar()
    work = tmp_path / "root"
    found = guarded(lambda: [read_and_verified(h.data, work, tmp_path / "template") for h in every], tmp_path)
    names = [hostile.name for hostile, (said, whole) in zip(every, found, strict=True) if whole or not said]
    assert names == []


@pytest.mark.parametrize(
    ("field", "value"), [("size", 2**62), ("offset", 2**63), ("size", 2**64 - 1), ("offset", 10**9), ("size", 0)]
)
def test_an_index_that_claims_other_places_reads_nothing(tmp_path: Path, field: str, value: int) -> None:
    with DatasetStore(tmp_path / "data", create=True) as store:
        sha = store.publish(None, "import", RevisionChange(samples=(kept(store.blobs, 0),)))
    path = next((tmp_path / "data" / "shards").glob("*.index"))
    records, tar_bytes = open_index(path)
    lying = np.array(records)
    lying[field] = value
    write_index(path, lying, tar_bytes)
    with pytest.raises(StoreError, match="is damaged"):
        RevisionReader(tmp_path / "data", sha).raw(0, verify=True)
    assert not verify_root(tmp_path / "data").is_whole


def test_an_index_of_fewer_samples_reads_nothing(tmp_path: Path) -> None:
    with DatasetStore(tmp_path / "data", create=True) as store:
        sha = store.publish(None, "import", RevisionChange(samples=(kept(store.blobs, 0), kept(store.blobs, 1))))
    path = next((tmp_path / "data" / "shards").glob("*.index"))
    records, tar_bytes = open_index(path)
    write_index(path, np.array(records[:3]), tar_bytes)
    with pytest.raises(StoreError, match="is damaged"):
        RevisionReader(tmp_path / "data", sha).raw(1)


@pytest.mark.parametrize(
    "changed",
    [
        {"shards": [{"name": "../../outside", "samples": 1, "tar_bytes": 1, "sha256": "0" * 64}]},
        {"shards": [{"name": "r0001-000000000000\n", "samples": 1, "tar_bytes": 1, "sha256": "0" * 64}]},
        {"shards": [{"nonsense": 1}]},
        {"shards": 3},
        {"samples": [{"key": "x", "prompt_id": "nobody"}]},
        {"prompts": [{"id": "x"}]},
        {"states": {"nobody": "live"}},
        {"states": []},
        {"companions": [{"name": "/etc/c0001-000000000000", "samples": 1, "tar_bytes": 1, "sha256": "", "roles": []}]},
    ],
)
def test_a_revision_that_no_program_wrote_is_one_sentence(tmp_path: Path, changed: dict[str, Any]) -> None:
    with DatasetStore(tmp_path / "data", create=True) as store:
        sha = store.publish(None, "import", RevisionChange(samples=(kept(store.blobs, 0),)))
    files = RevisionFiles(tmp_path / "data")
    files.set_current(other := files.write({**files.body(sha), **changed}))
    with pytest.raises(StoreError):
        RevisionReader(tmp_path / "data", other)
    assert {damage.kind for damage in verify_root(tmp_path / "data").damages} >= {"revision"}


@pytest.mark.parametrize("data", [b"[" * 10**5, b"[1]", b"\xff\xfe", b"{"])
def test_a_revision_that_is_no_json_object_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    with DatasetStore(tmp_path / "data", create=True) as store:
        store.publish(None, "import", RevisionChange(samples=(kept(store.blobs, 0),)))
    sha = hashlib.sha256(data).hexdigest()
    (tmp_path / "data" / "revisions" / f"000002-{sha[:12]}.json").write_bytes(data)
    (tmp_path / "data" / "CURRENT").write_text(sha)
    with pytest.raises(StoreError):
        RevisionReader(tmp_path / "data", sha)
    assert {damage.kind for damage in verify_root(tmp_path / "data").damages} >= {"revision"}


def test_a_current_of_noise_is_one_sentence(tmp_path: Path) -> None:
    with DatasetStore(tmp_path / "data", create=True) as store:
        store.publish(None, "import", RevisionChange(samples=(kept(store.blobs, 0),)))
    (tmp_path / "data" / "CURRENT").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match="does not exist"):
        RevisionReader(tmp_path / "data", RevisionFiles(tmp_path / "data").current() or "")
    assert {damage.kind for damage in verify_root(tmp_path / "data").damages} == {"missing"}
