"""Which images of a prompt there were to choose from, how each was scored, and which were kept and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evolvedirector.records import Prompt
from evolvedirector.store.ledger import DrawnImage, Ledger


@dataclass(frozen=True, slots=True)
class Candidate:
    """One image that a round scored.

    Args:
        image_sha256: Names it in the blobs.
        drawn: Who drew it, from which seed and with which weights. None: the student drew it, to be measured only.
        scores: By the reward's name; one that could not score it is left out.
        kept: Why it was kept, by variant (the aspect that chose it). Empty: it was not.
    """

    image_sha256: str
    drawn: DrawnImage | None
    scores: Mapping[str, float]
    kept: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PromptCandidates:
    """A prompt with every image of it that a round scored, in the order in which they were drawn."""

    prompt: Prompt
    candidates: tuple[Candidate, ...]


def candidates_of(ledger: Ledger, round_id: str) -> list[PromptCandidates]:
    """List what a round had to choose from by prompt, the chosen ones marked; a round that failed to decide too.

    Args:
        ledger: The books of the root.
        round_id: Names the round.
    """
    scored = [item for item in ledger.looks.evidence(round_id) if item.kind == "score"]
    prompts = ledger.prompts.get(list(dict.fromkeys(item.prompt_id for item in scored)))
    drawn = {(image.prompt_id, image.image_sha256): image for image in ledger.calls.drawn(list(prompts))}
    kept: dict[tuple[str, str], dict[str, str]] = {}
    for decision in ledger.rounds.decisions(round_id):
        if decision.image_sha256 is not None:
            kept.setdefault((decision.prompt_id, decision.image_sha256), {})[decision.variant] = decision.reason
    found: dict[str, list[Candidate]] = {}
    for item in scored:
        image = item.teacher_sha256 or item.student_sha256 or ""
        place = (item.prompt_id, image)
        source = drawn[place] if item.teacher_sha256 is not None else None
        found.setdefault(item.prompt_id, []).append(Candidate(image, source, item.scores, kept.get(place, {})))
    return [PromptCandidates(prompts[key], tuple(candidates)) for key, candidates in found.items()]
