"""Figures of a run that are measured apart from its training: shares with intervals, win rates, what they cost."""

from evolvedirector.evaluation.shares import Share, mean_of_shares, share_of_prompts
from evolvedirector.evaluation.teacher_images import TeacherImages

__all__ = ["Share", "TeacherImages", "mean_of_shares", "share_of_prompts"]
