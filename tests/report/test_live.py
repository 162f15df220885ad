"""The live view: only this machine, only two things to read, and a new page when the run has written something."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolvedirector.report import RunFolder, build, live
from tests.report_runs import RunBuilder


@pytest.fixture(autouse=True)
def _small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_plotly", lambda: "const Plotly = {};")


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[RunBuilder]:
    made = RunBuilder(tmp_path / "run").seeds("tone 1").summary()
    yield made
    made.close()


@pytest.fixture
def address(builder: RunBuilder) -> Iterator[tuple[str, int]]:
    page = live.LivePage(RunFolder.open(builder.folder))
    with live.server_of(0, page.read) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server.server_address[0], server.server_address[1]  # type: ignore[misc]
        server.shutdown()
        thread.join()


def ask(
    address: tuple[str, int], method: str = "GET", path: str = "/", **headers: str
) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(*address, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.headers)
    finally:
        connection.close()


def test_only_this_machine_can_reach_it(address: tuple[str, int]) -> None:
    assert address[0] == "127.0.0.1"
    status, body, headers = ask(address)
    assert status == 200 and 'data-live="' in body and "connect-src &#39;self&#39;" in body
    assert headers["Cache-Control"] == "no-store" and headers["X-Frame-Options"] == "DENY"
    assert headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:80", "", "localhost:1@evil.example", "1localhost"]
)
def test_another_name_for_this_machine_is_refused(address: tuple[str, int], host: str) -> None:
    assert ask(address, Host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8000", "LOCALHOST:65535"])
def test_a_tunnel_may_end_at_any_port_of_this_machine(address: tuple[str, int], host: str) -> None:
    assert ask(address, Host=host)[0] == 200


@pytest.mark.parametrize(
    "path", ["/../summary.json", "/%2e%2e/config.yaml", "/data/ledger.sqlite", "//etc/passwd", "/report/"]
)
def test_there_is_nothing_else_to_read(address: tuple[str, int], path: str) -> None:
    assert ask(address, path=path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_nothing_can_be_sent(address: tuple[str, int], method: str) -> None:
    assert ask(address, method)[0] == 501


def test_the_page_is_built_again_when_the_run_has_written(builder: RunBuilder) -> None:
    page = live.LivePage(RunFolder.open(builder.folder))
    _, stamp = page.read("/version")  # type: ignore[misc]
    assert page.refresh() == live.POLL_S and page.read("/version")[1] == stamp  # type: ignore[index]
    builder.round("tone 77")
    page.refresh()
    _, new_stamp = page.read("/version")  # type: ignore[misc]
    assert new_stamp != stamp and "tone 77" in page.read("/")[1]  # type: ignore[index]


def test_a_folder_that_vanishes_leaves_the_last_page(builder: RunBuilder, capsys: pytest.CaptureFixture[str]) -> None:
    page = live.LivePage(RunFolder.open(builder.folder))
    builder.folder.rename(builder.folder.with_name("moved"))
    page.refresh()
    assert "In short" in page.read("/")[1]  # type: ignore[index]
    assert "The page is not built again" in capsys.readouterr().out
    builder.folder.with_name("moved").rename(builder.folder)


def test_a_port_that_is_taken_is_told(address: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match=f"--port {address[1]} cannot be used"):
        live.server_of(address[1], lambda path: None)


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(builder: RunBuilder) -> None:
    # a shell in the background starts its children with Ctrl-C ignored, and so would this one be
    begin = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    begin += "from evolvedirector.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", begin, "report", "--watch", "--no-browser", str(builder.folder)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            port = int(line.partition("http://127.0.0.1:")[2].partition("/")[0])
            status, body, _ = ask(("127.0.0.1", port))
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=60)[0]
        finally:
            process.kill()  # where it did not end by itself, waiting for it would never end
    assert status == 200 and "In short" in body
    assert process.returncode == 0 and "Ended." in rest
