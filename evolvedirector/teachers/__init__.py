"""Image sources that the student approaches; each class is imported when it is asked for."""

from importlib import import_module
from typing import Any

from evolvedirector.teachers.teacher import Teacher

_CLASSES = {
    "BFLTeacher": "bfl_teacher",
    "DiffusersTeacher": "diffusers_teacher",
    "FalTeacher": "fal_teacher",
    "FolderTeacher": "folder_teacher",
    "HTTPTeacher": "http_teacher",
    "OpenAIImagesTeacher": "openai_images_teacher",
    "ReplicateTeacher": "replicate_teacher",
    "StabilityTeacher": "stability_teacher",
    "WebDatasetTeacher": "webdataset_teacher",
}
"""Class to module. Imported late: each brings libraries that a run without it need not load."""

__all__ = ["Teacher", *_CLASSES]


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_CLASSES[name]}"), name)
