"""What looks say of one candidate, what a further look at it is worth, and how many candidates a call needs. Pure.

Two kinds of candidates are told apart: those that the student fails and those it draws right. Errors of looks at
different drawings are taken as independent. A prompt that is drawn right now and then is something in between: its
drawings disagree, its posterior stays in the middle, and it is bought after those that fail always.

Worth is counted in failing prompts bought. Without looking, one of them costs an image's price over the share p of
candidates that fail; so in these units an image costs p, and a look c = p (price of a look / price of an image).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from evolvedirector.records import JudgeAccuracy, Tally
from evolvedirector.records.judge_accuracy import clipped

HALVINGS = 12
"""Steps of the search for a reservation value: to 1/4096."""
EM_STEPS = 30
ASSUMED_LOOKS = 20
"""Images of either kind that an assumed accuracy weighs as much as: as a small gold set."""


def believed(judge: JudgeAccuracy, assumed: float, looks: Mapping[tuple[int, int], int] | None = None) -> JudgeAccuracy:
    """Return the sensitivity and specificity to reckon with: what gold leaves possible, and the looks make likely.

    Gold of n images, k of them right, leaves a rate Beta(k + 1, n - k + 1), of which the mean stands in for the whole.
    Twenty images are few: .80 is measured as .65 now and then. The looks at candidates tell, too: fewer of them say
    failed than so poor a judge would, and looks at one prompt agree. With two hidden kinds of candidates, by
    expectation maximisation (Dawid and Skene 1979, Appl. Statist. 28, p. 20), gold as the prior:

        P_i = posterior(p, l_i, s_i),    p = (1/2 + sum P_i) / (1 + N)
        Se = (k + 1 + sum P_i l_i) / (n + 2 + sum P_i (l_i + s_i)),    Sp in the same way with 1 - P_i and s_i.

    A judge that made no mistake on gold is taken at its word, and so are rates that were not counted.

    Args:
        judge: As measured.
        assumed: Both rates of a judge of which nothing was measured, 0 to 1; it weighs as much as 20 images.
        looks: How many candidates there are by (lacks, shows) of their looks. None: there are none.
    """
    if judge.rates == (1.0, 1.0) and (judge.is_known or assumed == 1.0):
        return JudgeAccuracy(1.0, 1.0)
    if not judge.is_known:
        judge = JudgeAccuracy(assumed, assumed, ASSUMED_LOOKS, ASSUMED_LOOKS)
    (sensitivity, specificity), (of_lacks, of_shows) = judge.rates, (judge.lacks, judge.shows)
    if not of_lacks or not of_shows:
        return JudgeAccuracy(sensitivity, specificity)
    right, passed = sensitivity * of_lacks + 1, specificity * of_shows + 1
    looks = {seen: count for seen, count in sorted((looks or {}).items()) if sum(seen)}
    reckoned, share = JudgeAccuracy(right / (of_lacks + 2), passed / (of_shows + 2)), 0.5
    for _ in range(EM_STEPS if looks else 0):
        fails = {seen: count * posterior(share, *seen, reckoned) for seen, count in looks.items()}
        draws = {seen: count - fails[seen] for seen, count in looks.items()}
        share = (0.5 + sum(fails.values())) / (1 + sum(looks.values()))
        reckoned = JudgeAccuracy(
            (right + sum(n * lacks for (lacks, _), n in fails.items()))
            / (of_lacks + 2 + sum(n * sum(seen) for seen, n in fails.items())),
            (passed + sum(n * shows for (_, shows), n in draws.items()))
            / (of_shows + 2 + sum(n * sum(seen) for seen, n in draws.items())),
        )
    return reckoned


def is_exact(judge: JudgeAccuracy) -> bool:
    """Say whether one look decides."""
    return judge.rates == (1.0, 1.0)


def posterior(prior: float, lacks: int, shows: int, judge: JudgeAccuracy) -> float:
    """Return the probability that the student fails a prompt, after looks at so many drawings of it.

    P = p Se^l (1 - Se)^s / (p Se^l (1 - Se)^s + (1 - p) (1 - Sp)^l Sp^s)

    Args:
        prior: p, the share of such prompts that fail, 0 to 1.
        lacks: l, looks that say that the drawing lacks its prompt.
        shows: s, looks that say that it shows it.
        judge: Its sensitivity Se and specificity Sp. Of an exact one's looks that disagree, their share is returned.
    """
    sensitivity, specificity = judge.rates
    fails = prior * sensitivity**lacks * (1 - sensitivity) ** shows
    draws = (1 - prior) * (1 - specificity) ** lacks * specificity**shows
    if fails + draws == 0.0:
        return lacks / (lacks + shows)
    return fails / (fails + draws)


@dataclass(frozen=True, slots=True)
class Seen:
    """What looks at unseen prompts say of the share that fails, as if an exact judge had looked.

    Args:
        looks: How many looks of an exact judge they are worth: n looks say as much as n J^2, J = Se + Sp - 1.
        failed: The corrected share of them that fails, times `looks`; not clipped.
    """

    looks: float = 0.0
    failed: float = 0.0

    @classmethod
    def of(cls, tally: Tally, judge: JudgeAccuracy, weight: float = 1.0) -> Seen:
        """Correct a tally (Rogan and Gladen 1978).

        Args:
            tally: Readable looks, one at each prompt, and how many of them say failed.
            judge: How far they are right.
            weight: What they count, against those of the newest round.
        """
        share = judge.corrected(tally)
        looks = 0.0 if share is None else weight * tally.looked * judge.youden**2
        return cls(looks, looks * (share or 0.0))

    def __add__(self, other: Seen) -> Seen:
        return Seen(self.looks + other.looks, self.failed + other.failed)

    def __sub__(self, other: Seen) -> Seen:
        return Seen(max(0.0, self.looks - other.looks), self.failed - other.failed)

    def share(self, prior: float = 0.5, strength: float = 1.0) -> float:
        """Return the failing share, drawn towards a prior one where few looks were taken.

        f = (n x + m f0) / (n + m), with n looks of corrected share x, clipped to 0 to 1, and m looks' worth of prior.
        The defaults are the mean under Jeffreys' prior.

        Args:
            prior: f0, such as the share of the group that this one is a part of.
            strength: m.
        """
        share = clipped(self.failed / self.looks) if self.looks > 0 else 0.0
        return (self.looks * share + strength * prior) / (self.looks + strength)


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is to be expected of one candidate when it is looked at as often as that is worth it.

    Args:
        worth: Of the call that it competes for, less what the looks cost.
        bought: Probability that it is bought.
    """

    worth: float
    bought: float


def prospect(
    prior: float, judge: JudgeAccuracy, most: int, keep: float, price: float, must_look: bool = False
) -> Prospect:
    """Look ahead over all further looks at one candidate: stop, buy, or look again (Wald 1947; Arrow et al. 1949).

    V(P, n) = max(keep, P, -c + q V(P+, n - 1) + (1 - q) V(P-, n - 1)), V(P, 0) = max(keep, P),

    with q = P Se + (1 - P) (1 - Sp), and P+, P- the posteriors after a look that says failed or not.

    Args:
        prior: P, the probability that it fails, as known so far.
        judge: Its sensitivity Se and specificity Sp.
        most: n, most further looks.
        keep: What the call is worth to another candidate, or later.
        price: c, of a look.
        must_look: Look at least once: the candidate is fresh.
    """
    sensitivity, specificity = judge.rates
    tree = _tree(prior, judge, most)
    worth = [max(fails, keep) for fails in tree[most]]
    bought = [float(fails > keep) for fails in tree[most]]
    for depth in range(most - 1, -1, -1):  # place k: k looks say failed; then k + 1 or k do
        for lacks, fails in enumerate(tree[depth]):
            said = fails * sensitivity + (1 - fails) * (1 - specificity)
            again = said * worth[lacks + 1] + (1 - said) * worth[lacks] - price
            if again > max(fails, keep) + 1e-12 or (must_look and depth == 0):
                worth[lacks] = again
                bought[lacks] = said * bought[lacks + 1] + (1 - said) * bought[lacks]
            else:
                worth[lacks], bought[lacks] = max(fails, keep), float(fails > keep)
    return Prospect(worth[0], bought[0])


@lru_cache(maxsize=4096)
def _tree(prior: float, judge: JudgeAccuracy, most: int) -> tuple[tuple[float, ...], ...]:
    """Return the posteriors after n looks, by n, then by how many of them say failed."""
    further = (tuple(posterior(prior, k, n - k, judge) for k in range(n + 1)) for n in range(1, most + 1))
    return ((prior,), *further)


def reservation(priors: Mapping[float, float], judge: JudgeAccuracy, most: int, price: float) -> float:
    """Return what a call is worth when there are always fresh candidates to look at: Weitzman's reservation value.

    The r at which looking at a fresh candidate gains nothing over keeping the call, E_p[V(p, n)] = r (Weitzman 1979,
    Econometrica 47, p. 641). It is the posterior from which on a candidate is worth its image.

    Args:
        priors: Weight over 0 by failing share of fresh candidates.
        judge: Its sensitivity and specificity.
        most: Most looks at one candidate.
        price: Of a look.
    """
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        keep = (low + high) / 2
        if _mean(priors, judge, most, keep, price).worth > keep:
            low = keep
        else:
            high = keep
    return low


def candidates_per_call(priors: Mapping[float, float], judge: JudgeAccuracy, most: int, price: float) -> float:
    """Return how many fresh candidates are looked at until one is worth its image: 1 / P(bought).

    With an exact judge it is 1 / f, f the failing share. 0 where looking is not worth its price: a call is worth more
    when it buys blindly, f. Infinite where no candidate is ever worth it.

    Args:
        priors: Weight over 0 by failing share of fresh candidates.
        judge: Its sensitivity and specificity.
        most: Most looks at one candidate.
        price: Of a look.
    """
    keep = reservation(priors, judge, most, price)
    if keep <= sum(share * weight for share, weight in priors.items()) / sum(priors.values()):
        return 0.0
    bought = _mean(priors, judge, most, keep, price).bought
    return 1 / bought if bought > 0 else float("inf")


def _mean(priors: Mapping[float, float], judge: JudgeAccuracy, most: int, keep: float, price: float) -> Prospect:
    """Return the mean prospect of a fresh candidate."""
    whole = sum(priors.values())
    found = [(prospect(share, judge, most, keep, price, must_look=True), weight) for share, weight in priors.items()]
    return Prospect(
        sum(p.worth * weight for p, weight in found) / whole, sum(p.bought * weight for p, weight in found) / whole
    )
