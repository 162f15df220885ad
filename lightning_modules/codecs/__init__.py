"""Codecs: frozen models between images and the latents that are trained on."""

from evolvedirector.lightning_modules.codecs.autoencoder import Autoencoder
from evolvedirector.lightning_modules.codecs.codec import Codec, LatentScale, Posterior, latent_shape
from evolvedirector.lightning_modules.codecs.deep_compression_autoencoder import DeepCompressionAutoencoder
from evolvedirector.lightning_modules.codecs.flux2_autoencoder import Flux2Autoencoder
from evolvedirector.lightning_modules.codecs.pixels import Pixels
from evolvedirector.lightning_modules.codecs.qwen_autoencoder import QwenAutoencoder

__all__ = [
    "Autoencoder",
    "Codec",
    "DeepCompressionAutoencoder",
    "Flux2Autoencoder",
    "LatentScale",
    "Pixels",
    "Posterior",
    "QwenAutoencoder",
    "latent_shape",
]
