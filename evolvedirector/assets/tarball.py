"""Verify and unpack a package tarball; nothing in it is trusted before its digest was compared."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from evolvedirector.assets.asset_error import AssetError
from evolvedirector.assets.npm_package import NpmPackage

MAX_MEMBER_BYTES = 64 * 2**20
MAX_TOTAL_BYTES = 256 * 2**20
MAX_MEMBERS = 20_000
_PREFIX = "package/"


def verify_tarball(path: Path, package: NpmPackage) -> None:
    """Compare a tarball's size and SHA-256 with the package's pinned ones.

    Raises:
        AssetError: The file cannot be read or is not the pinned tarball.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes == package.size_bytes:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            found = f"a file of {size_bytes} bytes in place of {package.size_bytes}"
    except OSError as error:
        raise AssetError(
            f"{path} cannot be read ({error.strerror}). Allowed is the tarball of {package.specifier}."
        ) from None
    if found != package.sha256:
        raise AssetError(
            f"{path.name} is not the expected tarball of {package.specifier}: found {found}. "
            f"Its SHA-256 must be {package.sha256}. Fetch it again with `npm pack {package.specifier}`."
        )


def extract_members(path: Path, package: NpmPackage, folder: Path) -> dict[str, int]:
    """Unpack the members that the package keeps, as plain files below `folder`.

    Args:
        path: A gzip-compressed tarball with the members below `package/`, as npm makes them.
        package: Says which members are kept.
        folder: Existing empty folder.

    Returns:
        Path below `folder` (with forward slashes) to size in bytes.

    Raises:
        AssetError: The archive is damaged, leaves its folder, holds links where files are due or is too large.
    """
    files: dict[str, int] = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for number, member in enumerate(archive):
                _check_member(member, number, package)
                name = member.name.removeprefix(_PREFIX)
                if not package.keeps(name):
                    continue
                if not member.isfile():
                    raise AssetError(
                        f"{package.specifier} holds {name!r} as a link or device. Allowed are plain files."
                    )
                files[name] = _write(archive, member, folder / name)
                if sum(files.values()) > MAX_TOTAL_BYTES:
                    raise AssetError(
                        f"{package.specifier} unpacks to more than {MAX_TOTAL_BYTES} bytes, the most allowed."
                    )
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise AssetError(
            f"{path.name} is damaged ({error}). Allowed is a complete gzip-compressed tarball. "
            f"Fetch it again with `npm pack {package.specifier}`."
        ) from None
    if not files:
        raise AssetError(f"{path.name} holds none of the files that {package.specifier} is needed for.")
    return files


def _check_member(member: tarfile.TarInfo, number: int, package: NpmPackage) -> None:
    parts = PurePosixPath(member.name).parts
    unsafe = ".." in parts or member.name.startswith("/") or "\\" in member.name or ":" in member.name
    if unsafe or parts[:1] != ("package",):
        raise AssetError(f"{package.specifier} holds the path {member.name!r}. Allowed are paths below {_PREFIX!r}.")
    if member.size > MAX_MEMBER_BYTES or number >= MAX_MEMBERS:
        raise AssetError(
            f"{package.specifier} holds {member.name!r} with {member.size} bytes as member {number + 1}. "
            f"Allowed are {MAX_MEMBERS} members of {MAX_MEMBER_BYTES} bytes."
        )


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> int:
    source = archive.extractfile(member)
    data = source.read(MAX_MEMBER_BYTES + 1) if source else b""
    if len(data) != member.size:
        raise AssetError(f"{member.name!r} ends after {len(data)} of {member.size} bytes. Fetch the tarball again.")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return len(data)
