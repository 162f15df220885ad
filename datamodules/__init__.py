"""Datamodules: how data reaches the student."""

from evolvedirector.datamodules.evolving import EvolvingDataModule

__all__ = ["EvolvingDataModule"]
