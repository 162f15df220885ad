"""The endless keyed order: which sample fills which slot, as pure functions of (revision, seed, slot).

Every stratum (aspect bucket x skill x live/mastered) is an endless stream: the concatenation of keyed permutations of
its samples, one per pass. A periodic low-discrepancy schedule says from which stratum each slot draws. Where samples
have weights, a pass draws each of them as often as its weight says, in whole draws, and what that rounds off evens out
over the passes. All arithmetic is on integers or single IEEE operations, so every machine gives the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.records import seed_of

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIN_PERIOD = 4096  # shares of weighted strata are rounded to 1/4096 or finer
_WEIGHT_UNITS = 1 << 16  # weights of samples are about 1
_POINT_BITS = 30  # sums of draws in fixed point: a float64 holds them exactly up to 8 million samples


class Stratum(NamedTuple):
    """What the samples of one stream have in common."""

    bucket: int
    """Number of the aspect bucket: of the reader's sizes, or as `aspect_bucket` counts where it has none."""
    skill: str
    state: str
    """`live` or `mastered`."""


def aspect_bucket(width_px: int, height_px: int) -> int:
    """Return the bucket of an image: twice the binary logarithm of its aspect ratio, rounded (square: 0)."""
    return round(2 * float(np.log2(width_px / height_px)))


def mix64(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 values, each alone (the finaliser of splitmix64; Steele et al. 2014): a bijection."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def keyed_permutation(size: int, key: int) -> np.ndarray:
    """Return a permutation of 0..size-1 named by `key` (int64 [size])."""
    hashes = mix64(np.arange(1, size + 1, dtype=np.uint64) * _GOLDEN + np.uint64(key))
    return np.argsort(hashes, kind="stable")


def weight_units(weights: np.ndarray) -> np.ndarray:
    """Return weights in whole units of 1/65536, at least one each: a sum of integers has one value on every machine.

    Args:
        weights: Over 0, float [size].
    """
    return np.maximum(np.round(weights * _WEIGHT_UNITS), 1).astype(np.int64)


def weighted_pass(weights: np.ndarray, number: int, phase: int, key: int) -> np.ndarray:
    """Return the samples that one pass draws, in order: as many draws as samples, shared out by weight (int64 [size]).

    Sample i has c_i = size w_i / sum(w) draws a pass on average. With C_i = c_1 + ... + c_i it has
    floor(C_i + v) - floor(C_(i-1) + v) of them in a pass with offset v: systematic sampling (Madow and Madow 1944),
    c_i rounded up or down, `size` draws in all. The offset of pass p is v = v_0 + p / golden ratio modulo 1, so that
    the draws of p passes stay near p c_i. Inside a pass the draws of a sample are spread evenly.

    Args:
        weights: Over 0, float [size].
        number: p, from 0.
        phase: Names v_0; the same for all passes of a stream.
        key: Names the order inside this pass.
    """
    size = len(weights)
    ends = np.cumsum(weight_units(weights))
    points = np.floor(ends / ends[-1] * (size * float(1 << _POINT_BITS))).astype(np.int64)
    offset = (phase + number * int(_GOLDEN)) % 2**64 >> (64 - _POINT_BITS)
    draws = np.diff((points + offset) >> _POINT_BITS, prepend=0)
    return interleave(draws, key)[0].astype(np.int64)


def slot_seeds(revision_sha: str, seed: int, slots: np.ndarray) -> np.ndarray:
    """Return one 63-bit seed per global sample slot (int64, the shape of `slots`).

    It depends on no rank, world size or worker, so noise drawn from it is the same however training is spread out.
    """
    key = np.uint64(seed_of("sample", revision_sha, seed))
    mixed = mix64(mix64((slots.astype(np.uint64) + np.uint64(1)) * _GOLDEN) ^ key)
    return (mixed >> np.uint64(1)).astype(np.int64)


def stratum_shares(
    strata: Sequence[Stratum], counts: np.ndarray, skill_weights: Mapping[str, float], replay_share: float
) -> np.ndarray:
    """Return the share of draws of each stratum (float64 [strata], sum 1).

    Without weights a stratum's share is its number of samples. With weights, P(skill) is proportional to its weight
    (a skill without one gets the mean weight), then every sample of the skill counts alike. Mastered samples take
    `replay_share` of all draws; with share 0 they are drawn like live ones.

    Args:
        strata: The strata that have samples.
        counts: Samples per stratum, int [strata]; where samples have weights, the sum of their `weight_units`.
        skill_weights: Draw weight per skill; empty: every sample equally often.
        replay_share: Share of draws, 0 to 1.
    """
    pools = [s.state if replay_share > 0 else "" for s in strata]
    pool_share = {"": 1.0, "live": 1.0 - replay_share, "mastered": replay_share}
    mean_weight = sum(skill_weights.values()) / len(skill_weights) if skill_weights else 0.0
    totals: dict[tuple[str, str], float] = {}
    for pool, stratum, count in zip(pools, strata, counts.tolist(), strict=True):
        totals[pool, stratum.skill] = totals.get((pool, stratum.skill), 0) + count
    group_weights = {
        group: float(skill_weights.get(group[1], mean_weight)) if skill_weights else float(total)
        for group, total in totals.items()
    }
    shares = np.empty(len(strata))
    for i, (pool, stratum) in enumerate(zip(pools, strata, strict=True)):
        in_pool = sum(weight for group, weight in group_weights.items() if group[0] == pool)
        group_share = group_weights[pool, stratum.skill] / in_pool if in_pool > 0 else 1.0 / len(totals)
        shares[i] = pool_share[pool] * group_share * counts[i] / totals[pool, stratum.skill]
    if shares.sum() <= 0:  # only one pool is there and its share is 0
        return counts / counts.sum()
    return shares / shares.sum()


def slots_per_period(shares: np.ndarray, period: int) -> np.ndarray:
    """Round shares to whole slots of a period by largest remainder; a positive share keeps at least one slot."""
    exact = shares * period
    slots = np.maximum(np.floor(exact + 1e-9), shares > 0).astype(np.int64)
    while (missing := period - int(slots.sum())) != 0:
        gaps = exact - slots
        if missing > 0:
            slots[np.argsort(-gaps, kind="stable")[:missing]] += 1
        else:
            can_give = np.flatnonzero(slots > 1)
            slots[can_give[np.argsort(gaps[can_give], kind="stable")[:-missing]]] -= 1
    return slots


def interleave(slots: np.ndarray, key: int) -> tuple[np.ndarray, np.ndarray]:
    """Lay out one period so that each stream is spread evenly over it (low discrepancy).

    Draw j of stream k lies at time (j + u_k) / slots_k, with u_k in [0, 1) named by the key; the period is the draws
    in order of time.

    Returns:
        Stream of each slot (int32 [period]) and which draw of that stream it is (int64 [period]).
    """
    streams = np.repeat(np.arange(len(slots), dtype=np.int32), slots)
    starts = np.cumsum(slots) - slots
    draws = np.arange(len(streams), dtype=np.int64) - starts[streams]
    hashes = mix64(np.arange(1, len(slots) + 1, dtype=np.uint64) * _GOLDEN + np.uint64(key))
    offsets = (hashes >> np.uint64(11)).astype(np.float64) / 2.0**53
    times = (draws + offsets[streams]) / slots[streams]
    order = np.argsort(times, kind="stable")
    return streams[order], draws[order]


class KeyedOrder:
    """Say which rows of a revision fill global batch b. Any batch can be asked for first; nothing is consumed."""

    def __init__(
        self,
        revision_sha: str,
        seed: int,
        global_batch_size: int,
        strata: Sequence[Stratum],
        stratum_of_row: np.ndarray,
        skill_weights: Mapping[str, float] | None = None,
        replay_share: float = 0.0,
        weight_of_row: np.ndarray | None = None,
    ) -> None:
        """Prepare the order of one revision.

        Args:
            revision_sha: Names the revision; part of the key.
            seed: Names one of many orders.
            global_batch_size: Images per batch over all ranks.
            strata: Every stratum that has rows.
            stratum_of_row: Ordinal of the stratum of each row, int [rows].
            skill_weights: Draw weight per skill; None or empty: every row once per pass.
            replay_share: Share of draws that repeat mastered samples; 0 draws them like live ones.
            weight_of_row: Draws of each row relative to those of others of its skill, over 0, float [rows]. None: all
                alike.

        Raises:
            UserError: If there are no rows or the batch size is below 1.
        """
        if len(stratum_of_row) == 0 or global_batch_size < 1:
            raise UserError(
                f"There is no order over {len(stratum_of_row)} rows in batches of {global_batch_size}."
                " Both must be at least 1."
            )
        self.global_batch_size = global_batch_size
        self._name = (revision_sha, seed)
        self._strata = tuple(strata)
        order = np.argsort(stratum_of_row, kind="stable")
        counts = np.bincount(stratum_of_row, minlength=len(strata))
        self._rows = np.split(order, np.cumsum(counts)[:-1])  # rows of each stratum, in the order of entry
        self._weights = None if weight_of_row is None else [weight_of_row[rows] for rows in self._rows]
        self._passes: dict[tuple[int, int], np.ndarray] = {}
        sizes = counts if self._weights is None else np.array([weight_units(of).sum() for of in self._weights])
        shares = stratum_shares(self._strata, sizes, skill_weights or {}, replay_share)
        weighted = bool(skill_weights) or replay_share > 0 or self._weights is not None
        buckets = sorted({stratum.bucket for stratum in self._strata})
        members = [np.flatnonzero([s.bucket == bucket for s in self._strata]) for bucket in buckets]
        # which bucket each batch takes: one per batch, so that all its images have one shape
        bucket_shares = np.array([shares[m].sum() for m in members])
        bucket_slots = slots_per_period(bucket_shares, _MIN_PERIOD if len(buckets) > 1 else 1)
        self._bucket_slots = bucket_slots
        self._bucket_of_batch, self._turn_of_batch = interleave(bucket_slots, self._key("buckets"))
        self._schedules = []
        for bucket, member in zip(buckets, members, strict=True):
            if weighted:
                period = max(_MIN_PERIOD, int(counts[member].sum()))
                inside = shares[member] if shares[member].sum() > 0 else counts[member]  # a bucket never drawn from
                slots = slots_per_period(inside / inside.sum(), period)
            else:
                slots = counts[member]  # one period is one pass: every row exactly once
            self._schedules.append((member, slots, *interleave(slots, self._key("schedule", bucket))))

    def global_batch(self, batch: int) -> np.ndarray:
        """Return the rows of global batch `batch`, int64 [global_batch_size]."""
        cycle, position = divmod(batch, len(self._bucket_of_batch))
        bucket = int(self._bucket_of_batch[position])
        turn = cycle * int(self._bucket_slots[bucket]) + int(self._turn_of_batch[position])  # batches of this bucket
        members, slots, streams, draws = self._schedules[bucket]
        ticks = turn * self.global_batch_size + np.arange(self.global_batch_size, dtype=np.int64)
        periods, places = np.divmod(ticks, len(streams))
        stream = streams[places]
        draw = periods * slots[stream] + draws[places]
        rows = np.empty(self.global_batch_size, np.int64)
        for k in np.unique(stream):
            mask = stream == k
            rows[mask] = self._draw(int(members[k]), draw[mask])
        return rows

    def rank_batch(self, batch: int, rank: int, world_size: int) -> np.ndarray:
        """Return the slice of a global batch that one rank trains on; every rank gets equally many."""
        share = self.global_batch_size // world_size
        return self.global_batch(batch)[rank * share : (rank + 1) * share]

    def sample_seeds(self, batch: int) -> np.ndarray:
        """Return the seed of each slot of a global batch, int64 [global_batch_size]."""
        slots = batch * self.global_batch_size + np.arange(self.global_batch_size, dtype=np.int64)
        return slot_seeds(*self._name, slots)

    def passes(self, batches: int) -> dict[Stratum, float]:
        """Count how often each stratum has been gone through after this many batches (above 1: it repeats)."""
        passes = {}
        cycles = batches / len(self._bucket_of_batch)
        for (members, slots, streams, _), turns in zip(self._schedules, self._bucket_slots, strict=True):
            images = cycles * int(turns) * self.global_batch_size
            for k, member in enumerate(members):
                drawn = images * int(slots[k]) / len(streams)
                passes[self._strata[member]] = drawn / len(self._rows[member])
        return passes

    def _draw(self, stratum: int, draws: np.ndarray) -> np.ndarray:
        """Look up draws of one stratum's endless stream."""
        rows = self._rows[stratum]
        passes, places = np.divmod(draws, len(rows))
        drawn = np.empty(len(draws), np.int64)
        for number in np.unique(passes):
            mask = passes == number
            drawn[mask] = rows[self._pass(stratum, int(number))[places[mask]]]
        return drawn

    def _pass(self, stratum: int, number: int) -> np.ndarray:
        """Return the order of one pass; the last two of each stratum are kept (a batch may span both)."""
        if (stratum, number) not in self._passes:
            self._passes.pop((stratum, number - 2), None)
            key = self._key("pass", *self._strata[stratum], number)
            if self._weights is None:
                self._passes[stratum, number] = keyed_permutation(len(self._rows[stratum]), key)
            else:
                phase = self._key("phase", *self._strata[stratum])
                self._passes[stratum, number] = weighted_pass(self._weights[stratum], number, phase, key)
        return self._passes[stratum, number]

    def _key(self, *parts: str | int) -> int:
        return seed_of(*self._name, *parts)
