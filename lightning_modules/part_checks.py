"""What the parts of a text-to-image model must agree on, with each other and with a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from evolvedirector.lightning_modules.codecs.autoencoder import Autoencoder
from evolvedirector.lightning_modules.families.family import TransformerFamily
from evolvedirector.lightning_modules.text_encoders.text_encoder import TextEncoder


def check_parts_fit(
    family: TransformerFamily, text_encoder: TextEncoder, autoencoder: Autoencoder | None, image_size_px: int
) -> None:
    """Refuse parts whose shapes do not fit each other, before any weights are made.

    Args:
        family: Describes the transformer.
        text_encoder: Turns prompts into token states.
        autoencoder: Maps images to latents; None trains on pixels.
        image_size_px: Side of the square images.

    Raises:
        ValueError: Names what differs, and what to write.
    """
    downscaling = autoencoder.downscaling if autoencoder else 1
    channels = autoencoder.latent_channels if autoencoder else 3
    if family.sample_size * downscaling != image_size_px:
        raise ValueError(
            f"image_size_px {image_size_px} does not fit the transformer's sample_size {family.sample_size} behind a "
            f"downscaling of {downscaling}. Their product must be the image size. "
            f"Write sample_size: {image_size_px // downscaling}."
        )
    if family.in_channels != channels:
        raise ValueError(
            f"The transformer has in_channels {family.in_channels}, the images have {channels} channels "
            f"({'latents of the autoencoder' if autoencoder else 'pixels: no autoencoder is set'}). "
            f"Both must be the same. Write in_channels: {channels}."
        )
    if family.text_dimension != text_encoder.dimension:
        raise ValueError(
            f"The transformer has text_dimension {family.text_dimension}, the text encoder gives "
            f"{text_encoder.dimension}. Both must be the same. Write text_dimension: {text_encoder.dimension}."
        )


def frozen_fingerprints(text_encoder: TextEncoder, autoencoder: Autoencoder | None) -> dict[str, str | None]:
    """Name the frozen parts, which stay outside of checkpoints, for the checkpoint.

    Args:
        text_encoder: Turns prompts into token states.
        autoencoder: Maps images to latents; None trains on pixels.
    """
    return {
        "text encoder": text_encoder.fingerprint,
        "autoencoder": autoencoder.fingerprint if autoencoder else None,
    }


def check_frozen_parts(own: Mapping[str, str | None], trained_with: Mapping[str, str | None]) -> None:
    """Refuse weights that were trained beside other frozen parts.

    Args:
        own: Fingerprints of this run's parts.
        trained_with: Those in the checkpoint; a part that it does not name is not compared.

    Raises:
        ValueError: Text encoder or autoencoder differ.
    """
    for part, fingerprint in own.items():
        if trained_with.get(part, fingerprint) != fingerprint:
            raise ValueError(
                f"This run has the {part} {fingerprint!r}, but the checkpoint was trained with {trained_with[part]!r}. "
                f"Its weights mean nothing to another one. Configure that {part}, or start without checkpoint."
            )
