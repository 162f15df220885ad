from __future__ import annotations

from pathlib import Path

import pytest

from evolvedirector.commands import assets
from tests.emoji_toys import make_tarballs


def test_a_folder_of_tarballs_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(assets, "EMOJI_PACKAGES", make_tarballs(tmp_path / "tarballs"))
    assert assets.main(["emoji", "--folder", str(tmp_path), "--from", str(tmp_path / "tarballs")]) == 0
    output = capsys.readouterr().out
    assert output.index("CC-BY-SA-4.0") < output.index("SHA-256 verified")  # sizes and licences come first
    assert (tmp_path / "emoji" / "manifest.json").is_file()


def test_the_real_list_is_shown_with_sizes_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert assets.main(["emoji", "--folder", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "29.6 MB" in captured.out
    assert captured.err.startswith("error: The npm client was not found")
    assert "--from FOLDER" in captured.err


def test_a_missing_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert assets.main(["emoji", "--folder", str(tmp_path), "--from", str(tmp_path / "absent")]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_an_interruption_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(assets, "install_emoji", interrupt)
    assert assets.main(["emoji", "--folder", str(tmp_path)]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_an_unknown_word_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        assets.main(["stickers"])
    assert "emoji" in capsys.readouterr().err
