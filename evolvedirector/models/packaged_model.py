"""Models that come with this package, named the same on every machine."""

from __future__ import annotations

from pathlib import Path

PREFIX = "package:"


def packaged_model(model: str) -> Path | None:
    """Return the folder of a model that is part of this package, so that a recipe needs no path of any machine.

    Args:
        model: `package:` and a folder inside of the package, such as "package:worlds/shapes/vlm"; or any other name.

    Returns:
        The folder; None for a name without `package:`.

    Raises:
        ValueError: The package has no such model.
    """
    if not model.startswith(PREFIX):
        return None
    root = Path(__file__).resolve().parents[1]
    folder = (root / model.removeprefix(PREFIX)).resolve()
    if root not in folder.parents or not (folder / "config.json").is_file():
        raise ValueError(
            f"There is no model {model!r} in this package. Allowed is 'package:' and a folder of it with a saved "
            "model. Write package:worlds/shapes/vlm."
        )
    return folder
