"""Placeholder embeddings, so that `evolvedirector bench` can time a prior on what its real loader reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lightning.pytorch import LightningModule

from evolvedirector.datamodules import EmbeddingDataModule
from evolvedirector.errors import UserError
from evolvedirector.evolution.embedding import EMBEDDING_ROLES, npy_file
from evolvedirector.lightning_modules import ImagePrior
from evolvedirector.lightning_modules.priors.prior_network import PriorNetwork
from evolvedirector.models.embedder import (
    EDGE_EMBEDDING,
    IMAGE_EMBEDDING,
    SUBJECT_EMBEDDINGS,
    SUBJECT_TOKENS,
    TEXT_EMBEDDING,
    TEXT_STATES,
)
from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore

_SUBJECTS = 2


def fill_embeddings(data: EmbeddingDataModule, module: LightningModule, texts: Sequence[str], image: bytes) -> None:
    """Publish a revision of random embeddings of full length under some texts; nothing is embedded.

    Args:
        data: Its root is new.
        module: Says how wide they are.
        texts: Of the pairs.
        image: Of every pair, encoded; it is not read.

    Raises:
        UserError: The module is no prior, or the datamodule reads roles whose form nobody knows.
    """
    if not isinstance(module, ImagePrior):
        raise UserError(
            f"A bench makes embeddings for an ImagePrior, whose network says how wide they are, not for a "
            f"{type(module).__name__}. Allowed with it is a datamodule of pictures. Write EvolvingDataModule."
        )
    made = (*EMBEDDING_ROLES, SUBJECT_TOKENS, SUBJECT_EMBEDDINGS, EDGE_EMBEDDING)
    if unknown := [role for role in data.roles if role not in made]:
        raise UserError(
            f"data.init_args.further_roles names {', '.join(unknown)}, whose form is not known before there are "
            "samples. A bench makes embeddings itself. Leave further_roles out."
        )
    wanted = {*data.roles, *data.optional_roles}
    draw = np.random.default_rng(0)
    with DatasetStore(data.data_root, create=True) as store:
        name, samples = store.blobs.put(image), []
        for text in texts:
            arrays = {role: array for role, array in _pair(draw, module.network).items() if role in wanted}
            kept = dict(zip(arrays, store.blobs.put_files([npy_file(a) for a in arrays.values()]), strict=True))
            samples.append(Sample.create(Prompt.create(text), name, "placeholder", kept))
        store.publish(None, "import", RevisionChange(samples=tuple(samples)))


def _pair(draw: np.random.Generator, network: PriorNetwork) -> dict[str, np.ndarray]:
    """Return the embeddings of one pair by role, unit Gaussian, as long as the network reads."""
    width = network.embedding_dim
    tokens = np.zeros((_SUBJECTS, network.text_length), np.uint8)
    tokens[np.arange(_SUBJECTS), np.arange(_SUBJECTS) % network.text_length] = 1
    return {
        TEXT_STATES: draw.normal(size=(network.text_length, network.text_width)).astype(np.float16),
        TEXT_EMBEDDING: draw.normal(size=width).astype(np.float32),
        IMAGE_EMBEDDING: draw.normal(size=width).astype(np.float32),
        SUBJECT_TOKENS: tokens,
        SUBJECT_EMBEDDINGS: draw.normal(size=(_SUBJECTS, width)).astype(np.float32),
        EDGE_EMBEDDING: draw.normal(size=width).astype(np.float32),
    }
