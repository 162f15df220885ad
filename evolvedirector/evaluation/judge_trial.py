"""What a judge is worth, measured on images with known answers: agreement, place, consistency, time and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evolvedirector.evaluation.shares import Share, share_of_prompts
from evolvedirector.judges.health.calibration import (
    Calibration,
    brier_score,
    calibrated,
    calibration_error,
    fit_calibration,
    reliability,
)
from evolvedirector.judges.judge import Judge
from evolvedirector.records import GoldItem, ImageAndPrompt, Look, OrderedPair, normalise_prompt, seed_of
from evolvedirector.records.looks import is_readable, preference_of, reading_of
from evolvedirector.records.part import price_of

MAX_SHARED_WORDS = 0.5
"""Of the prompts of two paired images: an image of "a cat and a dog" also shows "a cat"."""


@dataclass(frozen=True, slots=True)
class GoldPair:
    """Two images for a prompt of which only the first shows it."""

    prompt: str
    right: bytes
    wrong: bytes


@dataclass(frozen=True, slots=True)
class Trial:
    """What one judge said of a gold set."""

    singles: tuple[tuple[GoldItem, Look | None], ...]
    """Each image with the look at it; None where the judge gave none."""
    pairs: tuple[tuple[GoldPair, Look | None, Look | None], ...]
    """Each pair with the look in which the right image came first, and the one in which it came second."""
    seconds: float
    """Loading the judge included."""
    price_usd: float | None = None
    """Of one look; None is unknown."""
    looks: int = 0


def gold_pairs(items: Sequence[GoldItem], most: int) -> list[GoldPair]:
    """Pair each image that shows its prompt with one that does not: an image known to fail the same prompt, else one
    of another prompt with other words. The same items give the same pairs.

    Args:
        items: A gold set.
        most: Pairs at most.
    """
    lacking: dict[str, list[GoldItem]] = {}
    for item in items:
        if not item.shows:
            lacking.setdefault(normalise_prompt(item.prompt), []).append(item)
    pairs: list[GoldPair] = []
    shown = [item for item in items if item.shows]
    for place, item in enumerate(shown):
        known = lacking.get(normalise_prompt(item.prompt), [])
        others = [other for other in (*shown[place + 1 :], *shown[:place]) if shares_few_words(item, other)]
        partner = next((other for other in (*known, *others) if other.image != item.image), None)
        if partner is not None:
            pairs.append(GoldPair(item.prompt, item.image, partner.image))
    return sorted(pairs, key=lambda pair: seed_of("gold pair", pair.prompt, pair.right))[:most]


def shares_few_words(one: GoldItem, other: GoldItem) -> bool:
    """Whether at most half of the words of the shorter prompt are in the other one."""
    words, others = (set(normalise_prompt(item.prompt).replace(",", " ").split()) - {"and"} for item in (one, other))
    return len(words & others) <= MAX_SHARED_WORDS * max(1, min(len(words), len(others)))


def try_judge(judge: Judge, items: Sequence[GoldItem], pairs: Sequence[GoldPair], clock: Callable[[], float]) -> Trial:
    """Ask a judge about every image once and about every pair in both orders.

    Args:
        judge: Whom to measure; it is closed afterwards.
        items: Images with known answers.
        pairs: Pairs with a known winner.
        clock: Seconds; `time.perf_counter`.
    """
    asked = [ImageAndPrompt(f"image-{place}", item.image, item.prompt) for place, item in enumerate(items)]
    orders = [
        order
        for place, pair in enumerate(pairs)
        for order in (
            OrderedPair(f"forth-{place}", pair.right, pair.wrong, pair.prompt),
            OrderedPair(f"back-{place}", pair.wrong, pair.right, pair.prompt),
        )
    ]
    start = clock()
    try:
        looks = {look.item_id: look for look in judge.check(asked)} if asked else {}
        looks |= {look.item_id: look for look in judge.look(orders)} if orders else {}
    finally:
        judge.close()
    seconds = clock() - start
    return Trial(
        tuple((item, looks.get(f"image-{place}")) for place, item in enumerate(items)),
        tuple((pair, looks.get(f"forth-{place}"), looks.get(f"back-{place}")) for place, pair in enumerate(pairs)),
        seconds,
        price_of(judge),
        len(asked) + len(orders),
    )


def trial_figures(trial: Trial) -> dict[str, Any]:
    """Sum up a trial; shares have `value`, `interval` (95 %) and `of`, and are None where nothing was measured.

    Args:
        trial: What a judge said.

    Returns:
        `agreement` with the known answers, in all and where they are yes and no; `pairs_right` over looks at pairs;
        `swap_consistency`, the share of pairs with the same winner in both orders; `first_share`, how often the first
        place was preferred (1/2 is no bias); `unreadable`; `brier` and `calibration_error` of single images;
        `seconds_per_look`; `cost_usd_per_1000_looks`.
    """
    read = [(item, look) for item, look in trial.singles if is_readable(look)]
    right = [(item.shows, (reading_of(look) == "shows") == item.shows) for item, look in read]
    orders = [(forth, back) for _, forth, back in trial.pairs]
    forths = [preference_of(forth) for forth, _ in orders]
    backs = [preference_of(None, back) for _, back in orders]
    both = [one == other for one, other in zip(forths, backs, strict=True) if "unreadable" not in (one, other)]
    worth = {"first": 1.0, "tie": 0.5, "second": 0.0}
    told = [[worth[v] for v in orders_of if v != "unreadable"] for orders_of in zip(forths, backs, strict=True)]
    places = [
        (worth.get(forth), 1.0 - worth[back] if back in worth else None)
        for forth, back in zip(forths, backs, strict=True)
    ]
    firsts = [[place for place in of_pair if place is not None] for of_pair in places]
    unreadable = len(trial.singles) - len(read) + (*forths, *backs).count("unreadable")
    said, truths = [look.probability for _, look in read], [item.shows for item, _ in read]
    return {
        "agreement": _share([[float(ok)] for _, ok in right]),
        "agreement_shown": _share([[float(ok)] for shows, ok in right if shows]),
        "agreement_not_shown": _share([[float(ok)] for shows, ok in right if not shows]),
        "pairs_right": _share(told),
        "swap_consistency": _share([[float(same)] for same in both]),
        "first_share": _share(firsts),
        "unreadable": unreadable / trial.looks if trial.looks else None,
        "brier": brier_score(said, truths) if said else None,
        "calibration_error": calibration_error(said, truths) if said else None,
        "reliability": [list(row) for row in reliability(said, truths)],
        "looks": trial.looks,
        "seconds_per_look": trial.seconds / trial.looks if trial.looks else None,
        "cost_usd_per_1000_looks": None if trial.price_usd is None else 1000 * trial.price_usd,
    }


def fit_trial(trial: Trial) -> tuple[Calibration, Calibration]:
    """Find what puts the probabilities right: of single images, and of pairs (whose shift is the bias of place).

    Args:
        trial: What a judge said.

    Raises:
        ValueError: It says the contrary of what is true.
    """
    single = [(look.probability, item.shows) for item, look in trial.singles if is_readable(look)]
    pairs = [
        (look.probability, first)
        for _, *orders in trial.pairs
        for look, first in zip(orders, (True, False), strict=True)
        if is_readable(look)
    ]
    return fit_calibration(*_columns(single)), fit_calibration(*_columns(pairs))


def corrected_trial(trial: Trial, single: Calibration, pair: Calibration) -> Trial:
    """Return what the judge would have said with a correction: what `CalibratedJudge` makes of the same looks.

    Args:
        trial: What the judge said.
        single: Correction of single images.
        pair: Correction of pairs.
    """

    def put_right(look: Look | None, by: Calibration) -> Look | None:
        readable = look is not None and look.covered_mass > 0.0 and 0.0 <= look.probability <= 1.0
        return replace(look, probability=calibrated(look.probability, by)) if look and readable else look

    singles = tuple((item, put_right(look, single)) for item, look in trial.singles)
    pairs = tuple((p, put_right(forth, pair), put_right(back, pair)) for p, forth, back in trial.pairs)
    return replace(trial, singles=singles, pairs=pairs)


def _columns(rows: Sequence[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [probability for probability, _ in rows], [truth for _, truth in rows]


def _share(outcomes: Sequence[Sequence[float]]) -> Mapping[str, Any] | None:
    share: Share | None = share_of_prompts(outcomes)  # two looks at one pair are no independent trials
    return None if share is None else {"value": round(share.value, 6), "interval": share.interval, "of": share.prompts}
