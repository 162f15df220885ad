"""Judges that compare images and check them against prompts, and how far each is trusted."""

import importlib
from typing import Any

from evolvedirector.judges.health.gold import GoldSource, check_gold
from evolvedirector.judges.health.gold_file import GoldFile
from evolvedirector.judges.health.report import HealthReport, JudgeHealth
from evolvedirector.judges.judge import Judge
from evolvedirector.judges.no_judge import NoJudge
from evolvedirector.renamed import old_attribute

_HEAVY = {
    "CalibratedJudge": "evolvedirector.judges.calibrated_judge",
    "FaithfulnessJudge": "evolvedirector.judges.faithfulness_judge",
    "ModelQuestions": "evolvedirector.judges.questions.model_questions",
    "OCRGate": "evolvedirector.judges.readers.ocr_gate",
    "OpenAIVisionJudge": "evolvedirector.judges.openai_vision_judge",
    "PanelJudge": "evolvedirector.judges.panel_judge",
    "RapidOCRReader": "evolvedirector.judges.readers.rapid_ocr_reader",
    "TransformersJudge": "evolvedirector.judges.transformers_judge",
}
"""Classes whose module is imported only when they are asked for, because it brings a large library."""

__all__ = ["GoldFile", "GoldSource", "HealthReport", "Judge", "JudgeHealth", "NoJudge", "check_gold", *_HEAVY]


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        return getattr(importlib.import_module(_HEAVY[name]), name)
    return old_attribute(__name__, name)
