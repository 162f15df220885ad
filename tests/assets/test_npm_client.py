from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from evolvedirector.assets import npm_client
from evolvedirector.assets.asset_error import AssetError
from evolvedirector.assets.emoji_packages import EMOJI_PACKAGES
from evolvedirector.assets.npm_client import fetch_with_npm

PACKAGE = EMOJI_PACKAGES[1]


def _fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_client_is_asked_for_the_pinned_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_npm(tmp_path / "bin", 'echo "$@" > "$4/x.tgz"', monkeypatch)
    fetched = fetch_with_npm(PACKAGE, tmp_path)
    assert fetched.read_text().split() == [
        "pack",
        PACKAGE.specifier,
        "--pack-destination",
        str(tmp_path),
        "--ignore-scripts",
    ]


def test_npm_goes_through_the_proxy_that_it_does_not_know_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", "gate:3128")
    _fake_npm(tmp_path / "bin", 'echo "$https_proxy $HTTP_PROXY" > "$4/x.tgz"', monkeypatch)
    assert fetch_with_npm(PACKAGE, tmp_path).read_text().split() == ["http://gate:3128"] * 2
    monkeypatch.setenv("ALL_PROXY", "http://me:hunter2@gate:port")
    with pytest.raises(AssetError, match="ALL_PROXY names no proxy that can be read") as caught:
        fetch_with_npm(PACKAGE, tmp_path)
    assert "hunter2" not in str(caught.value)


def test_without_npm_the_message_names_the_alternative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(AssetError, match=r"npm client was not found.*--from FOLDER"):
        fetch_with_npm(PACKAGE, tmp_path)


def test_a_failing_npm_is_quoted_without_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'echo "npm error 404 for https://me:hunter2@host/x _authToken=abcdef" >&2; exit 3'
    _fake_npm(tmp_path / "bin", script, monkeypatch)
    with pytest.raises(AssetError, match=r"status 3: npm error 404.*run the same command again") as caught:
        fetch_with_npm(PACKAGE, tmp_path)
    assert "hunter2" not in str(caught.value)
    assert "abcdef" not in str(caught.value)


def test_an_npm_that_leaves_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_npm(tmp_path / "bin", "exit 0", monkeypatch)
    with pytest.raises(AssetError, match="left 0 tarballs"):
        fetch_with_npm(PACKAGE, tmp_path)


def test_a_silent_npm_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_npm(tmp_path / "bin", "exec sleep 30", monkeypatch)
    monkeypatch.setattr(npm_client, "FETCH_TIMEOUT_S", 0.2)
    with pytest.raises(AssetError, match="no answer within"):
        fetch_with_npm(PACKAGE, tmp_path)


def test_an_npm_that_cannot_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_npm(tmp_path / "bin", "", monkeypatch)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(8, "Exec format error")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(AssetError, match="could not be started"):
        fetch_with_npm(PACKAGE, tmp_path)
