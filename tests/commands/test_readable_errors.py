"""Which errors are printed as one paragraph, with which exit code, and which keep their traceback."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from evolvedirector.assets.asset_error import AssetError
from evolvedirector.commands.readable_errors import run_readably
from evolvedirector.commands.secret_arguments import SecretInConfig
from evolvedirector.errors import RunError, UserError
from evolvedirector.store.errors import DiskFullError


def raising(error: Exception, cause: Exception | None = None) -> Callable[[], int]:
    def command() -> int:
        raise error from cause

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("share is 2. Allowed: 0 to 1. Write 0.5."), 2),
        (SecretInConfig("A key stands in a.yaml."), 2),
        (RunError("rank 1 was lost."), 1),
        (DiskFullError("The disk is full."), 1),
        (AssetError("The registry does not answer."), 1),
    ],
)
def test_a_message_for_the_user_is_one_paragraph(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_readably(raising(error)) == code
    assert capsys.readouterr().err == f"{error}\n"


def test_what_a_parser_wraps_is_found_behind_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_readably(raising(ValueError("Does not validate"), UserError("share is 2. Allowed: 0 to 1."))) == 2
    assert capsys.readouterr().err == "share is 2. Allowed: 0 to 1.\n"


@pytest.mark.parametrize("error", [ValueError("a. b. c."), RuntimeError("a. b. c."), OSError("a. b."), KeyError("a")])
def test_errors_of_others_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_readably(raising(error))


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "run/x"), 2, "'run/x' (in '"),
        (OSError(errno.EROFS, "Read-only file system", "run/x"), 2, "may read and write"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "Free some space"),
        (OSError(errno.EFBIG, "File too large"), 1, "Free some space"),
    ],
)
def test_what_the_system_refuses_is_a_sentence_with_the_folder(
    error: OSError, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_readably(raising(error)) == code
    assert says in " ".join(capsys.readouterr().err.split())


def test_places_that_cannot_be_made_are_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "x", tmp_path / ("n" * 300), Path("/proc/x"), tmp_path / "missing" / "x"):
        assert run_readably(lambda place=place: place.mkdir()) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "cannot be used" in said and place.name[:100] in said and len(said) < 700


def test_connections_and_errors_without_a_file_keep_their_traceback() -> None:
    for error in (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), FileNotFoundError(errno.ENOENT, "no file")):
        with pytest.raises(OSError):
            run_readably(raising(error))


def test_what_is_caught_as_a_value_error_stays_one() -> None:
    """Lightning, jsonargparse and code of users catch the built-in classes."""
    assert issubclass(UserError, ValueError) and issubclass(RunError, RuntimeError)
    assert not issubclass(RunError, ValueError)  # a damaged file is not taken for text that cannot be parsed
