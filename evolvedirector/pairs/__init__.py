"""Toffee: subject pairs built without tuning for a subject, in stages that remember what they made."""

from importlib import import_module
from typing import Any

_FILES = {
    "AlphaMask": "alpha_mask",
    "BorderMask": "border_mask",
    "DiffusersDraft": "diffusers_draft",
    "DrawnDraft": "drawn.drawn_draft",
    "DrawnPrompts": "drawn.drawn_prompts",
    "DrawnReader": "drawn.drawn_reader",
    "DrawnSubjects": "drawn.drawn_subjects",
    "DrawnViews": "drawn.drawn_views",
    "EvolvingPairs": "evolving.evolving_pairs",
    "FailingPairs": "evolving.pair_policy",
    "FolderSubjects": "folder_subjects",
    "FolderViews": "folder_views",
    "JudgeChange": "judge_change",
    "MatchedPixels": "matched_pixels",
    "PairBudget": "pair_budget",
    "PairFilter": "pair_filter",
    "RawPatches": "raw_patches",
    "SubjectArtist": "drawn.subject_pictures",
    "SubjectJudge": "subject_judge",
    "SubjectPairBuilder": "builder",
    "SubjectPrompts": "drawn.subject_pictures",
    "TeacherDraft": "teacher_draft",
    "TrainedRefiner": "trained_refiner",
    "TrainedView": "trained_view",
    "TransformersMask": "transformers_mask",
    "TransformersPatches": "transformers_patches",
    "TurnedView": "drawn.turned_view",
    "Unchanged": "unchanged",
}
"""Class to module. Imported late: some bring a world or a library with them."""

__all__ = [*_FILES]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
