"""Weights that are published pickled and under other names: read as safetensors, renamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.records import digest
from evolvedirector.store.paths import user_path

_SAMPLE_BYTES = 2**20


def weights_file(folder: str, what: str, published: str, inner: str = "") -> Path:
    """Find `model.safetensors` in a folder, or say how to make it of the published file.

    Args:
        folder: As the user wrote it; a file may be named too.
        what: The reward, for messages.
        published: Name of the pickled file that its authors publish.
        inner: Key of the weights inside of it; empty where they are the whole.

    Raises:
        UserError: There is none.
    """
    path = user_path(folder)
    file = path if path.suffix == ".safetensors" else path / "model.safetensors"
    if file.is_file():
        return file
    part = f"[{inner!r}]" if inner else ""
    raise UserError(
        f"There is no {str(file)!r} for {what}. Its authors publish {published}, which is pickled and never read here. "
        'Allowed are safetensors under the published names. Write them once: python -c "import torch, '
        f"safetensors.torch as s; w = torch.load('{published}', map_location='cpu', weights_only=True){part}; "
        "s.save_file({k: v.clone().contiguous() for k, v in w.items()}, 'model.safetensors')\"."
    )


def digest_of_file(path: Path) -> str:
    """Name weights by their size, their first and their last bytes.

    Args:
        path: Of a safetensors file, whose first bytes list all tensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(_SAMPLE_BYTES)
        file.seek(max(0, size - _SAMPLE_BYTES))
        return digest(size, first, file.read(_SAMPLE_BYTES))


def load_renamed(model: Any, path: Path, rename: Callable[[dict[str, Any]], dict[str, Any]], what: str) -> None:
    """Load weights into a model under its own names; further ones of the file are left.

    Args:
        model: A module of the right size.
        path: Of the safetensors.
        rename: Turns the published names into the model's.
        what: The reward, for messages.

    Raises:
        UserError: Weights are missing, or of another size.
    """
    from safetensors.torch import load_file

    try:
        published = load_file(path)
    except Exception as error:  # safetensors has an exception of its own
        raise UserError(
            f"{str(path)!r} cannot be read as safetensors: {error}. Allowed is a whole file. Write it again."
        ) from error
    renamed = rename(published)
    own = model.state_dict()
    if missing := sorted(set(own) - set(renamed)):
        raise UserError(
            f"{str(path)!r} lacks {len(missing)} of the {len(own)} weights of {what}, such as {missing[0]}. Allowed "
            "are the published ones. Convert the published file again."
        )
    for name, value in own.items():
        if renamed[name].shape != value.shape:
            raise UserError(
                f"{name} of {what} has the shape {tuple(renamed[name].shape)} in {str(path)!r}. Allowed is "
                f"{tuple(value.shape)}. Put a config.json beside it that says its sizes."
            )
    model.load_state_dict({name: renamed[name].float() for name in own})
