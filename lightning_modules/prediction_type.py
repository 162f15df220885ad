"""What pretrained weights learned to predict, as the scheduler beside them says, and whether the objective agrees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.component import Component
from evolvedirector.lightning_modules.families.pretrained import Pretrained
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.models.import_diffusers import import_diffusers

_FLOW = "flow_prediction"
_MEANS = {"epsilon": "the noise", "v_prediction": "the velocity of a diffusion", _FLOW: "the velocity of a flow"}
_WRITE = {
    "epsilon": "DDPM(prediction=epsilon), for PixArt DDPMEpsilon",
    "v_prediction": "DDPM(prediction=velocity)",
    _FLOW: "FlowMatching, or another objective of flows",
}


def check_prediction(objective: Objective, start: Pretrained | None) -> None:
    """Refuse an objective under which pretrained weights mean something else than what they learned.

    The pipeline around the weights tells, where it is on this machine; a folder of the network alone does not.

    Args:
        objective: What is minimised.
        start: The weights; None for random ones.

    Raises:
        UserError: They predict another thing.
    """
    if start is None:
        return
    config = Component("the scheduler", start.name, start.revision, "scheduler", "scheduler_config.json").config()
    learned = None if config is None else prediction_type(config)
    if learned not in _MEANS:
        return
    import_diffusers()
    scheduler = objective.scheduler(2)
    asked = prediction_type({**scheduler.config, "_class_name": type(scheduler).__name__})  # files alone name the class
    if asked != learned:
        raise UserError(
            f"The weights of {start.name!r} predict {_MEANS[learned]} ({learned}, says the scheduler beside them), but "
            f"{type(objective).__name__} reads {_MEANS.get(asked, asked)}: to it they mean nothing. Both must be the "
            f"same. Write objective: {_WRITE[learned]}. To teach them another one all the same, copy the network's "
            "folder out of the pipeline and name that."
        )


def prediction_type(config: Mapping[str, Any]) -> str:
    """Return what a scheduler of diffusers takes a prediction for: `epsilon`, `v_prediction`, `flow_prediction`, ...

    Args:
        config: Of the scheduler; those of flows name their class alone, and old ones leave out the noise.
    """
    if str(config.get("_class_name", "")).startswith("FlowMatch"):
        return _FLOW
    return str(config.get("prediction_type", "epsilon"))
