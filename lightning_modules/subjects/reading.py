"""A network that is handed something beside what its family knows of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from evolvedirector.records.condition import Condition


class Reading(nn.Module):
    """A network for one batch: called as its family calls it, it is also handed the batch's further inputs.

    Args:
        network: Takes them in a hook of its forward pass.
        further: Inputs by name.
    """

    def __init__(self, network: nn.Module, **further: Any) -> None:
        super().__init__()
        self.network, self.further = network, further

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network."""
        return self.network(*args, **kwargs, **self.further)


def without(condition: Condition, name: str) -> Condition:
    """Leave out the fields of a condition that a family does not know of.

    Args:
        condition: Of one that wraps it.
        name: Their names begin with it, and a dot.
    """

    def rest(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {field: part for field, part in fields.items() if not field.startswith(f"{name}.")}

    return Condition(rest(condition.tokens), rest(condition.vectors), rest(condition.spatial))
