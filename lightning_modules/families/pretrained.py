"""Start a network from pretrained weights: their config counts, and contradicting it is refused by name."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.component import Component, needs_revision, refuse_missing
from evolvedirector.models.import_diffusers import diffusers_class
from evolvedirector.records import digest
from evolvedirector.store.paths import folder_or_hub_name


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
        object.__setattr__(self, "name", folder_or_hub_name(self.name))  # frozen
        needs_revision("pretrained", self.name, self.revision)

    def verify(self) -> None:
        """Check that the weights are there, as safetensors.

        Raises:
            ValueError: They are not.
        """
        Component("the pretrained network", self.name, self.revision, self.subfolder).verify_weights()

    def config(self, model_class: Any) -> dict[str, Any]:
        """Return the diffusers config of the weights, with the defaults of their class filled in.

        Keys that the class does not know are left out, as diffusers does: older files have some.

        Args:
            model_class: Of diffusers.
        """
        found = self.written_config(model_class)
        defaults = inspect.signature(model_class.__init__).parameters.values()
        known = {part.name: part.default for part in defaults if part.default is not inspect.Parameter.empty}
        return known | {name: value for name, value in found.items() if name in known}

    def written_config(self, model_class: Any) -> dict[str, Any]:
        """Return the diffusers config as it lies beside the weights.

        Args:
            model_class: Of diffusers.

        Raises:
            UserError: It is not on this machine, and the hub does not send it.
        """
        try:
            found: dict[str, Any] = model_class.load_config(self.name, revision=self.revision, subfolder=self.subfolder)
        except OSError as error:
            raise self._no_config() from error
        return found

    def weights(self, model_class: Any) -> dict[str, Tensor]:
        """Load the weights, all of them.

        Args:
            model_class: Of diffusers.

        Raises:
            UserError: Some are missing.
        """
        model, report = model_class.from_pretrained(
            self.name,
            revision=self.revision,
            subfolder=self.subfolder,
            use_safetensors=True,
            output_loading_info=True,
        )
        refuse_missing("the pretrained network", self.name, report)
        return cast(dict[str, Tensor], model.state_dict())

    def _no_config(self) -> UserError:
        file = f"{self.subfolder}/config.json" if self.subfolder else "config.json"
        if Path(self.name).is_dir():
            return UserError(
                f"The folder {self.name!r} of the pretrained network has no {file} that can be read. Allowed is one "
                "that save_pretrained wrote. Correct pretrained or pretrained_subfolder."
            )
        return UserError(
            f"{file} of the pretrained network {self.name!r} (revision {self.revision}) is not on this machine, and "
            f"the hub does not send it. Allowed is a folder, or a repository that was downloaded. Run: hf download "
            f"{self.name} --revision {self.revision}"
        )


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


def agreed_config(
    class_name: str, described: Mapping[str, Any], argument_of: Mapping[str, str], start: Pretrained | None
) -> dict[str, Any]:
    """Return the config of the weights that a network starts from, which agrees with its description.

    Args:
        class_name: What diffusers calls the network.
        described: Diffusers keys with the values that the family asks for.
        argument_of: The family's argument behind a diffusers key.
        start: The weights; None for random ones, whose config is empty.

    Raises:
        UserError: Names the first difference.
    """
    if start is None:
        return {}
    loaded = start.config(diffusers_class(class_name))
    agree(described, loaded, argument_of, start.name)
    return loaded


def built(
    class_name: str,
    config: Mapping[str, Any],
    start: Pretrained | None,
    gradient_checkpointing: bool,
) -> nn.Module:
    """Make a network with the initial weights of diffusers, or pretrained ones.

    Args:
        class_name: What diffusers calls it.
        config: Of diffusers.
        start: The weights; None for random ones.
        gradient_checkpointing: Recompute blocks in the backward pass.
    """
    model_class = diffusers_class(class_name)
    network = model_class(**config)
    if start and not on_meta():
        network.load_state_dict(start.weights(model_class))
    if gradient_checkpointing:
        network.enable_gradient_checkpointing()
    return cast(nn.Module, network)


def network_fingerprint(kind: str, numbers: object, start: Pretrained | None, *parts: str | int) -> str:
    """Return a name for everything that decides what a network computes, weights that are trained left out.

    Args:
        kind: Of the network.
        numbers: That describe it, JSON-able.
        start: The weights that it starts from.
        parts: Fingerprints of the frozen parts, and what else counts.
    """
    begin = (start.name, start.revision or "") if start else ()
    return f"{kind}-{digest(json.dumps(numbers, sort_keys=True), *parts, *begin)}"


def on_meta() -> bool:
    """Say whether networks are built without memory, to be counted only: then no weights are loaded."""
    return torch.get_default_device().type == "meta"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@runtime_checkable
class StartsPretrained(Protocol):
    """A family that may start from pretrained weights."""

    pretrained: Pretrained | None
