"""Start a network from pretrained weights: their config counts, and contradicting it is refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.component import Component, needs_revision


@dataclass(frozen=True)
class Pretrained:
    """Name the weights that a network starts from.

    Args:
        name: Diffusers folder or repository.
        revision: Git revision of the repository; None for a folder.
        subfolder: Folder of the network inside it, `transformer` in diffusers pipelines; None for none.

    Raises:
        ValueError: A repository is named without revision.
    """

    name: str
    revision: str | None = None
    subfolder: str | None = None

    def __post_init__(self) -> None:
        needs_revision("pretrained", self.name, self.revision)

    def verify(self) -> None:
        """Check that the weights are there, as safetensors.

        Raises:
            ValueError: They are not.
        """
        Component("the pretrained network", self.name, self.revision, self.subfolder).verify_weights()

    def config(self, model_class: Any) -> dict[str, Any]:
        """Return the diffusers config of the weights, with the defaults of their class filled in.

        Args:
            model_class: Of diffusers.
        """
        found = model_class.load_config(self.name, revision=self.revision, subfolder=self.subfolder)
        defaults = inspect.signature(model_class.__init__).parameters.values()
        known = {part.name: part.default for part in defaults if part.default is not inspect.Parameter.empty}
        return known | {name: value for name, value in found.items() if not name.startswith("_")}

    def weights(self, model_class: Any) -> dict[str, Tensor]:
        """Load the weights.

        Args:
            model_class: Of diffusers.
        """
        model = model_class.from_pretrained(
            self.name, revision=self.revision, subfolder=self.subfolder, use_safetensors=True
        )
        return cast(dict[str, Tensor], model.state_dict())


def agree(described: Mapping[str, Any], loaded: Mapping[str, Any], argument_of: Mapping[str, str], name: str) -> None:
    """Refuse a description that contradicts the weights it starts from.

    Args:
        described: Diffusers keys with the values that the config asks for; a key left out is left to the weights.
        loaded: The config of the weights.
        argument_of: The family's argument behind a diffusers key.
        name: Of the weights, for the error.

    Raises:
        UserError: Names the first difference.
    """
    for key, value in described.items():
        found = loaded.get(key)
        if _plain(value) != _plain(found):
            argument = argument_of.get(key, key)
            raise UserError(
                f"{argument} is {_plain(value)!r}, but the weights of {name!r} have {_plain(found)!r}. A network that "
                f"starts from them must be the same. Write {argument}: {'null' if found is None else _plain(found)}."
            )


def on_meta() -> bool:
    """Say whether networks are built without memory, to be counted only: then no weights are loaded."""
    return torch.get_default_device().type == "meta"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
