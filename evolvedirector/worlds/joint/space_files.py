"""The folder of a joint space: its networks as safetensors, and what they were trained on as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from evolvedirector.errors import UserError
from evolvedirector.records import digest
from evolvedirector.store.durable import write_durably
from evolvedirector.worlds.joint.networks import ImageTower, PictureDecoder, TextTower

SPACE_FILE = "space.json"
_FORMAT = "joint-space-1"
_NETWORKS: dict[str, type[nn.Module]] = {"text": TextTower, "image": ImageTower, "decoder": PictureDecoder}
_MAX_BYTES = 64 * 2**20
_MAX_JSON_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class SpaceRecord:
    """What a joint space is.

    Args:
        text_encoder: Fingerprint of the encoder whose token states its text tower reads.
        weights: Digest of all three networks.
        seed: Of its training.
        steps: Of its training.
        gate: Share of withheld scenes that the exact reader reads right when they are decoded from true embeddings.
        gate_images: Scenes behind it.
    """

    text_encoder: str
    weights: str
    seed: int
    steps: int
    gate: float
    gate_images: int

    @property
    def fingerprint(self) -> str:
        """Name the space."""
        return f"{_FORMAT}/{digest(self.text_encoder, self.weights)}"


def weights_digest(networks: dict[str, nn.Module]) -> str:
    """Name the weights of the three networks by their values.

    Args:
        networks: `text`, `image` and `decoder`.
    """
    values = [
        value.detach().cpu().numpy().tobytes() for name in _NETWORKS for value in networks[name].state_dict().values()
    ]
    return digest(*values)


def save_space(folder: Path, networks: dict[str, nn.Module], record: SpaceRecord) -> None:
    """Write a joint space; `space.json` goes first and comes last, so a folder that has it is whole.

    Args:
        folder: Made where it is missing.
        networks: `text`, `image` and `decoder`.
        record: What they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPACE_FILE).unlink(missing_ok=True)
    for name in _NETWORKS:
        state = {key: value.detach().cpu().contiguous() for key, value in networks[name].state_dict().items()}
        save_file(state, folder / f"{name}.safetensors")
    written = {"format": _FORMAT, **asdict(record)}
    write_durably(folder / SPACE_FILE, (json.dumps(written, indent=1) + "\n").encode())


@lru_cache(maxsize=8)
def _read(path: Path, stamp: tuple[int, int]) -> SpaceRecord:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("format") != _FORMAT:
            raise ValueError("another format")
        return SpaceRecord(**found)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"'{path}' is no record of a joint space ({error}). Allowed is what `evolvedirector assets joint-space` "
            "writes. Run it again with --replace."
        ) from error


def read_record(folder: Path) -> SpaceRecord:
    """Read what a joint space is.

    Args:
        folder: Where `save_space` wrote it.

    Raises:
        UserError: There is none.
    """
    path = folder / SPACE_FILE
    if not path.is_file() or path.stat().st_size > _MAX_JSON_BYTES:
        raise UserError(
            f"There is no joint space in '{folder}'. Allowed is a folder that `evolvedirector assets joint-space` "
            f"wrote. Run `evolvedirector assets joint-space --folder {folder}` (about 3 minutes of an idle core)."
        )
    stat = path.stat()
    return _read(path, (stat.st_mtime_ns, stat.st_size))


def load_network(folder: Path, name: str) -> nn.Module:
    """Load one of the networks, ready to be used and not to be trained.

    Args:
        folder: Where `save_space` wrote it.
        name: `text`, `image` or `decoder`.

    Raises:
        UserError: Its file is missing, too large, or of other networks.
    """
    read_record(folder)
    path = folder / f"{name}.safetensors"
    network = _NETWORKS[name]()
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("too large")
        network.load_state_dict(load_file(path))
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        said = str(error).splitlines()[0][:200]
        raise UserError(
            f"'{path}' does not hold the {name} network of a joint space ({said}). Allowed is what `evolvedirector "
            "assets joint-space` writes. Run it again with --replace."
        ) from error
    return network.eval().requires_grad_(False)
