"""The words of the system as frozen records; every other part passes these around.

Images cross every seam as encoded bytes (PNG unless the bytes say otherwise): they are content-addressed,
cacheable and independent of any array library. Nothing here imports torch or Lightning.
"""

from evolvedirector.records.figures import NoImage, RoundFigures
from evolvedirector.records.files import IMAGE_ROLE, FileRef, check_role
from evolvedirector.records.judge_accuracy import JudgeAccuracy, Tally
from evolvedirector.records.looks import (
    AtomAnswer,
    FaithfulnessLook,
    GoldItem,
    ImageAndPrompt,
    Look,
    OrderedPair,
    Owner,
    Preference,
    Reading,
    Score,
    Verdict,
)
from evolvedirector.records.names import (
    digest,
    normalise_prompt,
    prompt_id_of,
    seed_of,
)
from evolvedirector.records.prompts import (
    MAX_PROMPT_CHARACTERS,
    UNLABELLED,
    DatasetState,
    Origin,
    Prompt,
    PromptEntry,
    PromptState,
    RoundHistory,
    Sample,
)
from evolvedirector.records.requests import (
    ImageReply,
    ImageRequest,
    LossReply,
    LossRequest,
    ReplyStatus,
    WriteReply,
    WriteRequest,
)
from evolvedirector.records.rounds import (
    Allowance,
    Decision,
    DecisionKind,
    Evidence,
    EvidenceKind,
    RevisionChange,
    RoundInfo,
    RoundPlan,
    TrainingMix,
)

__all__ = [
    "IMAGE_ROLE",
    "MAX_PROMPT_CHARACTERS",
    "UNLABELLED",
    "Allowance",
    "AtomAnswer",
    "DatasetState",
    "Decision",
    "DecisionKind",
    "Evidence",
    "EvidenceKind",
    "FaithfulnessLook",
    "FileRef",
    "GoldItem",
    "ImageAndPrompt",
    "ImageReply",
    "ImageRequest",
    "JudgeAccuracy",
    "Look",
    "LossReply",
    "LossRequest",
    "NoImage",
    "OrderedPair",
    "Origin",
    "Owner",
    "Preference",
    "Prompt",
    "PromptEntry",
    "PromptState",
    "Reading",
    "ReplyStatus",
    "RevisionChange",
    "RoundFigures",
    "RoundHistory",
    "RoundInfo",
    "RoundPlan",
    "Sample",
    "Score",
    "Tally",
    "TrainingMix",
    "Verdict",
    "WriteReply",
    "WriteRequest",
    "check_role",
    "digest",
    "normalise_prompt",
    "prompt_id_of",
    "seed_of",
]
