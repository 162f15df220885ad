"""Six hand-made emoji in five styles, packed as the real packages are: the loading code runs, nothing is downloaded."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from evolvedirector.assets.emoji_install import install_emoji
from evolvedirector.assets.emoji_packages import EMOJI_PACKAGES
from evolvedirector.assets.npm_package import NpmPackage

# label, code points, group, subgroup, polygons (colour, corners) in a 32 px box
CONCEPTS = (
    ("fox", "1F98A", 3, 34, (("#e65100", "2,2 16,10 30,2 24,26 16,30 8,26"), ("#ffffff", "12,20 20,20 16,30"))),
    ("frog", "1F438", 3, 36, (("#2e7d32", "4,6 28,6 30,20 24,28 8,28 2,20"), ("#102010", "8,20 24,20 16,24"))),
    ("pizza", "1F355", 4, 44, (("#fbc02d", "2,4 30,4 16,30"), ("#c62828", "10,8 14,8 14,12 10,12"))),
    ("eggplant", "1F346", 4, 43, (("#6a1b9a", "4,28 10,30 24,18 20,8 12,12"), ("#388e3c", "20,8 28,2 24,14"))),
    ("rocket", "1F680", 5, 56, (("#546e7a", "16,0 22,12 22,26 10,26 10,12"), ("#d50000", "10,26 22,26 16,32"))),
    ("key", "1F511-FE0F", 7, 77, (("#8d6e00", "2,12 14,12 14,14 31,14 31,18 14,18 14,22 2,22"),)),
)
Shapes = tuple[tuple[str, str], ...]


def make_tarballs(folder: Path) -> tuple[NpmPackage, ...]:
    """Write one tarball per package of the real list and return the list with the tarballs' digests and sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    packages = []
    for number, package in enumerate(EMOJI_PACKAGES):
        path = folder / package.tarball_name
        write_tarball(path, _members(package.role, number))
        packages.append(pinned(package, path))
    return tuple(packages)


def pinned(package: NpmPackage, path: Path) -> NpmPackage:
    """Give a package the digest and size of a tarball."""
    data = path.read_bytes()
    return replace(package, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def fake_cache(cache: Path) -> Path:
    """Install the six concepts into a cache folder and return it."""
    packages = make_tarballs(cache / "tarballs")
    install_emoji(cache, cache / "tarballs", packages, report=lambda line: None)
    return cache


def write_tarball(path: Path, members: dict[str, bytes]) -> None:
    """Write a gzip-compressed tarball with the given members, as named."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _members(role: str, number: int) -> dict[str, bytes]:
    members = {"package/package.json": b"{}", "package/unneeded/big.json": b"[]"}
    if role == "captions":
        rows = [
            {"label": label, "hexcode": code, "tags": [label], "order": order, "group": group, "subgroup": subgroup}
            for order, (label, code, group, subgroup, _) in enumerate(CONCEPTS)
        ]
        rows.append({"label": "drawn by nobody", "hexcode": "1F9FF", "order": 99, "group": 7, "subgroup": 82})
        groups = {"3": "animals-nature", "4": "food-drink", "5": "travel-places", "7": "objects"}
        subgroups = {"34": "animal-mammal", "36": "animal-amphibian", "44": "food-prepared", "43": "food-vegetable"}
        subgroups |= {"56": "transport-air", "77": "lock", "82": "other-object"}
        members["package/en/data.json"] = json.dumps(rows).encode()
        members["package/meta/groups.json"] = json.dumps({"groups": groups, "subgroups": subgroups}).encode()
        members["package/LICENSE"] = b"MIT License"
    elif role == "fluent_3d":
        for _, code, _, _, shapes in CONCEPTS:
            members[f"package/assets/{code.lower()}.webp"] = _bitmap(shapes)
    else:
        icons = {label: {"body": _svg(shapes, number)} for label, _, _, _, shapes in CONCEPTS}
        icons["fox-left"] = icons.pop("fox")
        aliases = {"fox": {"parent": "fox-left", "hFlip": True}}
        characters = {code.lower().replace("-fe0f", ""): label for label, code, *_ in CONCEPTS}
        icon_set = {"prefix": role, "icons": icons, "aliases": aliases, "width": 32, "height": 32}
        members["package/icons.json"] = json.dumps(icon_set).encode()
        members["package/chars.json"] = json.dumps(characters).encode()
        members["package/info.json"] = b"{}"
    return members


def _svg(shapes: Shapes, number: int) -> str:
    """Draw the polygons; each style has an outline of its own width."""
    return "".join(
        f'<polygon points="{points}" fill="{colour}" stroke="#333" stroke-width="{number * 0.3}"/>'
        for colour, points in shapes
    )


def _bitmap(shapes: Shapes) -> bytes:
    image = Image.new("RGBA", (128, 128))
    for colour, points in shapes:
        corners = [tuple(4 * int(number) for number in corner.split(",")) for corner in points.split()]
        ImageDraw.Draw(image).polygon(corners, fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()
