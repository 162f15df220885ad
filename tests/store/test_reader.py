import io
import multiprocessing
import pickle
from pathlib import Path

import pytest
from PIL import Image

from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore, EvolvingDataset, RevisionReader, StoreError


@pytest.fixture
def reader(tmp_path: Path) -> RevisionReader:
    with DatasetStore(tmp_path, create=True) as store:
        parent = None
        for n in range(4):
            buffer = io.BytesIO()
            Image.new("RGB", (8 + 8 * (n % 2), 8), (n, 0, 0)).save(buffer, "PNG")
            sample = Sample.create(Prompt.create(f"thing {n}"), store.blobs.put(buffer.getvalue()), "toy")
            parent = store.publish(parent, f"round{n}", RevisionChange(samples=(sample,)))
    assert parent is not None
    return RevisionReader(tmp_path, parent)


def keys(reader: RevisionReader) -> list[str]:
    return [str(reader.raw(row)["__key__"]) for row in range(len(reader))]


def test_aspects_are_strata(reader: RevisionReader) -> None:
    assert [stratum.bucket for stratum in reader.strata] == [0, 2]
    assert reader.stratum_of_row.tolist() == [0, 1, 0, 1]


def test_a_pickled_reader_opens_the_files_again(reader: RevisionReader) -> None:
    wanted = keys(reader)
    assert keys(pickle.loads(pickle.dumps(reader))) == wanted
    reader.close()
    assert keys(reader) == wanted


def test_forked_readers_do_not_disturb_each_other(reader: RevisionReader) -> None:
    wanted = keys(reader)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = [pool.apply_async(keys, (reader,)) for _ in range(4)]
        assert [result.get(60) for result in results] == [wanted] * 4
    assert keys(reader) == wanted


def test_more_shards_than_may_be_open(reader: RevisionReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolvedirector.store.reader._MAX_OPEN_SHARDS", 2)
    assert keys(reader) == keys(reader) == [str(key) for key in reader.keys]


def test_damage_is_noticed(reader: RevisionReader) -> None:
    tars = list((reader.root / "shards").glob("r0001-*.tar"))
    whole = tars[0].read_bytes()
    tars[0].write_bytes(whole.replace(b"thing 0", b"thing X"))
    reader.raw(0)
    with pytest.raises(StoreError, match="is damaged"):
        reader.raw(0, verify=True)
    reader.close()
    tars[0].write_bytes(whole[:-512])
    with pytest.raises(StoreError, match="bytes long"):
        reader.raw(0)
    tars[0].unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        reader.raw(0)


def test_a_foreign_loader_reads_the_keyed_order(reader: RevisionReader) -> None:
    dataset = EvolvingDataset(reader.root, reader.revision_sha[:8], image_size_px=4)
    parts = [list(dataset.batch_sampler(4, rank, 2, seed=3, start_batch=1, batches=5)) for rank in range(2)]
    order = reader.order(3, 4)
    assert [a + b for a, b in zip(*parts, strict=True)] == [order.global_batch(b).tolist() for b in range(1, 6)]
    assert len(dataset.batch_sampler(4, batches=5)) == 5 and len(dataset) == 4
    assert dataset[1]["image"].shape == (4, 4, 3) and dataset[1]["prompt"] == "thing 1"
    stored = EvolvingDataset(reader.root, reader.revision_sha)[1]["image"]
    assert stored.shape == (8, 16, 3)
    first = EvolvingDataset(reader.root, reader.revision_sha, channels_first=True)[1]["image"]
    assert first.shape == (3, 8, 16) and (first.transpose(1, 2, 0) == stored).all()
    with pytest.raises(ValueError, match="divisible by the number of ranks"):
        dataset.batch_sampler(4, 0, 3)
