"""Optimizers: those that need to know the names of what they train, and how one is made for a run."""

from evolvedirector.lightning_modules.optimizers.factory import OptimizerFactory
from evolvedirector.lightning_modules.optimizers.muon import Muon

__all__ = ["Muon", "OptimizerFactory"]
