"""A registry on loopback that breaks half way, behind a stand-in for the npm client."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from evolvedirector.commands import assets
from tests.emoji_toys import make_tarballs

_NPM = """#!{python}
import sys, urllib.request
name = sys.argv[2].removeprefix("@").replace("/", "-").replace("@", "-") + ".tgz"
try:
    data = urllib.request.urlopen("{url}/" + name, timeout=5).read()
except Exception as error:
    sys.exit("npm error network " + str(error))
open(sys.argv[4] + "/" + name, "wb").write(data)
"""


class _Registry(BaseHTTPRequestHandler):
    tarballs: Path
    answers: list[str]
    """What befalls each request in turn; none left: all is well."""
    served: list[str]

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        befalls = self.answers.pop(0) if self.answers else "served"
        if befalls == "unavailable":
            self.send_error(503)
            return
        data = (self.tarballs / name).read_bytes()
        if befalls == "damaged":
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if befalls == "cut":
            self.wfile.write(data[: len(data) // 2])
            return
        self.wfile.write(data)
        self.served.append(name)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Registry]]:
    monkeypatch.setattr(assets, "EMOJI_PACKAGES", make_tarballs(tmp_path / "tarballs"))
    handler = type("Handler", (_Registry,), {"tarballs": tmp_path / "tarballs", "answers": [], "served": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(_NPM.format(python=sys.executable, url=f"http://127.0.0.1:{server.server_port}"))
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent))
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("breaks", "message"),
    [("unavailable", "503"), ("cut", "IncompleteRead"), ("damaged", "is not the expected tarball")],
)
def test_a_registry_that_breaks_half_way_costs_only_what_is_missing(
    registry: type[_Registry], tmp_path: Path, capsys: pytest.CaptureFixture[str], breaks: str, message: str
) -> None:
    registry.answers[:] = ["served", "served", breaks]
    assert assets.main(["emoji", "--folder", str(tmp_path / "cache")]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert not (tmp_path / "cache" / "emoji" / "manifest.json").exists()
    whole = list(registry.served)[:2]

    assert assets.main(["emoji", "--folder", str(tmp_path / "cache")]) == 0
    output = capsys.readouterr().out
    assert output.index(" in place") < output.index("to fetch") < output.index("SHA-256 verified")
    assert all(registry.served.count(name) == 1 for name in whole)
    assert (tmp_path / "cache" / "emoji" / "manifest.json").is_file()
