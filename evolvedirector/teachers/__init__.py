"""Image sources that the student approaches; each class is imported when it is asked for."""

from importlib import import_module
from typing import Any

from evolvedirector.teachers.teacher import Teacher

_CLASSES = {
    "BFLTeacher": "services.bfl_teacher",
    "DiffusersTeacher": "local.diffusers_teacher",
    "FalTeacher": "services.fal_teacher",
    "FolderTeacher": "local.folder_teacher",
    "HTTPTeacher": "services.http_teacher",
    "OpenAIImagesTeacher": "services.openai_images_teacher",
    "ReplicateTeacher": "services.replicate_teacher",
    "SelfTeacher": "self_teacher",
    "StabilityTeacher": "services.stability_teacher",
    "WebDatasetTeacher": "local.webdataset_teacher",
}
"""Class to module. Imported late: each brings libraries that a run without it need not load."""

__all__ = ["Teacher", *_CLASSES]


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_CLASSES[name]}"), name)
