"""Codecs: frozen models between images and the latents that are trained on."""

from evolvedirector.lightning_modules.codecs.autoencoder import Autoencoder
from evolvedirector.lightning_modules.codecs.codec import Codec, LatentScale, Posterior, latent_shape
from evolvedirector.lightning_modules.codecs.pixels import Pixels

__all__ = ["Autoencoder", "Codec", "LatentScale", "Pixels", "Posterior", "latent_shape"]
