"""Datamodules: how data reaches the student."""

from evolvedirector.datamodules.embedding import EmbeddingDataModule
from evolvedirector.datamodules.evolving import EvolvingDataModule
from evolvedirector.datamodules.subject_pairs import SubjectPairDataModule
from evolvedirector.datamodules.views import ViewDataModule

__all__ = ["EmbeddingDataModule", "EvolvingDataModule", "SubjectPairDataModule", "ViewDataModule"]
