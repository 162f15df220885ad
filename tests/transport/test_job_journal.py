"""The journal of submitted jobs: durable, shared, private, and forgetful after a day."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from evolvedirector.transport import job_journal
from evolvedirector.transport.job_journal import Job, JobJournal, account_of

ACCOUNT = account_of("https://api.example.com", "canary-key-4711")
JOB = Job("job-1", "https://eu.api.example.com/get?sig=canary-signature")


def test_a_restart_finds_the_job_of_its_own_account_only(tmp_path: Path) -> None:
    first = JobJournal(tmp_path / "state" / "jobs.sqlite")
    first.record(ACCOUNT, "request", JOB)
    second = JobJournal(first.path)
    assert second.find(ACCOUNT, "request") == JOB
    assert second.find(ACCOUNT, "other request") is None
    assert second.find(account_of("https://api.example.com", "another key"), "request") is None
    second.forget(ACCOUNT, "request")
    assert first.find(ACCOUNT, "request") is None
    first.close(), second.close()
    assert first.find(ACCOUNT, "request") is None  # opened again
    first.close()


def test_a_killed_process_leaves_its_job_behind(tmp_path: Path) -> None:
    script = (
        "import os, sys; from evolvedirector.transport.job_journal import Job, JobJournal;"
        "JobJournal(sys.argv[1]).record('account', 'request', Job('7', 'https://x'));"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "jobs.sqlite")], timeout=60)
    assert done.returncode == -9
    journal = JobJournal(tmp_path / "jobs.sqlite")
    assert journal.find("account", "request") == Job("7", "https://x")
    journal.close()


def test_only_the_user_may_read_it_and_no_key_is_in_it(tmp_path: Path) -> None:
    journal = JobJournal(tmp_path / "jobs.sqlite")
    journal.record(ACCOUNT, "request", JOB)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600, path.name
        assert b"canary-key" not in path.read_bytes()
    assert "canary" not in repr(JOB)
    journal.close()


def test_old_jobs_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = JobJournal(tmp_path / "jobs.sqlite")
    journal.record(ACCOUNT, "request", JOB)
    later = job_journal.time.time() + job_journal.KEEP_S + 1
    monkeypatch.setattr(job_journal.time, "time", lambda: later)
    assert journal.find(ACCOUNT, "request") is None
    journal.close()


def test_threads_share_one_journal(tmp_path: Path) -> None:
    journal = JobJournal(tmp_path / "jobs.sqlite")
    threads = [threading.Thread(target=journal.record, args=(ACCOUNT, f"r{n}", JOB)) for n in range(8)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert all(journal.find(ACCOUNT, f"r{number}") for number in range(8))
    journal.close()


def test_without_a_path_it_lies_in_the_users_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    path = JobJournal().path
    assert path.name == "jobs.sqlite" and tmp_path in path.parents and not path.exists()
