"""Judges that compare images and check them against prompts, and how far each is trusted."""

import importlib
from typing import Any

from evolvedirector.judges.gold import GoldSource, check_gold
from evolvedirector.judges.gold_file import GoldFile
from evolvedirector.judges.health import JudgeHealth
from evolvedirector.judges.health_report import HealthReport
from evolvedirector.judges.judge import Judge

_HEAVY = {
    "CalibratedJudge": "evolvedirector.judges.calibrated_judge",
    "ChatCompleter": "evolvedirector.judges.chat_completer",
    "FaithfulnessJudge": "evolvedirector.judges.faithfulness_judge",
    "GrammarQuestions": "evolvedirector.judges.grammar_questions",
    "ModelQuestions": "evolvedirector.judges.model_questions",
    "OCRGate": "evolvedirector.judges.ocr_gate",
    "OpenAIVisionJudge": "evolvedirector.judges.openai_vision_judge",
    "PanelJudge": "evolvedirector.judges.panel_judge",
    "RapidOCRReader": "evolvedirector.judges.rapid_ocr_reader",
    "TransformersJudge": "evolvedirector.judges.transformers_judge",
}
"""Classes whose module is imported only when they are asked for, because it brings a large library."""

__all__ = ["GoldFile", "GoldSource", "HealthReport", "Judge", "JudgeHealth", "check_gold", *_HEAVY]


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        return getattr(importlib.import_module(_HEAVY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
