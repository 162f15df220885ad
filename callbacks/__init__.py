"""Callbacks: when things happen."""

from evolvedirector.callbacks.checkpoint import RunCheckpoint
from evolvedirector.callbacks.cpu_threads import CpuThreads
from evolvedirector.callbacks.ema import EMA
from evolvedirector.callbacks.evaluation import EvaluationCallback
from evolvedirector.callbacks.evolution import EvolutionCallback
from evolvedirector.callbacks.expert_stages import ExpertStages
from evolvedirector.callbacks.expert_table import ExpertTable
from evolvedirector.callbacks.image_writer import ImageWriter
from evolvedirector.callbacks.old_evaluation import Forgetting, SkillAccuracy, WinRate
from evolvedirector.callbacks.preview import PreviewCallback
from evolvedirector.callbacks.report import ReportCallback
from evolvedirector.callbacks.run_summary import RunSummary
from evolvedirector.callbacks.written_settings import WrittenSettings

__all__ = [
    "EMA",
    "CpuThreads",
    "EvaluationCallback",
    "EvolutionCallback",
    "ExpertStages",
    "ExpertTable",
    "Forgetting",
    "ImageWriter",
    "PreviewCallback",
    "ReportCallback",
    "RunCheckpoint",
    "RunSummary",
    "SkillAccuracy",
    "WinRate",
    "WrittenSettings",
]
