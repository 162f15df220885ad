"""Train text-to-image models on a dataset that evolves while the model learns."""

from evolvedirector import renamed

__version__ = "0.1.0.dev0"

renamed.install()
