"""Turn an emoji picture, vector or bitmap, into a tight RGBA square."""

from __future__ import annotations

import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from evolvedirector.assets.asset_error import AssetError
from evolvedirector.worlds.emoji.join import read_json

MAX_ALIAS_DEPTH = 8
MAX_BITMAP_PX = 2048


def require_resvg() -> Any:
    """Import the SVG rasteriser, or say what to install.

    Raises:
        AssetError: resvg-py is not installed.
    """
    try:
        import resvg_py
    except ImportError:
        raise AssetError(
            "Emoji pictures in vector styles need the package resvg-py, which is not installed. "
            "Install it with `pip install 'evolvedirector[emoji]'`, or use the style fluent_3d alone."
        ) from None
    return resvg_py


def raster_vector(folder: Path, icon: str, size_px: int) -> Image.Image:
    """Rasterise one icon of an icon set (`icons.json`) into a tight RGBA square.

    Args:
        folder: Folder with `icons.json`.
        icon: Name of an icon or alias in it.
        size_px: Side of the square.

    Raises:
        AssetError: The icon is missing or no valid SVG, or resvg-py is not installed.
    """
    resvg = require_resvg()
    svg, mirrored = svg_of_icon(_icon_set(folder / "icons.json"), icon)
    try:
        # rendered larger than asked: the tight square is cut from inside the padding that some sets have
        png = resvg.svg_to_bytes(svg_string=svg, width=2 * size_px, height=2 * size_px, skip_system_fonts=True)
        image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    except (ValueError, OSError) as error:
        raise AssetError(f"Icon {icon!r} of {folder.name} cannot be drawn ({error}).") from None
    return tight_square(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image, size_px)


def raster_bitmap(path: Path, size_px: int) -> Image.Image:
    """Read one bitmap with transparency into a tight RGBA square.

    Raises:
        AssetError: The file is missing, damaged or larger than 2048 px a side.
    """
    try:
        with Image.open(path, formats=("WEBP", "PNG")) as image:
            if max(image.size) > MAX_BITMAP_PX:
                raise AssetError(f"{path.name} measures {image.size} px. Allowed are {MAX_BITMAP_PX} px a side.")
            return tight_square(image.convert("RGBA"), size_px)
    except (OSError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise AssetError(
            f"The picture {path.name} cannot be read ({error}). Run `evolvedirector assets emoji`."
        ) from None


def svg_of_icon(icons: dict[str, Any], name: str) -> tuple[str, bool]:
    """Build the SVG text of an icon from its set, following aliases, and say whether it is to be mirrored.

    Raises:
        AssetError: The set has no such icon, or its aliases go in a circle.
    """
    layers: list[dict[str, Any]] = []
    current = name
    for _ in range(MAX_ALIAS_DEPTH):
        if current in icons["icons"]:
            layers.append(icons["icons"][current])
            break
        alias = icons.get("aliases", {}).get(current)
        if alias is None:
            raise AssetError(f"The icon set {icons.get('prefix')!r} has no icon {current!r}.")
        layers.append(alias)
        current = alias["parent"]
    else:
        raise AssetError(f"The aliases of icon {name!r} in the set {icons.get('prefix')!r} do not end.")
    merged: dict[str, Any] = {"left": 0, "top": 0, "width": icons.get("width", 16), "height": icons.get("height", 16)}
    for layer in reversed(layers):
        merged.update(layer)
    box = " ".join(f"{float(merged[side]):g}" for side in ("left", "top", "width", "height"))
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    mirrored = sum(bool(layer.get("hFlip")) for layer in layers) % 2 == 1
    return f'{head} viewBox="{box}">{merged["body"]}</svg>', mirrored


def tight_square(image: Image.Image, size_px: int) -> Image.Image:
    """Cut an RGBA image to what is visible and centre that in a square whose longer side it fills."""
    visible = image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    cut = image.crop(visible) if visible else image
    side = max(cut.size)
    square = Image.new("RGBA", (side, side))
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return square.resize((size_px, size_px), Image.Resampling.LANCZOS)


@lru_cache(maxsize=4)
def _icon_set(path: Path) -> dict[str, Any]:
    icons = read_json(path)
    if not isinstance(icons, dict) or "icons" not in icons:
        raise AssetError(f"{path} is no icon set: {json.dumps(icons)[:60]}. Run `evolvedirector assets emoji`.")
    return icons
