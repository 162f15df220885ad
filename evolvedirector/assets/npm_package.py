"""What is known about a package before it is fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """One package at one version, with the digest its tarball must have and the members that are kept."""

    role: str
    """What it is used for: `captions` or the name of an art style."""
    name: str
    version: str
    sha256: str
    """Of the tarball as the registry serves it: a registry never replaces a published version."""
    size_bytes: int
    license: str
    """SPDX identifier."""
    author: str
    source_url: str
    """Where the artwork or data comes from."""
    license_url: str
    members: str
    """Regular expression which the path of a kept member, below `package/`, must match in full."""

    @property
    def specifier(self) -> str:
        """Name and version as the npm client takes them."""
        return f"{self.name}@{self.version}"

    @property
    def tarball_name(self) -> str:
        """File name that `npm pack` gives the tarball."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def folder_name(self) -> str:
        """Folder of the extracted members; a new version gets a new folder."""
        return self.tarball_name.removesuffix(".tgz")

    def keeps(self, member: str) -> bool:
        """Tell whether the member at this path below `package/` is extracted."""
        return re.fullmatch(self.members, member) is not None
