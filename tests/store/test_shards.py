import io
import tarfile
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from evolvedirector.records import Prompt, Sample
from evolvedirector.store import StoreError
from evolvedirector.store.shards import open_index, regular_members, sample_members, write_shard

# webdataset does not close the tars it has read
leaves_files_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def members(count: int) -> list[dict]:
    prompts = [Prompt.create(f"thing {n} in Zürich", skill="counting") for n in range(count)]
    return [sample_members(Sample.create(p, f"{n:064x}", "toy"), png(n)) for n, p in enumerate(prompts)]


@leaves_files_open
def test_a_shard_is_a_plain_webdataset_tar_whose_index_finds_every_member(tmp_path: Path) -> None:
    given = members(5)
    shard = write_shard(tmp_path, 3, given)
    tar = tmp_path / f"{shard.name}.tar"
    assert shard.name == f"r0003-{shard.sha256[:12]}" and shard.samples == 5
    streamed = list(webdataset.WebDataset([str(tar)], shardshuffle=False))
    wanted = ("__key__", "json", "png", "txt")
    assert [{name: s[name] for name in wanted} for s in streamed] == [{name: s[name] for name in wanted} for s in given]
    records, tar_bytes = open_index(tmp_path / f"{shard.name}.index")
    data = tar.read_bytes()
    assert tar_bytes == len(data)
    for record, (sample, extension) in zip(records, [(s, e) for s in given for e in wanted[1:]], strict=True):
        assert record["key"].decode() == sample["__key__"] and record["extension"].decode() == extension
        assert data[record["offset"] : record["offset"] + record["size"]] == sample[extension]


def test_the_same_samples_give_the_same_shard(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "a", 1, members(3)) == write_shard(tmp_path / "b", 1, members(3))
    again = write_shard(tmp_path / "a", 1, members(3))
    assert (tmp_path / "a" / f"{again.name}.tar").read_bytes() == (tmp_path / "b" / f"{again.name}.tar").read_bytes()
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    shard = write_shard(tmp_path, 1, members(3))
    index = tmp_path / f"{shard.name}.index"
    whole = index.read_bytes()
    for damaged in (whole[:-1], b"x" + whole[1:], b""):
        index.write_bytes(damaged)
        with pytest.raises(StoreError):
            open_index(index)


@pytest.mark.parametrize("key", ["prompt.v2", "../x", "Ä", "", "a" * 65, "A"])
def test_a_key_that_webdataset_would_split_is_refused(key: str) -> None:
    with pytest.raises(StoreError, match="sample key"):
        sample_members(Sample(key, Prompt.create("x"), "0" * 64, "toy"), png(0))


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def cut_off():
        yield members(1)[0]
        raise RuntimeError("reader died")

    with pytest.raises(RuntimeError, match="reader died"):
        write_shard(tmp_path, 1, cut_off())
    assert list(tmp_path.iterdir()) == []


def test_links_in_a_tar_are_refused() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        link = tarfile.TarInfo("x.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    file.seek(0)
    with pytest.raises(StoreError, match="no regular file"):
        list(regular_members(file))
