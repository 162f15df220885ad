"""Fetch a package's tarball with the user's own npm client and registry.

Not pooch: a fixed URL would pass by the registry, proxy and login that the user has configured for npm.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from evolvedirector.assets.asset_error import AssetError
from evolvedirector.assets.npm_package import NpmPackage
from evolvedirector.errors import UserError
from evolvedirector.transport.proxy import proxy_environment

FETCH_TIMEOUT_S = 600
_CREDENTIALS = re.compile(r"//[^/\s@]+@|(?i:(?:token|password|auth)\S*\s*[=:]\s*\S+)")


def fetch_with_npm(package: NpmPackage, folder: Path) -> Path:
    """Run `npm pack` for one package and return the path of the tarball it left in the folder.

    The client knows the registry, proxy and login that the user configured; nothing here names a registry.
    `npm pack` of a published package runs none of its scripts; the flag makes sure.

    Args:
        package: What to fetch, at its pinned version.
        folder: Existing empty folder that receives the tarball.

    Raises:
        AssetError: npm is missing, fails, takes longer than ten minutes or leaves no tarball.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise AssetError(
            f"The npm client was not found, so {package.specifier} cannot be fetched. Install Node.js with npm, or "
            f"bring the tarballs from a machine that has it (`npm pack {package.specifier}` and so on) and give their "
            "folder: `evolvedirector assets emoji --from FOLDER`."
        )
    try:
        proxies = proxy_environment()
    except UserError as error:
        raise AssetError(_failure(package, str(error).rstrip("."))) from None
    command = [npm, "pack", package.specifier, "--pack-destination", str(folder), "--ignore-scripts"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=FETCH_TIMEOUT_S,
            check=False,
            env={**os.environ, **proxies},  # npm knows no `all_proxy`, and no address without a scheme
        )
    except subprocess.TimeoutExpired:
        raise AssetError(_failure(package, f"npm gave no answer within {FETCH_TIMEOUT_S} s")) from None
    except OSError as error:
        raise AssetError(_failure(package, f"npm could not be started ({error.strerror})")) from None
    if done.returncode != 0:
        raise AssetError(_failure(package, f"npm ended with status {done.returncode}: {_last_words(done.stderr)}"))
    tarballs = sorted(folder.glob("*.tgz"))
    if len(tarballs) != 1:
        raise AssetError(_failure(package, f"npm left {len(tarballs)} tarballs in place of one"))
    return tarballs[0]


def _failure(package: NpmPackage, what: str) -> str:
    return (
        f"{package.specifier} was not fetched: {what}. Packages that are already in place are kept: run the same "
        "command again, or give a folder of tarballs with `--from FOLDER`."
    )


def _last_words(text: str) -> str:
    """Keep the last lines of npm's error, without anything that looks like a credential."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "complete log" not in line]
    return _CREDENTIALS.sub("[hidden]", " | ".join(lines[-4:]))[:600] or "no message"
