"""Pretrained weights are trained on under an objective that reads what they predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.lightning_modules import DDPM, DDPMEpsilon, FlowMatching, PixArt, RandomTextEncoder, TextToImage
from evolvedirector.lightning_modules.families.pretrained import Pretrained
from evolvedirector.lightning_modules.prediction_type import check_prediction

NOISE, VELOCITY, FLOW = DDPM(), DDPM(prediction="velocity"), FlowMatching()
OLD = {"_class_name": "PNDMScheduler"}  # as Stable Diffusion 1.5 has it, older than the word
TURNED = {"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"}
STRAIGHT = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
SANA = {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}


def weights_beside(folder: Path, scheduler: dict[str, Any]) -> Pretrained:
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return Pretrained(str(folder), subfolder="transformer")


@pytest.mark.parametrize(
    ("scheduler", "objective"),
    [(OLD, NOISE), (OLD, DDPMEpsilon()), (TURNED, VELOCITY), (STRAIGHT, FLOW), (SANA, FLOW)],
)
def test_an_objective_that_reads_what_the_weights_predict_is_taken(
    tmp_path: Path, scheduler: dict[str, Any], objective: Any
) -> None:
    check_prediction(objective, weights_beside(tmp_path, scheduler))


@pytest.mark.parametrize(
    ("scheduler", "objective", "said"),
    [
        (OLD, VELOCITY, r"predict the noise \(epsilon.*DDPM reads the velocity of a diffusion.*prediction=epsilon"),
        (TURNED, NOISE, r"predict the velocity of a diffusion.*reads the noise.*prediction=velocity"),
        (STRAIGHT, DDPMEpsilon(), "predict the velocity of a flow.*DDPMEpsilon reads the noise.*FlowMatching"),
        (SANA, NOISE, "predict the velocity of a flow"),
        (OLD, FLOW, "FlowMatching reads the velocity of a flow"),
    ],
)
def test_an_objective_that_reads_something_else_is_refused(
    tmp_path: Path, scheduler: dict[str, Any], objective: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check_prediction(objective, weights_beside(tmp_path, scheduler))


def test_weights_that_say_nothing_are_taken(tmp_path: Path) -> None:
    check_prediction(NOISE, None)
    check_prediction(NOISE, Pretrained(str(tmp_path)))
    check_prediction(NOISE, weights_beside(tmp_path, {"prediction_type": "trigflow"}))


def test_a_student_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    start = weights_beside(tmp_path, TURNED)
    family = PixArt(RandomTextEncoder(8), 8, patch_size=4, pretrained=start.name, pretrained_subfolder="transformer")
    with pytest.raises(ValueError, match="prediction=velocity"):
        TextToImage(family, DDPMEpsilon(), 8)
