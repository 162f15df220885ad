"""Join emoji captions to the art styles: the concepts that every style draws."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from evolvedirector.assets.asset_error import AssetError
from evolvedirector.worlds.emoji.concept import STYLES, EmojiConcept

MANIFEST_FORMAT = 1
MAX_JSON_BYTES = 64 * 2**20


@lru_cache(maxsize=4)
def join_concepts(root: Path) -> tuple[EmojiConcept, ...]:
    """List the emoji that have a caption and a picture in all five styles, in the order of the emoji standard.

    The key of the join is the sequence of code points without variation selectors, which the sets write differently.

    Args:
        root: Folder with `manifest.json`, as `evolvedirector assets emoji` leaves it.

    Raises:
        AssetError: The folder is missing, incomplete or damaged.
    """
    folders = package_folders(root)
    groups = read_json(folders["captions"] / "meta" / "groups.json")
    pictures = {style: _pictures(folders[style], style) for style in STYLES}
    concepts = []
    try:
        for row in sorted(read_json(folders["captions"] / "en" / "data.json"), key=lambda row: row.get("order", 0)):
            key = _key(row["hexcode"])
            if "group" not in row or not all(key in of_style for of_style in pictures.values()):
                continue
            concepts.append(
                EmojiConcept(
                    label=row["label"],
                    hexcode=row["hexcode"].lower(),
                    tags=tuple(row.get("tags", ())),
                    group=groups["groups"][str(row["group"])],
                    subgroup=groups["subgroups"][str(row["subgroup"])],
                    pictures={style: of_style[key] for style, of_style in pictures.items()},
                )
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise AssetError(f"The captions in {folders['captions']} lack {error}. {_REMEDY}") from None
    return tuple(concepts)


def package_folders(root: Path) -> dict[str, Path]:
    """Map `captions` and each style to its folder, by the manifest.

    Raises:
        AssetError: There is no manifest, or it is of another format or incomplete.
    """
    path = root / "manifest.json"
    if not path.is_file():
        raise AssetError(f"There are no emoji assets in {root}. {_REMEDY}")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        raise AssetError(f"{path} has another format than {MANIFEST_FORMAT}, the only one allowed. {_REMEDY}")
    folders = {}
    for role in ("captions", *STYLES):
        name = manifest.get("packages", {}).get(role, {}).get("folder", "")
        if not name or name != Path(name).name or not (root / name).is_dir():
            raise AssetError(f"{root} lacks the package for {role!r} (folder {name!r}). {_REMEDY}")
        folders[role] = root / name
    return folders


def read_json(path: Path) -> Any:
    """Read a JSON file of the assets within the size limit.

    Raises:
        AssetError: The file is missing, too large or no JSON.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise AssetError(f"{path} is larger than {MAX_JSON_BYTES} bytes, the most allowed. {_REMEDY}")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise AssetError(f"{path} cannot be read ({error.strerror}). {_REMEDY}") from None
    except ValueError:
        raise AssetError(f"{path} is damaged: it is no JSON. {_REMEDY}") from None


_REMEDY = "Run `evolvedirector assets emoji`, or name the folder that it filled (`folder`, or EVOLVEDIRECTOR_CACHE)."


def _pictures(folder: Path, style: str) -> dict[str, str]:
    if style == "fluent_3d":
        return {_key(path.stem): path.name for path in sorted((folder / "assets").glob("*.webp"))}
    return {_key(characters): icon for characters, icon in read_json(folder / "chars.json").items()}


def _key(hexcode: str) -> str:
    return hexcode.lower().replace("-fe0f", "")
