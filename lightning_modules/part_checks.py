"""What a checkpoint and a trainer must agree on with the parts of a text-to-image model."""

from __future__ import annotations

import re
from collections.abc import Mapping

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


def check_precision(precision: str) -> None:
    """Refuse a precision that keeps the trained weights in half precision.

    Args:
        precision: Lightning's.

    Raises:
        UserError: It does; noise and loss are computed in float32, and updates get lost below that.
    """
    if precision.endswith("-true") and not precision.startswith(("32", "64")):
        raise UserError(
            f"trainer.precision is {precision}, which keeps the weights themselves in half precision. Small updates "
            "would be rounded away. Write precision: bf16-mixed, or 32-true."
        )
