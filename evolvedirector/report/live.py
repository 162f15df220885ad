"""The live ledger: the page of a run on this machine only, built again when the run has written something."""

from __future__ import annotations

import re
import threading
import time
import webbrowser
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from evolvedirector.records import digest
from evolvedirector.report.build import build_report
from evolvedirector.report.run_folder import STATUS_FILE, RunFolder
from evolvedirector.report.thumbnails import Thumbnails

LOOPBACK = "127.0.0.1"
_THIS_MACHINE = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
POLL_S = 2.0
BUILD_SHARE = 0.2
"""Of the time at most spent on building pages: the run needs the processor."""
_WATCHED = ("summary.json", "config.yaml", STATUS_FILE, "previews", "logs", "logs/*", "logs/*/*", "previews/*.png")
_WATCHED_DATA = ("ledger.sqlite", "ledger.sqlite-wal", "CURRENT")


def watch(run: RunFolder, port: int = 0, open_browser: bool = True) -> int:
    """Serve the page of a run until Ctrl-C.

    Args:
        run: The run; it may go on meanwhile.
        port: 0 takes any that is free.
        open_browser: Open the page in the reader's browser.

    Returns:
        Exit code: 0.

    Raises:
        ValueError: The port is taken.
    """
    page = LivePage(run)
    with server_of(port, page.read) as server:
        address = f"http://{LOOPBACK}:{server.server_address[1]}/"
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        print(f"Watching {run.path} at {address} (on this machine only). Ctrl-C ends it.", flush=True)
        if open_browser:
            webbrowser.open(address)
        try:
            while True:
                time.sleep(max(POLL_S, page.refresh()))
        except KeyboardInterrupt:
            print("Ended. The run itself goes on; `evolvedirector report` writes its page to disk.", flush=True)
        finally:
            server.shutdown()
    return 0


class LivePage:
    """Hold the newest page of a run and its stamp.

    Args:
        run: The run.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._thumbnails = Thumbnails()
        self._lock = threading.Lock()
        self._stamp = ""
        self._page = ""
        self.refresh()

    def refresh(self) -> float:
        """Build the page again if the run has written something; returns the seconds to wait before the next look."""
        stamp = changed_stamp(self._run)
        if stamp == self._stamp:
            return POLL_S
        began = time.monotonic()
        try:
            # a dataset that began after the watch did is found too
            run = RunFolder.open(self._run.path, self._run.data_root)
            page = build_report(run, self._thumbnails, live=stamp)
        except ValueError as error:  # the folder is being moved or emptied: the last page stays
            print(f"The page is not built again: {error}", flush=True)
            return POLL_S
        with self._lock:
            self._run, self._stamp, self._page = run, stamp, page
        return (time.monotonic() - began) * (1 - BUILD_SHARE) / BUILD_SHARE

    def read(self, path: str) -> tuple[str, str] | None:
        """Return (content type, text) of one of the two things there are: the page and its stamp; None for others."""
        with self._lock:
            if path in ("/", "/index.html"):
                return "text/html; charset=utf-8", self._page
            return ("text/plain; charset=utf-8", self._stamp) if path == "/version" else None


def changed_stamp(run: RunFolder) -> str:
    """Name the state of a run's files by their sizes and times, without reading them."""
    found = [path for pattern in _WATCHED for path in run.path.glob(pattern)]
    if run.data_root is not None:
        found += [run.data_root / name for name in _WATCHED_DATA]
    parts: list[str | int] = []
    for path in sorted(found):
        try:
            status = path.stat()
        except OSError:
            continue
        parts += [path.name, status.st_size, status.st_mtime_ns]
    return digest("live", str(run.data_root), *parts)


def server_of(port: int, read: Callable[[str], tuple[str, str] | None]) -> ThreadingHTTPServer:
    """Return a server on the loopback address that answers GET for what `read` knows, and nothing else.

    Args:
        port: 0 takes any that is free.
        read: Returns (content type, text) of a path, or None.

    Raises:
        ValueError: The port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        """Answer GET from this machine and to this machine's name; everything else is refused."""

        server_version, sys_version, protocol_version = "evolvedirector", "", "HTTP/1.0"
        timeout = 10

        def do_GET(self) -> None:
            """Send the page or its stamp."""
            # another site's name that resolves to this machine (DNS rebinding) would read the page otherwise
            host = self.headers.get_all("Host", [])
            # any port: an ssh tunnel may end at another one
            if len(host) != 1 or not _THIS_MACHINE.fullmatch(host[0]):
                return self.send_error(403, "Only this machine may ask")
            found = read(self.path.partition("?")[0])
            if found is None:
                return self.send_error(404)
            body = found[1].encode("utf-8", "replace")
            self.send_response(200)
            for name, value in {"Content-Type": found[0], "Content-Length": str(len(body)), **_HEADERS}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Stay quiet: the console is the run's."""

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except OSError as error:
        raise ValueError(
            f"--port {port} cannot be used ({error.strerror}). Allowed is any that no other program uses. Leave it out "
            "to take one that is free."
        ) from error


_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
