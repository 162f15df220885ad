"""Codecs: frozen models between images and the latents that are trained on."""

from evolvedirector.lightning_modules.codecs.autoencoder import Autoencoder

__all__ = ["Autoencoder"]
