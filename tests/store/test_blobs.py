import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

from evolvedirector.store import Blobs, StoreError


def encoded(kind: str, color: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (color, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "extension"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")])
def test_an_image_is_kept_once_under_its_sha256(tmp_path: Path, kind: str, extension: str) -> None:
    blobs, data = Blobs(tmp_path), encoded(kind)
    sha256 = blobs.put(data)
    assert sha256 == hashlib.sha256(data).hexdigest() == blobs.put(data)
    assert blobs.path(sha256) == tmp_path / "blobs" / sha256[:2] / f"{sha256}.{extension}"
    assert blobs.get(sha256) == data
    assert [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == [f"{sha256}.{extension}"]


def test_many_keep_their_order_and_duplicates(tmp_path: Path) -> None:
    datas = [encoded("PNG", n) for n in (1, 2, 3, 2, 1)]
    blobs = Blobs(tmp_path)
    assert [blobs.get(sha256) for sha256 in blobs.put_many(datas)] == datas


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Allowed are PNG, JPEG and WebP"):
        Blobs(tmp_path).put(b"<html>")
    assert not (tmp_path / "blobs").exists()


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    sha256 = blobs.put(encoded("PNG"))
    blobs.path(sha256).write_bytes(encoded("PNG", 9))
    with pytest.raises(StoreError, match="no longer has the content"):
        blobs.get(sha256)


def test_a_missing_image_and_a_path_are_refused(tmp_path: Path) -> None:
    assert not Blobs(tmp_path).has("0" * 64)
    with pytest.raises(StoreError, match="is not in"):
        Blobs(tmp_path).get("0" * 64)
    with pytest.raises(StoreError, match="is no name of a file"):
        Blobs(tmp_path).get("../../etc/passwd")
