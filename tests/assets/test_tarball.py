from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from evolvedirector.assets import tarball
from evolvedirector.assets.asset_error import AssetError
from evolvedirector.assets.emoji_packages import EMOJI_PACKAGES
from evolvedirector.assets.npm_package import NpmPackage
from evolvedirector.assets.tarball import extract_members, verify_tarball
from tests.emoji_toys import pinned, write_tarball

CAPTIONS = EMOJI_PACKAGES[0]


def _pack(path: Path, members: dict[str, bytes]) -> NpmPackage:
    write_tarball(path, members)
    return pinned(CAPTIONS, path)


def test_only_the_needed_members_are_kept(tmp_path: Path) -> None:
    package = _pack(
        tmp_path / "a.tgz", {"package/en/data.json": b"[1]", "package/install.js": b"x", "package/LICENSE": b"M"}
    )
    out = tmp_path / "out"
    out.mkdir()
    assert extract_members(tmp_path / "a.tgz", package, out) == {"en/data.json": 3, "LICENSE": 1}
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == ["LICENSE", "en/data.json"]


def test_another_file_of_the_same_size_is_refused(tmp_path: Path) -> None:
    package = _pack(tmp_path / "a.tgz", {"package/en/data.json": b"[1]"})
    verify_tarball(tmp_path / "a.tgz", package)
    data = bytearray((tmp_path / "a.tgz").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a.tgz").write_bytes(bytes(data))
    with pytest.raises(AssetError, match=package.sha256):
        verify_tarball(tmp_path / "a.tgz", package)


def test_a_file_of_another_size_or_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tgz").write_bytes(b"short")
    with pytest.raises(AssetError, match="5 bytes in place of"):
        verify_tarball(tmp_path / "a.tgz", CAPTIONS)
    with pytest.raises(AssetError, match="cannot be read"):
        verify_tarball(tmp_path / "absent.tgz", CAPTIONS)


@pytest.mark.parametrize("name", ["package/../../evil", "/etc/evil", "elsewhere/x", "package/a\\..\\b", "packaged/x"])
def test_a_member_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    package = _pack(tmp_path / "a.tgz", {"package/en/data.json": b"[1]", name: b"evil"})
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    with pytest.raises(AssetError, match="Allowed are paths below 'package/'"):
        extract_members(tmp_path / "a.tgz", package, out)
    assert not list(tmp_path.rglob("evil"))


def test_a_link_in_place_of_a_needed_file_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        link = tarfile.TarInfo("package/en/data.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    with pytest.raises(AssetError, match="plain files"):
        extract_members(tmp_path / "a.tgz", CAPTIONS, tmp_path)


@pytest.mark.parametrize("kept_share", [0.3, 0.9])
def test_a_damaged_archive_is_refused(tmp_path: Path, kept_share: float) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("package/en/data.json")
        data = bytes(i * i % 251 for i in range(50_000))
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    path = tmp_path / "a.tgz"
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * kept_share)])
    with pytest.raises(AssetError, match=r"damaged|ends after"):
        extract_members(path, CAPTIONS, tmp_path)


def test_something_else_than_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tgz").write_bytes(b"not an archive at all")
    with pytest.raises(AssetError, match="damaged"):
        extract_members(tmp_path / "a.tgz", CAPTIONS, tmp_path)


def test_an_archive_without_any_needed_file_is_refused(tmp_path: Path) -> None:
    package = _pack(tmp_path / "a.tgz", {"package/readme": b"x"})
    with pytest.raises(AssetError, match="none of the files"):
        extract_members(tmp_path / "a.tgz", package, tmp_path)


@pytest.mark.parametrize(("limit", "value"), [("MAX_MEMBER_BYTES", 2), ("MAX_MEMBERS", 1), ("MAX_TOTAL_BYTES", 4)])
def test_size_limits_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    package = _pack(tmp_path / "a.tgz", {"package/en/data.json": b"[1]", "package/meta/groups.json": b"{ }"})
    monkeypatch.setattr(tarball, limit, value)
    with pytest.raises(AssetError, match=rf"\b{value}\b"):
        extract_members(tmp_path / "a.tgz", package, tmp_path)
