"""Put the emoji packages into the cache folder, each atomically, and list them in a manifest."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evolvedirector.assets.asset_error import AssetError
from evolvedirector.assets.emoji_packages import EMOJI_PACKAGES
from evolvedirector.assets.npm_client import fetch_with_npm
from evolvedirector.assets.npm_package import NpmPackage
from evolvedirector.assets.tarball import extract_members, verify_tarball

MANIFEST_FORMAT = 1
_RECORD = "installed.json"


def install_emoji(
    cache: Path,
    tarballs: Path | None = None,
    packages: Sequence[NpmPackage] = EMOJI_PACKAGES,
    report: Callable[[str], None] = print,
) -> Path:
    """Obtain, verify and unpack what is missing, and return the folder with the manifest.

    A package appears under its name only when all of it is there, so an interrupted call leaves whole packages and
    the next call fetches the others.

    Args:
        cache: Cache folder; the packages go into its sub-folder `emoji`.
        tarballs: Folder of tarballs to use in place of the npm client; None fetches with npm.
        packages: What to install.
        report: Receives one line of progress at a time.

    Raises:
        AssetError: A package cannot be obtained, is not the pinned one, is damaged or cannot be stored.
    """
    root = cache / "emoji"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for package in packages:
            if is_installed(root / package.folder_name, package):
                report(f"{package.specifier}: already in place, verified when it was stored")
                continue
            with tempfile.TemporaryDirectory(prefix=".incoming-", dir=root) as incoming:
                _install_one(package, root, Path(incoming), tarballs)
            report(f"{package.specifier}: SHA-256 verified and stored")
        _write_json(root / "manifest.json", _manifest(packages))
    except OSError as error:
        raise AssetError(
            f"{error.filename or root} cannot be written ({error.strerror}). Allowed is a folder with room for about "
            "100 MB. Free space, or choose another folder with `--folder` or EVOLVEDIRECTOR_CACHE."
        ) from error
    return root


def _install_one(package: NpmPackage, root: Path, incoming: Path, tarballs: Path | None) -> None:
    if tarballs is None:
        packed = incoming / "packed"
        packed.mkdir()
        tarball = fetch_with_npm(package, packed)
    else:
        tarball = tarballs / package.tarball_name
        if not tarball.is_file():
            raise AssetError(
                f"{tarballs} has no file {package.tarball_name}. Allowed is a folder with every tarball of the list "
                f"above, named as npm names it. Add it with `npm pack {package.specifier}`."
            )
    verify_tarball(tarball, package)
    unpacked = incoming / "unpacked"
    unpacked.mkdir()
    files = extract_members(tarball, package, unpacked)
    (unpacked / "LICENSE-NOTICE.txt").write_text(license_notice(package), encoding="utf-8")
    _write_json(unpacked / _RECORD, {"sha256": package.sha256, "files": files})
    target = root / package.folder_name
    if target.exists():  # incomplete or from other bytes: make room, the new one is whole
        shutil.rmtree(target)
    os.replace(unpacked, target)


def is_installed(folder: Path, package: NpmPackage) -> bool:
    """Tell whether a folder holds all files of the pinned package, each with the size it was stored with."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in record["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return record.get("sha256") == package.sha256 and sizes == record["files"]


def license_notice(package: NpmPackage) -> str:
    """Write the attribution that stays beside the files of a package."""
    return (
        f"{package.name} {package.version}\n"
        f"By: {package.author}\n"
        f"From: {package.source_url}\n"
        f"Licence: {package.license} ({package.license_url})\n"
        "Changes: pictures are rasterised, resized and placed on plain backgrounds when they are drawn.\n"
    )


def _manifest(packages: Sequence[NpmPackage]) -> dict[str, Any]:
    return {
        "format": MANIFEST_FORMAT,
        "packages": {
            package.role: {
                "folder": package.folder_name,
                "name": package.name,
                "version": package.version,
                "sha256": package.sha256,
                "license": package.license,
                "author": package.author,
                "source_url": package.source_url,
                "license_url": package.license_url,
            }
            for package in packages
        },
    }


def _write_json(path: Path, value: object) -> None:
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)
