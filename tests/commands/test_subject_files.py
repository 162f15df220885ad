"""Pictures from the command line: what names none, or more than one, is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolvedirector.commands import subject_files as module
from evolvedirector.commands.subject_files import subject_files
from evolvedirector.errors import UserError
from tests.toys import flat_png


def test_a_picture_is_read(tmp_path: Path) -> None:
    (tmp_path / "a=b.png").write_bytes(flat_png(3))
    files = subject_files([f"cat = {tmp_path}/a=b.png".replace("= ", "=")], f"{tmp_path}/a=b.png")
    assert files["subject"].content == files["edge"].content == flat_png(3)
    assert files["subjects"].content == b'["cat"]'


def test_no_more_is_read_than_a_picture_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1000)
    reads: list[int] = []

    class Endless:
        """A device, whose size is 0 by what the disk says."""

        def __enter__(self) -> Endless:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, count: int = -1) -> bytes:
            reads.append(count)
            return bytes(max(0, count))

    monkeypatch.setattr(Path, "open", lambda *_: Endless())
    with pytest.raises(UserError, match=r"'/dev/zero' cannot be used: It has over 1000 bytes"):
        subject_files(["cat=/dev/zero"], None)
    assert reads == [1001]


@pytest.mark.parametrize("word", ["cat=/", "cat=/nowhere.png", f"cat={__file__}", "cat=", "=cat.png"])
def test_what_is_no_picture_is_one_sentence(word: str) -> None:
    with pytest.raises(UserError, match="Allowed is"):
        subject_files([word], None)
