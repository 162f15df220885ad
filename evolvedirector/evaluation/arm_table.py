"""The table of a run with experts as a file: what every arm drew and scored, kept arm by arm."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from evolvedirector.evaluation.expert_arms import ArmFigures, Scores, compare_arms, split_by_skill
from evolvedirector.records import Prompt

FOLDER = "experts"
"""Under the run folder: experts, merges, this table and its pictures."""
TABLE_FILE = "table.json"
PICTURE_FOLDER = "pictures"
MAX_TABLE_BYTES = 256 * 2**20
ArmKind = Literal["base", "expert", "merge", "gate"]
"""What an arm draws with."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class UnreadableTable(ValueError):
    """A file that is no table of arms."""


@dataclass(frozen=True, slots=True)
class ArmRecord:
    """A finished arm.

    Args:
        kind: What it drew with.
        key: Names weights, prompts, seeds and evaluators: another key is another arm.
        scores: By evaluator and image. None: the evaluator could not score it.
        pictures: sha256 of the kept pictures by image.
        about: How its weights were made, as plain values.
    """

    kind: ArmKind
    key: str
    scores: Scores
    pictures: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class ArmTable:
    """All arms on the same prompts and seeds.

    Args:
        evaluators: Fingerprints by name.
        prompts: By id.
        images: Prompt id by image; an image has one name under all arms.
        by_skill: Whether the columns are skills (SELMA), not evaluators (VersaT2I).
        arms: Finished ones by name, in the order of the table.
        gates: Of the gate: mean weight of each expert, by layer. Empty: there is no gate.
    """

    evaluators: dict[str, str]
    prompts: dict[str, Prompt]
    images: dict[str, str]
    by_skill: bool = False
    arms: dict[str, ArmRecord] = field(default_factory=dict)
    gates: dict[str, dict[str, float]] = field(default_factory=dict)

    def columns(self) -> dict[str, Scores]:
        """Return the scores of each arm by the columns of the table: evaluators, or skills."""
        if not self.by_skill:
            return {name: arm.scores for name, arm in self.arms.items()}
        skills = {image: self.prompts[prompt].skill for image, prompt in self.images.items()}
        return {name: split_by_skill(arm.scores, skills) for name, arm in self.arms.items()}

    def figures(self) -> dict[str, ArmFigures]:
        """Compare the arms with the base."""
        return compare_arms(self.columns(), self.images)

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON holds it, with the figures beside what they were made of."""
        return {
            "evaluators": self.evaluators,
            "by_skill": self.by_skill,
            "prompts": {key: {"text": prompt.text, "skill": prompt.skill} for key, prompt in self.prompts.items()},
            "images": self.images,
            "arms": {name: asdict(arm) for name, arm in self.arms.items()},
            "gates": self.gates,
            "figures": {name: figures.to_plain() for name, figures in self.figures().items()} if self.arms else {},
        }


def table_path(run_folder: Path) -> Path:
    """Return where the table of a run is."""
    return run_folder / FOLDER / TABLE_FILE


def picture_path(run_folder: Path, sha256: str) -> Path:
    """Return where a picture of the table is.

    Args:
        run_folder: Of the run.
        sha256: Of its bytes, as 64 hex digits: `read_table` takes no other.
    """
    return run_folder / FOLDER / PICTURE_FOLDER / f"{sha256}.png"


def write_table(run_folder: Path, table: ArmTable) -> None:
    """Write a table in one step: a reader sees the old one or the new one.

    Args:
        run_folder: Of the run.
        table: With the arms that are finished.
    """
    path = table_path(run_folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(table.to_plain(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_table(run_folder: Path) -> ArmTable | None:
    """Read the table of a run; None where there is none.

    Raises:
        UnreadableTable: The file is too large, or no table.
    """
    path = table_path(run_folder)
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes, {MAX_TABLE_BYTES:,} are allowed")
        return _table_of(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableTable(f"{FOLDER}/{TABLE_FILE} is no table of arms ({error!r}).") from None


def _table_of(plain: Any) -> ArmTable:
    prompts = {key: Prompt(key, str(of["text"]), skill=str(of["skill"])) for key, of in plain["prompts"].items()}
    images = {image: str(prompt) for image, prompt in plain["images"].items()}
    if not set(images.values()) <= prompts.keys():
        raise ValueError("an image of an unknown prompt")
    return ArmTable(
        {name: str(fingerprint) for name, fingerprint in plain["evaluators"].items()},
        prompts,
        images,
        bool(plain["by_skill"]),
        {name: _arm_of(arm, images) for name, arm in plain["arms"].items()},
        {layer: {name: float(of) for name, of in gate.items()} for layer, gate in plain["gates"].items()},
    )


def _arm_of(plain: Any, images: Mapping[str, str]) -> ArmRecord:
    scores = {
        evaluator: {image: None if value is None else float(value) for image, value in of.items()}
        for evaluator, of in plain["scores"].items()
    }
    pictures = {image: str(sha256) for image, sha256 in plain["pictures"].items()}
    if plain["kind"] not in get_args(ArmKind):
        raise ValueError(f"kind {plain['kind']!r}")
    if not {*pictures, *(image for of in scores.values() for image in of)} <= images.keys():
        raise ValueError("an unknown image")
    if not all(_SHA256.fullmatch(sha256) for sha256 in pictures.values()):
        raise ValueError("a picture that is named by no sha256")
    return ArmRecord(cast(ArmKind, plain["kind"]), str(plain["key"]), scores, pictures, dict(plain["about"]))
