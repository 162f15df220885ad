"""A student that `evolvedirector export` wrote in our own form: found, checked, and built by its class path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from evolvedirector.errors import UserError
from evolvedirector.models.image_generator import ImageGenerator
from evolvedirector.models.part_files import built_part, read_part
from evolvedirector.records.part import Part

if TYPE_CHECKING:
    from torch import Tensor, nn

NETWORK = "transformer"
"""Folder of the network where there is no stock pipeline."""
STUDENT = "student.yaml"
"""Beside it: of what, and how, it draws."""
LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_config.json")
"""Of an export that is a LoRA alone: one of them is there."""


@runtime_checkable
class ExportedStudent(ImageGenerator, Protocol):
    """A module that is built from `student.yaml`, takes the exported network's weights, and draws."""

    image_size_px: int
    generation_chunk_size: int
    transformer: nn.Module | None

    def configure_model(self) -> Any:
        """Build the network; nothing is loaded or allocated before."""
        ...

    def parts(self) -> Mapping[str, Part]:
        """Name what it is built of beside the network: text encoders and codec, or embedder and decoder."""
        ...

    def to(self, device: Any) -> Any:
        """Move it to a device."""
        ...

    def eval(self) -> Any:
        """Evaluate from now on."""
        ...


@runtime_checkable
class SamplesInSteps(Protocol):
    """A student that samples images itself, in steps and with guidance; a prior leaves both to its decoder."""

    guidance_scale: float
    sampling_steps: int


def set_sampling(module: object, sampling_steps: int | None, guidance_scale: float | None) -> None:
    """Let a student draw in so many steps, or with such guidance.

    Args:
        module: The student.
        sampling_steps: None: its own.
        guidance_scale: None: its own.

    Raises:
        UserError: It has neither.
    """
    given = {"sampling_steps": sampling_steps, "guidance_scale": guidance_scale}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not isinstance(module, SamplesInSteps):
        raise UserError(
            f"{' and '.join(given)} cannot be set for {type(module).__name__}, which samples no images itself. Allowed "
            "are the settings of what draws for it, such as a prior's decoder. Leave steps and guidance out, or for a "
            "run write --model.init_args.decoder.init_args.sampling_steps=25, say."
        )
    for name, value in given.items():
        setattr(module, name, value)


def described_student(folder: Path) -> ExportedStudent:
    """Build the student of an export in our own form, without its network.

    Args:
        folder: Holds `student.yaml` and `transformer/`.

    Raises:
        UserError: `student.yaml` cannot be read, or describes something else.
    """
    from jsonargparse import ArgumentError

    path = folder / STUDENT
    content = read_part(path, "model")
    arguments = _init_args(content)
    family = arguments.get("family")
    while family:  # one that reads more holds the one whose network it is
        numbers = _init_args(family)
        if numbers.get("pretrained"):  # what it began with is not needed any more
            numbers |= {"pretrained": str(folder.absolute() / NETWORK), "revision": None, "pretrained_subfolder": None}
        family = numbers.get("family")
    if arguments.get("pretrained"):  # of a prior, whose other arguments say all of its network
        arguments |= {"pretrained": None, "revision": None}
    try:
        module = built_part(content, ImageGenerator, "model")
    except ArgumentError as error:
        raise UserError(
            f"{path} describes no student that can be built: {' '.join(str(error).split())[:400]}. Allowed is what "
            "`evolvedirector export` wrote. Export it again."
        ) from error
    if not isinstance(module, ExportedStudent):
        raise UserError(
            f"{path} describes a {type(module).__name__}. Allowed is a student such as TextToImage or "
            "ImagePrior. Export the student again."
        )
    return module


def _init_args(part: Any) -> dict[str, Any]:
    """Return the arguments of a part; none where it is written otherwise, which whoever builds it refuses."""
    found = part.get("init_args") if isinstance(part, dict) else None
    return found if isinstance(found, dict) else {}


def exported_student(folder: Path) -> ExportedStudent:
    """Build the student of an export in our own form, with its weights.

    Args:
        folder: Holds `student.yaml` and `transformer/`.

    Raises:
        UserError: One of them cannot be read.
    """
    module = described_student(folder)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.configure_model()
        network: Any = module.transformer
        # not by from_pretrained: it knows the stock class alone, and leaves added parts out with a warning
        network.load_state_dict(
            {name: value for path in network_files(folder) for name, value in load_file(path).items()}
        )
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise _damaged(folder, type(error).__name__) from error
    module.eval()
    return module


def check_export(folder: Path) -> None:
    """Check, from headers alone, that the network of an export in our own form is whole and is the one described.

    Args:
        folder: Holds `student.yaml` and `transformer/`.

    Raises:
        UserError: It is not.
    """
    import torch

    module = described_student(folder)
    stored = {name: shape for path in network_files(folder) for name, shape in _shapes(path, folder).items()}
    with torch.device("meta"):
        module.configure_model()
    network: Any = module.transformer
    wanted: dict[str, Tensor] = network.state_dict()
    for name in sorted({*stored, *wanted}):
        shape = list(wanted[name].shape) if name in wanted else None
        if stored.get(name) != shape:
            raise _damaged(folder, f"{name} has the shape {stored.get(name)} there and {shape} in {STUDENT}")


def network_files(folder: Path) -> list[Path]:
    """List the weight files of the network in an export in our own form.

    Args:
        folder: Holds `student.yaml` and `transformer/`.

    Raises:
        UserError: There is none.
    """
    files = sorted((folder / NETWORK).glob("*.safetensors"))
    if not files:
        raise _damaged(folder, "no safetensors file lies there")
    return files


def _shapes(path: Path, folder: Path) -> dict[str, list[int]]:
    """Read names and shapes from the header, which a file that was cut off does not pass."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, f"{path.name}: {type(error).__name__}") from error


def _damaged(folder: Path, reason: str) -> UserError:
    return UserError(
        f"The network in {folder / NETWORK} is damaged, or none of {STUDENT}'s numbers ({reason}). Allowed is what "
        "`evolvedirector export` wrote. Export it again."
    )
