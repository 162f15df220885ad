"""Which jobs were submitted and may still be fetched: what keeps a restart from buying an image twice."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_state_path

from evolvedirector.errors import UserError
from evolvedirector.records import digest
from evolvedirector.store.paths import user_path

KEEP_S = 24 * 3600.0
"""Services forget finished jobs within hours."""
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS jobs (account TEXT NOT NULL, request_id TEXT NOT NULL, job_id TEXT NOT NULL, "
    "polling_url TEXT NOT NULL, submitted_at REAL NOT NULL, PRIMARY KEY (account, request_id)) WITHOUT ROWID"
)


@dataclass(frozen=True, slots=True)
class Job:
    """A job at a service. Its address may hold a signature, so it is never shown."""

    job_id: str
    polling_url: str = field(default="", repr=False)


def _own_journal() -> Path:
    try:
        return user_state_path("evolvedirector", appauthor=False) / "jobs.sqlite"
    except RuntimeError as error:  # neither HOME nor an entry in the list of users
        raise UserError(
            "This user has no home folder, and so no file for jobs that are under way. Allowed is any file on a local"
            " disk. Write `jobs_path: runs/jobs.sqlite`, say."
        ) from error


class JobJournal:
    """Remember submitted jobs in one SQLite file that any number of processes may use.

    A job is recorded before it is polled; when `record` returns, a power cut cannot lose it. It is kept after its
    result was fetched, because only the ledger knows when that image is safe, and expires after a day; a job that came
    to nothing is forgotten at once, so that the next try submits a new one.

    Args:
        jobs_path: the file; None puts it into the user's state folder. Must lie on a local disk.
    """

    def __init__(self, jobs_path: str | os.PathLike[str] | None = None) -> None:
        self.path = _own_journal() if jobs_path is None else user_path(jobs_path)
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[JobJournal], tuple[Path]]:
        """Cross to another process as its path: connection and lock are made anew there."""
        return JobJournal, (self.path,)

    def check(self) -> None:
        """See that the file can be opened and written.

        Raises:
            OSError: its folder or file cannot be made.
            sqlite3.Error: it is no journal, damaged or locked.
        """
        with self._lock:
            self._open()

    def find(self, account: str, request_id: str) -> Job | None:
        """Return the job submitted for a request, if there is one that may still be alive.

        Args:
            account: see `account_of`.
            request_id: name of the request.
        """
        query = "SELECT job_id, polling_url FROM jobs WHERE account=? AND request_id=? AND submitted_at>?"
        with self._lock:
            row = self._open().execute(query, (account, request_id, time.time() - KEEP_S)).fetchone()
        return None if row is None else Job(*row)

    def record(self, account: str, request_id: str, job: Job) -> None:
        """Keep a job durably; a later one for the same request replaces it.

        Args:
            account: see `account_of`.
            request_id: name of the request.
            job: what the service named it.
        """
        row = (account, request_id, job.job_id, job.polling_url, time.time())
        with self._lock:
            self._open().execute("INSERT OR REPLACE INTO jobs VALUES (?,?,?,?,?)", row)

    def forget(self, account: str, request_id: str) -> None:
        """Drop a job that came to nothing.

        Args:
            account: see `account_of`.
            request_id: name of the request.
        """
        with self._lock:
            self._open().execute("DELETE FROM jobs WHERE account=? AND request_id=?", (account, request_id))

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Made with its rights before SQLite opens it: its -wal and -shm files take over the same rights.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            os.chmod(self.path, 0o600)
            connection = sqlite3.connect(self.path, isolation_level=None, timeout=30, check_same_thread=False)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(_SCHEMA)
            connection.execute("DELETE FROM jobs WHERE submitted_at<=?", (time.time() - KEEP_S,))
            self._connection = connection
        return self._connection


def account_of(base_url: str, key: str) -> str:
    """Name an account at a service without giving its key away: a job of one account is none of another's.

    Args:
        base_url: address of the service.
        key: only a digest of it is kept.
    """
    return digest("account", base_url, key, length=32)
