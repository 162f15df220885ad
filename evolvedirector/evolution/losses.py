"""The student's loss on what it trains on: at fixed noise, so that a loss changes only as the student does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from evolvedirector.evolution.remembered import remembered, whole_chunks
from evolvedirector.evolution.round_parts import Round
from evolvedirector.records import DatasetState, LossReply, LossRequest, RevisionChange, Sample, seed_of

NOISE_LEVELS = 4
"""At which a sample is measured: as many forward passes for each."""
ROUNDS_REMEMBERED = 10
"""How far back losses are handed to the policy; a running mean that halves holds a thousandth of what is older."""


def measured_losses(round: Round, samples: Sequence[Sample], most: int) -> dict[str, tuple[float, ...]]:
    """Measure the student's loss on samples; returns the losses of this round and of those before it by sample key.

    Noise is named by seed, sample and level, so the same student gives the same loss in every round and at every world
    size. Chunks are cut from the whole list, as they are for drawing. What the ledger holds is not measured again.

    Args:
        round: The round.
        samples: What training draws from.
        most: How many are measured. Of more, those that were never measured and those measured longest ago come first.
    """
    parts, info, book = round.parts, round.info, round.parts.ledger.rounds
    earlier = book.recent_losses(info.revision_sha, ROUNDS_REMEMBERED)
    by_key = {sample.key: sample for sample in _chosen(samples, earlier, most, info.seed, info.round_id)}

    def requests(keys: Sequence[str]) -> list[LossRequest]:
        return [_request(round, by_key[key]) for key in keys]

    def settle(replies: Sequence[LossReply]) -> dict[str, float]:
        found = {reply.request_id: reply.loss for reply in replies}
        book.add_losses(info.round_id, found)
        return found

    now: dict[str, float] = remembered(
        round,
        "measure",
        parts.student,
        "losses",
        list(by_key),
        recorded=lambda keys: whole_chunks(keys, parts.student.chunk, book.losses(info.round_id)),
        requests=requests,
        settle=settle,
        group_seconds=math.inf,  # a unit is measured as a whole
    )
    rounds = [*earlier, now]
    held = {sample.key: tuple(of[sample.key] for of in rounds if sample.key in of) for sample in samples}
    return {key: losses for key, losses in held.items() if losses}


def live_samples(state: DatasetState, change: RevisionChange) -> list[Sample]:
    """List the samples of live prompts after a change, those that it brings last.

    Args:
        state: Before it.
        change: What a round is about to publish.
    """
    brought = {(sample.prompt.id, sample.variant) for sample in change.samples}
    entered = {sample.prompt.id for sample in change.samples}
    kept = [
        sample
        for key, entry in state.entries.items()
        if change.states.get(key, "live" if key in entered else entry.state) == "live"
        for sample in entry.samples
        if (key, sample.variant) not in brought
    ]
    return kept + [sample for sample in change.samples if change.states.get(sample.prompt.id, "live") == "live"]


def _chosen(
    samples: Sequence[Sample], earlier: Sequence[Mapping[str, float]], most: int, seed: int, round_id: str
) -> list[Sample]:
    """Choose the samples to measure: those whose last loss is oldest, equal ones in seeded order."""
    if len(samples) <= most:
        return list(samples)
    last = {key: place for place, losses in enumerate(earlier) for key in losses}
    return sorted(samples, key=lambda s: (last.get(s.key, -1), seed_of("loss", seed, round_id, s.key), s.key))[:most]


def _request(round: Round, sample: Sample) -> LossRequest:
    blobs = round.parts.store.blobs
    seeds = tuple(seed_of("loss", round.info.seed, sample.key, level) for level in range(NOISE_LEVELS))
    files = {role: replace(file, content=blobs.get(file.sha256)) for role, file in sample.files.items()}
    return LossRequest(sample.key, blobs.get(sample.image_sha256), sample.prompt.text, seeds, files)
