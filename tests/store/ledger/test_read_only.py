"""A ledger on a disk that may not be written is read whole, its log included."""

import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.store import Ledger, StoreError
from evolvedirector.store.ledger.file import LedgerFile


def test_the_log_of_a_killed_run_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.prompts.hold_out(["a" * 16, "b" * 16])
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("ledger.sqlite", "ledger.sqlite-wal"):  # as a kill leaves them: the log is not moved over yet
        shutil.copyfile(tmp_path / name, copy / name)
    ledger.close()
    assert (copy / "ledger.sqlite-wal").stat().st_size > 0
    before = {name: (copy / name).read_bytes() for name in os.listdir(copy)}
    connect = sqlite3.connect

    def read_only_disk(address: Any, **options: Any) -> sqlite3.Connection:
        if str(address).endswith("?mode=ro"):
            raise sqlite3.OperationalError("unable to open database file")
        return connect(address, **options)

    monkeypatch.setattr(sqlite3, "connect", read_only_disk)
    with Ledger.for_reading(copy / "ledger.sqlite") as read:
        assert read.file.row("SELECT COUNT(*) FROM held_out")[0] == 2
    assert {name: (copy / name).read_bytes() for name in os.listdir(copy)} == before


def test_a_ledger_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=r"cannot be written: unable to open"):
        LedgerFile.for_writing(tmp_path / "missing" / "ledger.sqlite")
