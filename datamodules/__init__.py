"""Datamodules: how data reaches the student."""

from evolvedirector.datamodules.embedding import EmbeddingDataModule
from evolvedirector.datamodules.evolving import EvolvingDataModule

__all__ = ["EmbeddingDataModule", "EvolvingDataModule"]
