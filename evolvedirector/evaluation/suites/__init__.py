"""Suites: sets of questions about a student that `EvaluationCallback` draws for and logs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolvedirector.evaluation.suites.dsg import DSG
    from evolvedirector.evaluation.suites.embedding_arms import EmbeddingArms
    from evolvedirector.evaluation.suites.fid import FID
    from evolvedirector.evaluation.suites.forgetting import MasteredPrompts
    from evolvedirector.evaluation.suites.geneval import GenEval
    from evolvedirector.evaluation.suites.held_out import HeldOutAccuracy
    from evolvedirector.evaluation.suites.reward_means import RewardMeans
    from evolvedirector.evaluation.suites.t2i_compbench import T2ICompBench
    from evolvedirector.evaluation.suites.tifa import TIFA
    from evolvedirector.evaluation.suites.win_rate import TeacherComparison

# Imported when asked for: some bring torch.
_FILES = {
    "DSG": "dsg",
    "EmbeddingArms": "embedding_arms",
    "FID": "fid",
    "GenEval": "geneval",
    "HeldOutAccuracy": "held_out",
    "MasteredPrompts": "forgetting",
    "RewardMeans": "reward_means",
    "T2ICompBench": "t2i_compbench",
    "TIFA": "tifa",
    "TeacherComparison": "win_rate",
}

__all__ = [
    "DSG",
    "FID",
    "TIFA",
    "EmbeddingArms",
    "GenEval",
    "HeldOutAccuracy",
    "MasteredPrompts",
    "RewardMeans",
    "T2ICompBench",
    "TeacherComparison",
]


def __getattr__(name: str) -> Any:
    """Import a suite when it is asked for."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
