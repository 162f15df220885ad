"""The layers of a frozen model from its config alone, on the meta device: what memory is predicted with."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from evolvedirector.models.import_diffusers import diffusers_class

Build: TypeAlias = Callable[[str, Mapping[str, Any]], nn.Module]
"""Class of a model, its config file as read -> its layers."""


def layers_of_diffusers(class_name: str, config: Mapping[str, Any]) -> nn.Module:
    """Build a model of diffusers without weights.

    Args:
        class_name: Of diffusers.
        config: Its config file.
    """
    with torch.device("meta"):
        model: nn.Module = diffusers_class(class_name).from_config(dict(config))
    return model


def layers_of_transformers(class_name: str, config: Mapping[str, Any]) -> nn.Module:
    """Build a model of transformers without weights, with the attention that loading it chooses.

    Args:
        class_name: Of transformers.
        config: Its config file.
    """
    transformers = importlib.import_module("transformers")
    model_class: Any = getattr(transformers, class_name)
    with torch.device("meta"):
        model: nn.Module = model_class._from_config(model_class.config_class.from_dict(dict(config)))
    return model
