"""A pretrained model beside the network that is never trained: loaded at first use, and then where it is wanted."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import torch

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.component import Component, refuse_missing
from evolvedirector.lightning_modules.without_weights import Build, layers_of_diffusers
from evolvedirector.models.import_diffusers import diffusers_class

Precision: TypeAlias = Literal["float32", "bfloat16"]
Load: TypeAlias = Callable[[str, Component, Precision], tuple[Any, Mapping[str, Any]]]
"""Class of a model, where it lies, precision -> the model and its config."""


class FrozenModel:
    """Hold one model, of which a config file promises some numbers. No `nn.Module`: no checkpoint ever sees it.

    Args:
        class_name: What its library calls its class.
        component: Says where it lies.
        dtype: Precision of its weights.
        load: Reads it: `load_from_diffusers` or `load_from_transformers`.
        check: Raises where a config of its contradicts what is promised.
        build: Makes its layers without weights: `layers_of_diffusers` or `layers_of_transformers`.
    """

    def __init__(
        self,
        class_name: str,
        component: Component,
        dtype: Precision,
        load: Load,
        check: Callable[[Mapping[str, Any]], None],
        build: Build = layers_of_diffusers,
    ) -> None:
        self.class_name, self.component, self.dtype = class_name, component, dtype
        self.device = torch.device("cpu")
        self._load, self._check, self._build = load, check, build
        self._model: Any = None

    def model(self) -> Any:
        """Return the model, loaded at the first call; global draws stay as they are.

        Raises:
            UserError: Some of its weights are missing, or it is not as promised.
        """
        if self._model is None:
            with torch.random.fork_rng(devices=[]):
                model, config = self._load(self.class_name, self.component, self.dtype)
            self._check(config)
            self._model = model.eval().requires_grad_(False).to(self.device)
        return self._model

    def without_weights(self) -> torch.nn.Module:
        """Return the same layers in the same precision on the meta device, built from the config alone.

        Raises:
            UserError: The config is not on this machine.
        """
        config = self.component.config()
        if config is None:
            raise UserError(f"the config of {self.component.name!r} is not on this machine")
        model = self._build(self.class_name, config)
        return torch.nn.Module.to(model, getattr(torch, self.dtype)).eval().requires_grad_(False)

    def holding(self, model: torch.nn.Module) -> FrozenModel:
        """Return another holder for a model of the same layers, which is taken as it is."""
        other = FrozenModel(self.class_name, self.component, self.dtype, self._load, self._check, self._build)
        other.device, other._model = self.device, model
        return other

    def to(self, device: torch.device) -> None:
        """Move the weights; the next call runs there."""
        self.device = device
        if self._model is not None:
            self._model.to(device)

    def verify(self) -> None:
        """Check that the weights are there, as safetensors, and what their config promises, where it is here.

        Raises:
            ValueError: One of them would not work.
        """
        self.component.verify_weights()
        if (config := self.component.config()) is not None:
            self._check(config)

    def estimated_bytes(self) -> int:
        """Return the size of the weights; 0 before they are downloaded."""
        return self.component.weight_bytes(self.dtype)


def load_from_diffusers(class_name: str, component: Component, dtype: Precision) -> tuple[Any, Mapping[str, Any]]:
    """Load a model of diffusers from safetensors, with its config.

    Args:
        class_name: Of diffusers.
        component: Says where it lies.
        dtype: Precision of its weights.

    Raises:
        UserError: Some of its weights are missing.
    """
    model, report = diffusers_class(class_name).from_pretrained(
        component.name,
        revision=component.revision,
        subfolder=component.subfolder,
        torch_dtype=getattr(torch, dtype),
        use_safetensors=True,
        output_loading_info=True,
    )
    refuse_missing(component.what, component.name, report)
    return model, model.config


def load_from_transformers(class_name: str, component: Component, dtype: Precision) -> tuple[Any, Mapping[str, Any]]:
    """Load a model of transformers from safetensors, with its config.

    Args:
        class_name: Of transformers.
        component: Says where it lies.
        dtype: Precision of its weights.

    Raises:
        UserError: Some of its weights are missing.
    """
    model, report = getattr(importlib.import_module("transformers"), class_name).from_pretrained(
        component.name,
        revision=component.revision or "main",  # a folder has no revisions; a repository always names one
        subfolder=component.subfolder or "",
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        output_loading_info=True,
    )
    refuse_missing(component.what, component.name, report)
    return model, model.config.to_dict()
