"""How the dataset grew: the deltas of the revisions, one at a time, and what came of each prompt."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from sys import intern
from typing import Any

from evolvedirector.store.errors import StoreError
from evolvedirector.store.ledger import Ledger
from evolvedirector.store.revision import RevisionFiles


@dataclass(slots=True)
class Fate:
    """What became of one prompt: its state, the image it is trained on, and those of its variants."""

    state: str
    image_sha256: str | None = None
    teacher: str | None = None
    variants: dict[str, str] | None = None
    """Image by variant; None where there is one image alone."""

    @property
    def trained_images(self) -> int:
        """Count the different images that are trained on."""
        if self.state not in ("live", "mastered") or self.image_sha256 is None:
            return 0
        return len(set(self.variants.values())) if self.variants else 1


@dataclass(slots=True)
class History:
    """Hold the states of all prompts, and what each revision changed."""

    fates: dict[str, Fate] = field(default_factory=dict)
    """By prompt id; a prompt that was written and never bought is not there."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """One per revision: `number`, `round_id`, the counts after it, and what it changed."""
    problem: str = ""
    """Why revisions could not be read; the figures stop before them then."""


def read_history(ledger: Ledger, files: RevisionFiles, revision_sha: str) -> History:
    """Read the revisions that led to one, oldest first; a damaged one ends the story early.

    Only one delta is in memory at a time, and of each prompt only its fate.

    Args:
        ledger: The ledger, which knows the chain without reading files.
        files: The deltas.
        revision_sha: The newest revision.
    """
    history = History()
    counts: Counter[str] = Counter()
    for sha, number, round_id in ledger.rounds.ancestry(revision_sha):
        try:
            body = files.body(sha)
        except (StoreError, OSError, ValueError) as error:
            history.problem = f"Revision {number} cannot be read, so the story ends before it: {error}"
            break
        changes = _apply(history.fates, counts, body)
        history.steps.append({"number": number, "round_id": round_id, **_trained(counts), **changes})
    return history


def _apply(fates: dict[str, Fate], counts: Counter[str], body: dict[str, Any]) -> dict[str, Any]:
    """Apply one delta to the fates and the counts of states; returns what it changed."""
    added: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    for prompt in body["prompts"]:
        if prompt["id"] not in fates:
            fates[prompt["id"]] = Fate("candidate")
            counts["candidate"] += 1
    for sample in body["samples"]:
        fate = fates[sample["prompt_id"]]
        counts[fate.state] -= 1
        counts["live"] += 1
        counts["images"] -= fate.trained_images
        teacher, variant = intern(sample["teacher"]), intern(sample.get("variant", ""))
        before = fate.variants or ({"": fate.image_sha256} if fate.image_sha256 else {})
        variants = {**before, variant: sample["image_sha256"]} if variant or fate.variants else None
        fate = fates[sample["prompt_id"]] = Fate("live", sample["image_sha256"], teacher, variants)
        counts["images"] += fate.trained_images
        added[teacher] += 1
    for prompt_id, state in body["states"].items():
        fate = fates[prompt_id]
        counts[fate.state] -= 1
        counts[state] += 1
        # a retired prompt without an image was never part of the dataset: its teachers drew something else
        changed["revived" if state == "live" else state if fate.image_sha256 else f"{state} unbought"] += 1
        counts["images"] -= fate.trained_images
        fate.state = intern(state)
        counts["images"] += fate.trained_images
    return {"added": dict(added), "changed": dict(changed)}


def _trained(counts: Counter[str]) -> dict[str, int]:
    return {state: counts[state] for state in ("live", "mastered", "retired", "candidate", "images")}
