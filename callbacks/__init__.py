"""Callbacks: when things happen."""

from evolvedirector.callbacks.checkpoint import RunCheckpoint
from evolvedirector.callbacks.ema import EMA
from evolvedirector.callbacks.evolution import EvolutionCallback
from evolvedirector.callbacks.forgetting import Forgetting
from evolvedirector.callbacks.image_writer import ImageWriter
from evolvedirector.callbacks.preview import PreviewCallback
from evolvedirector.callbacks.report import ReportCallback
from evolvedirector.callbacks.run_summary import RunSummary
from evolvedirector.callbacks.skill_accuracy import SkillAccuracy
from evolvedirector.callbacks.win_rate import WinRate

__all__ = [
    "EMA",
    "EvolutionCallback",
    "Forgetting",
    "ImageWriter",
    "PreviewCallback",
    "ReportCallback",
    "RunCheckpoint",
    "RunSummary",
    "SkillAccuracy",
    "WinRate",
]
