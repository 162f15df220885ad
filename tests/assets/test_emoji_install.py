from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest

from evolvedirector.assets import emoji_install
from evolvedirector.assets.asset_error import AssetError
from evolvedirector.assets.cache import cache_folder
from evolvedirector.assets.emoji_install import install_emoji
from evolvedirector.assets.emoji_packages import EMOJI_PACKAGES
from evolvedirector.assets.npm_package import NpmPackage
from tests.emoji_toys import make_tarballs


def _quiet(line: str) -> None:
    pass


def test_everything_arrives_with_licence_and_manifest(tmp_path: Path) -> None:
    packages = make_tarballs(tmp_path / "tarballs")
    root = install_emoji(tmp_path / "cache", tmp_path / "tarballs", packages, _quiet)
    manifest = json.loads((root / "manifest.json").read_text())
    assert list(manifest["packages"]) == sorted(package.role for package in packages)
    for package in packages:
        notice = (root / manifest["packages"][package.role]["folder"] / "LICENSE-NOTICE.txt").read_text()
        assert package.license in notice and package.author in notice and package.source_url in notice
    assert (root / "emojibase-data-17.0.0" / "LICENSE").is_file()
    assert not list(root.glob(".incoming-*"))


def test_what_is_in_place_is_not_fetched_again(tmp_path: Path) -> None:
    packages = make_tarballs(tmp_path / "tarballs")
    root = install_emoji(tmp_path / "cache", tmp_path / "tarballs", packages, _quiet)
    shutil.rmtree(tmp_path / "tarballs")
    lines: list[str] = []
    assert install_emoji(tmp_path / "cache", tmp_path / "tarballs", packages, lines.append) == root
    assert [("already in place" in line) for line in lines] == [True] * 6


def test_a_stop_half_way_keeps_what_came_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = make_tarballs(tmp_path / "tarballs")
    fetched: list[str] = []

    def fetch(package: NpmPackage, folder: Path) -> Path:
        if len(fetched) == 2:
            fetched.append("failed")
            raise AssetError("npm failed")
        fetched.append(package.role)
        return Path(shutil.copy(tmp_path / "tarballs" / package.tarball_name, folder))

    monkeypatch.setattr(emoji_install, "fetch_with_npm", fetch)
    with pytest.raises(AssetError, match="npm failed"):
        install_emoji(tmp_path, None, packages, _quiet)
    assert not (tmp_path / "emoji" / "manifest.json").exists()
    install_emoji(tmp_path, None, packages, _quiet)
    assert fetched == ["captions", "noto", "failed", "fluent_3d", "fluent_flat", "twemoji", "openmoji"]


def test_a_package_that_lost_a_file_is_installed_again(tmp_path: Path) -> None:
    packages = make_tarballs(tmp_path / "tarballs")
    root = install_emoji(tmp_path, tmp_path / "tarballs", packages, _quiet)
    lost = root / packages[1].folder_name / "icons.json"
    lost.unlink()
    install_emoji(tmp_path, tmp_path / "tarballs", packages, _quiet)
    assert lost.is_file()


def test_a_wrong_checksum_leaves_nothing(tmp_path: Path) -> None:
    make_tarballs(tmp_path / "tarballs")
    with pytest.raises(AssetError, match=r"not the expected tarball of emojibase-data@17\.0\.0"):
        install_emoji(tmp_path, tmp_path / "tarballs", EMOJI_PACKAGES, _quiet)
    assert list((tmp_path / "emoji").iterdir()) == []


def test_a_missing_tarball_is_named(tmp_path: Path) -> None:
    packages = make_tarballs(tmp_path / "tarballs")
    (tmp_path / "tarballs" / packages[3].tarball_name).unlink()
    with pytest.raises(AssetError, match=r"has no file iconify-json-fluent-emoji-flat-1\.2\.6\.tgz"):
        install_emoji(tmp_path, tmp_path / "tarballs", packages, _quiet)


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = make_tarballs(tmp_path / "tarballs")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(emoji_install, "extract_members", full)
    with pytest.raises(AssetError, match=r"No space left on device.*--folder"):
        install_emoji(tmp_path, tmp_path / "tarballs", packages, _quiet)


def test_the_cache_folder_is_given_or_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVOLVEDIRECTOR_CACHE", raising=False)
    assert cache_folder().name == "evolvedirector"
    monkeypatch.setenv("EVOLVEDIRECTOR_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    assert cache_folder(tmp_path / "b") == tmp_path / "b"
