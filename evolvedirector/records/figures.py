"""What a round counted: one field for each thing that a report, a log line or a policy's author asks about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from evolvedirector.records.judge_accuracy import JudgeAccuracy
from evolvedirector.records.looks import Preference, Reading, Verdict
from evolvedirector.records.rounds import DecisionKind, Evidence

NoImage = Literal["unfaithful", "refusal", "failure"]
"""Why a teacher's answer gave no image to train on."""


@dataclass(slots=True)
class RoundFigures:
    """Count what happened in one round; kept in the ledger with the round."""

    written: int = 0
    """Texts that became prompts, candidates and children together."""
    unwritten: int = 0
    """Texts that were not asked for, since nobody could have drawn them any more: the budget was spent."""
    refused: Counter[str] = field(default_factory=Counter)
    """Texts that became no prompt, by cause."""
    shortfalls: dict[str, str] = field(default_factory=dict)
    """Why the writer wrote fewer texts of a skill than it was asked for, by skill, where it said so."""
    decisions: Counter[DecisionKind] = field(default_factory=Counter)
    buys_beyond_allowance: int = 0
    """`buy` decisions over what the round could spend when it began."""
    screened: Counter[Reading] = field(default_factory=Counter)
    """The student's images of prompts it was never trained on."""
    probed: Counter[Reading] = field(default_factory=Counter)
    """The student's images of prompts it was trained on, drawn with a fresh seed."""
    checked: Counter[Reading] = field(default_factory=Counter)
    """Teachers' images, checked against their prompts."""
    compared: Counter[Verdict] = field(default_factory=Counter)
    """Student against teacher."""
    duels: Counter[Preference] = field(default_factory=Counter)
    """Teacher against teacher: the first is the one that stood."""
    scored: int = 0
    """Images that rewards scored."""
    no_image: Counter[NoImage] = field(default_factory=Counter)
    """Teachers' answers that gave no image to train on, by cause."""
    looks_beyond_budget: int = 0
    """Questions that were not asked: the budget of looks was spent."""
    kept_to_train: int = 0
    """Prompts that the policy retired and that stay: nothing else would be left to train on."""
    judge: dict[str, float] = field(default_factory=dict)
    """What the check of the judge measured, under the names of `HealthReport.to_figures`."""
    judge_silent: bool = False
    """Whether nothing that the judge was asked could be read as the round began."""
    skipped: bool = False
    """Whether the judge could not be trusted, so that nothing was decided."""
    skipped_because: str = ""
    pairs: dict[str, Any] = field(default_factory=dict)
    """Of a round over subject pairs: `asked` and `kept` by kind of change, `rejected` by cause, `open`, what `held
    back` calls, `failures` of stages, a `problem`, and `cells`: how often the student fails each kind of a category."""

    def add(self, evidence: Iterable[Evidence]) -> None:
        """Count what was learned."""
        readings = {"screen": self.screened, "probe": self.probed, "faithfulness": self.checked}
        for item in evidence:
            if item.reading is not None:
                readings[item.kind][item.reading] += 1
            elif item.verdict is not None:
                self.compared[item.verdict] += 1
            else:
                self.scored += 1

    @property
    def judge_accuracy(self) -> JudgeAccuracy:
        """How far the judge was right about single images; one number for both classes in ledgers of before."""
        judge = self.judge
        if "sensitivity" not in judge or "specificity" not in judge:
            return JudgeAccuracy.of_error(judge["error"]) if "error" in judge else JudgeAccuracy()
        counts = (int(judge.get(f"{name} looks", 0)) for name in ("sensitivity", "specificity"))
        return JudgeAccuracy(judge["sensitivity"], judge["specificity"], *counts)
