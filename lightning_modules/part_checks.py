"""What a checkpoint and a trainer must agree on with the parts of a text-to-image model."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.pixels import Pixels
from evolvedirector.lightning_modules.families.family import Family

_FORMER_NAMES = {"text encoder": "text_encoder", "autoencoder": "codec"}
_CONTENT_DIGEST = re.compile(r"-[0-9a-f]{12}")


def frozen_fingerprints(family: Family) -> dict[str, str]:
    """Name the frozen parts, which stay outside of checkpoints, for the checkpoint.

    Args:
        family: Holds them.
    """
    encoders = {name: part.fingerprint for name, part in family.text_encoders.items()}
    return encoders | {"codec": family.codec.fingerprint}


def check_frozen_parts(own: Mapping[str, str], trained_with: Mapping[str, str | None]) -> None:
    """Refuse weights that were trained beside other frozen parts.

    Args:
        own: Fingerprints of this run's parts.
        trained_with: Those in the checkpoint; a part that it does not name is not compared. Older checkpoints call the
            parts `text encoder` and `autoencoder` (None: pixels), and name a folder without its content.

    Raises:
        UserError: A text encoder or the codec differs.
    """
    named = {_FORMER_NAMES.get(name, name): value or Pixels.fingerprint for name, value in trained_with.items()}
    for part, fingerprint in own.items():
        found = named.get(part, fingerprint)
        rest = fingerprint.removeprefix(found)
        if rest and not (rest != fingerprint and _CONTENT_DIGEST.fullmatch(rest)):
            raise UserError(
                f"This run has the {part} {fingerprint!r}, but the checkpoint was trained with {found!r}. "
                f"Its weights mean nothing to another one. Configure that {part}, or start without checkpoint."
            )


def check_precision(precision: str, base_precision: str = "float32") -> None:
    """Refuse a precision that keeps the trained weights in half precision, or does not go with that of a frozen base.

    Args:
        precision: Lightning's.
        base_precision: Of frozen weights.

    Raises:
        UserError: It does; noise and loss are computed in float32, and updates get lost below that.
    """
    if base_precision == "bfloat16" and precision != "bf16-mixed":
        raise UserError(
            f"base_precision is bfloat16, but trainer.precision is {precision}. Layers in bfloat16 need inputs in "
            "bfloat16. Write trainer.precision: bf16-mixed, or base_precision: float32."
        )
    if precision.endswith("-true") and not precision.startswith(("32", "64")):
        raise UserError(
            f"trainer.precision is {precision}, which keeps the weights themselves in half precision. Small updates "
            "would be rounded away. Write precision: bf16-mixed, or 32-true."
        )


def check_image_size(drawn_px: int, trained_px: int) -> None:
    """Refuse training images of another size than the drawn ones.

    Args:
        drawn_px: Side of the images that the model is described for.
        trained_px: Side of the training images.

    Raises:
        UserError: They differ.
    """
    if trained_px != drawn_px:
        raise UserError(
            f"data.init_args.image_size_px is {trained_px}, but the model's image_size_px is {drawn_px}. Training "
            "images must have the size that the model is described for. Write "
            f"data.init_args.image_size_px: {drawn_px}, or change the model's."
        )


def check_device(precision: str, device: torch.device) -> None:
    """Refuse bfloat16 on a GPU that has no arithmetic for it: emulated, it is slower than float32.

    Args:
        precision: Lightning's.
        device: Of this rank.

    Raises:
        UserError: It has none.
    """
    if not precision.startswith("bf16") or device.type != "cuda":
        return
    with torch.cuda.device(device):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return
        name = torch.cuda.get_device_name(device)
    raise UserError(
        f"trainer.precision is {precision}, but {name} has no arithmetic for bfloat16 (NVIDIA's have it from Ampere "
        "on). Allowed here are 32-true and 16-mixed. Write trainer.precision: 16-mixed."
    )


def check_seed(seed: int, began: int) -> None:
    """Refuse to train on with another seed than the weights began from.

    Args:
        seed: Of this run.
        began: Of the run that saved the checkpoint.

    Raises:
        UserError: They differ.
    """
    if seed != began:
        raise UserError(
            f"seed is {seed}, but the weights of the checkpoint began from seed {began}. It names initial weights, "
            f"which a run that goes on does not have. Write model.init_args.seed: {began}, or start a new run (without "
            "--ckpt_path)."
        )
