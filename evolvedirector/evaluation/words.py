"""Which words make a student fail: the contrast with and without a word inside a skill, and which words are named.

A prompt counts once, by its first readable look, however often it is looked at. Words are lower-case runs of letters
and digits, and pairs of neighbours, since what a student never saw may be a pair (`left of`). No word is special: one
that stands in every prompt of a skill shows no contrast there.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from evolvedirector.evaluation.intervals import wilson_interval
from evolvedirector.records import JudgeAccuracy, Tally

LEVEL = 0.05
"""Chance that any word is named where none makes a difference."""
LEAST_FAMILIES = 3
"""Families in which a word must have failed: children resemble their parent, so one family proves nothing of a word."""
_CLAUSES = re.compile(r"[^\w\s'’-]+|\n")
_WORDS = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class SeenPrompt:
    """One prompt, and what the judge said of its first image.

    Args:
        text: The prompt.
        skill: Its skill.
        failed: Whether the image lacks the prompt.
        family: Names the first ancestor, by which children are told from news.
    """

    text: str
    skill: str
    failed: bool
    family: str


@dataclass(frozen=True, slots=True)
class Contrast:
    """How often prompts fail with a word, and without it in the same skills.

    Args:
        share: Failed share of looks with the word, skills weighted as below.
        without: The same without it.
        excess: The difference of the two.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    share: float
    without: float
    excess: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class WordFinding:
    """What was found out about one word or pair of words.

    Args:
        word: As it is written in prompts, in lower case.
        same: Other words and pairs that stood in exactly the same prompts: they cannot be told from it.
        tally: Prompts with it, and how many failed.
        contrast: Against prompts of the same skills without it, not corrected for the judge. None: no skill has both.
        p_value: Chance of so many failures with it if it made no difference; given the words named before it.
        p_adjusted: The same for all words that could show one at this size, looked at together.
        named: Whether it is among what the student cannot draw.
    """

    word: str
    same: tuple[str, ...]
    tally: Tally
    contrast: Contrast | None
    p_value: float
    p_adjusted: float
    named: bool


@dataclass(frozen=True, slots=True)
class _Term:
    word: str
    same: tuple[str, ...]
    rows: tuple[int, ...]


Table = tuple[int, int, int, int]
"""Of one stratum: prompts, failed ones, prompts with the word, failed ones among these."""


@lru_cache(maxsize=65536)
def terms_of(text: str) -> tuple[str, ...]:
    """List the words of a text and the pairs of neighbours, each once, in order; a comma or full stop parts a pair.

    Args:
        text: A prompt.
    """
    found: dict[str, None] = {}
    for clause in _CLAUSES.split(unicodedata.normalize("NFKC", text).casefold()):
        words = _WORDS.findall(clause)
        found |= dict.fromkeys(words)
        found |= dict.fromkeys(" ".join(pair) for pair in pairwise(words))
    return tuple(found)


def word_findings(seen: Sequence[SeenPrompt], level: float = LEVEL) -> list[WordFinding]:
    """Rank the words of prompts by the evidence that the student fails because of them; name those beyond chance.

    Words are named one after the other. Each step tests every word by `upper_tail` inside strata that have one skill
    and the same named words, so that neither a hard skill nor a word named before is taken for the word; the one with
    the smallest p is named while k p <= level, with Tarone's k (`comparisons`). A pair is named only where it adds as
    much to its own words, and any word only where it failed in `LEAST_FAMILIES` families.

    Args:
        seen: Prompts with an answer that can be read.
        level: Chance of naming a word where none makes a difference, 0 to 1.

    Returns:
        Findings, the named ones first in the order of naming, then by p.
    """
    terms = _terms(seen)
    by_word = {word: term for term in terms for word in (term.word, *term.same)}
    named: list[tuple[_Term, float, float]] = []
    while True:
        taken = {term.word for term, *_ in named}
        strata = _strata(seen, [term for term, *_ in named])
        tested = {term.word: _tested(seen, strata, term) for term in terms if term.word not in taken}
        tails = {word: tail for word, (tail, _) in tested.items()}
        times = comparisons([least for _, least in tested.values()], level)
        fit = [t for t in terms if t.word in tails and times * tails[t.word] <= level and _in_families(seen, t)]
        if not fit:
            break
        best = min(fit, key=lambda term: (tails[term.word], -len(term.rows), " " in term.word, term.word))
        best = _its_word(seen, best, [by_word[part] for part in best.word.split()], fit, tails, level / times)
        named.append((best, tails[best.word], min(1.0, times * tails[best.word])))
    rest = sorted((t for t in terms if t.word in tails), key=lambda t: (tails[t.word], -len(t.rows), t.word))
    listed = [(t, p, adjusted, True) for t, p, adjusted in named]
    listed += [(t, tails[t.word], min(1.0, times * tails[t.word]), False) for t in rest]
    skills = _strata(seen, [])
    return [_finding(seen, skills, *entry) for entry in listed]


def upper_tail(tables: Sequence[Table]) -> tuple[float, float]:
    """Return how likely so many failures with a word are by chance, and the least value this can have.

    In stratum k with N_k prompts, F_k failed, n_k with the word, the number of failed ones with it is hypergeometric
    where the word makes no difference; their sum over strata has the convolution of these distributions (Gart 1970,
    Biometrika 57, p. 471: the exact form of the test of Mantel and Haenszel 1959). The least value is the chance of the
    largest sum: a word that stood in two prompts can never show much.

    Args:
        tables: One for each stratum.
    """
    chances, observed = [1.0], 0
    for prompts, failed, with_word, both in tables:
        least, own = _hypergeometric(prompts, failed, with_word)
        observed += both - least
        joint = [0.0] * (len(chances) + len(own) - 1)
        for place, chance in enumerate(chances):
            for step, other in enumerate(own):
                joint[place + step] += chance * other
        chances = joint
    return min(1.0, math.fsum(chances[observed:])), chances[-1]


def comparisons(least: Sequence[float], level: float) -> int:
    """Return by how much a p value is multiplied where many words are looked at: Tarone's k.

    k is the least number for which at most k words can reach level / k at all (Tarone 1990, Biometrics 46, p. 515):
    a word that is too rare to be named costs the others nothing, and the chance that any is named wrongly is at most
    the level.

    Args:
        least: Least p value that each word could have.
        level: 0 to 1.
    """
    return next(k for k in range(1, len(least) + 2) if sum(p <= level / k for p in least) <= k)


def contrast_of(tables: Sequence[Table], z: float = 1.96) -> Contrast | None:
    """Compare the failed share with a word and without it, skill by skill; None where no skill has both.

    With weights w_k = n_k m_k / N_k of n_k prompts with and m_k without the word (Mantel and Haenszel 1959), share =
    sum(w_k a_k / n_k) / sum(w_k), likewise without it. Each has Wilson's interval [l, u] at n_eff = sum(w_k)^2 /
    sum(w_k^2 / n_k), and the difference d = p - q (Yan and Su 2010, Stat. Biopharm. Res. 2, p. 329; Newcombe 1998)

        d - sqrt((p - l_p)^2 + (u_q - q)^2)  to  d + sqrt((u_p - p)^2 + (q - l_q)^2)

    Args:
        tables: One for each skill.
        z: Standard deviations on each side.
    """
    both = [(N, F, n, a) for N, F, n, a in tables if 0 < n < N]
    if not both:
        return None
    weights = [n * (N - n) / N for N, _, n, _ in both]
    total = sum(weights)
    share = sum(w * a / n for w, (_, _, n, a) in zip(weights, both, strict=True)) / total
    without = sum(w * (F - a) / (N - n) for w, (N, F, n, a) in zip(weights, both, strict=True)) / total
    size = total**2 / sum(w * w / n for w, (_, _, n, _) in zip(weights, both, strict=True))
    others = total**2 / sum(w * w / (N - n) for w, (N, _, n, _) in zip(weights, both, strict=True))
    low_p, high_p = wilson_interval(share * size, size, z) or (0.0, 1.0)
    low_q, high_q = wilson_interval(without * others, others, z) or (0.0, 1.0)
    excess = share - without
    below, above = math.hypot(share - low_p, high_q - without), math.hypot(high_p - share, without - low_q)
    return Contrast(share, without, excess, max(-1.0, excess - below), min(1.0, excess + above))


def corrected_contrast(contrast: Contrast, judge: JudgeAccuracy) -> Contrast | None:
    """Return the contrast of the truth; None where the judge's looks say nothing.

    Both shares are corrected by Rogan and Gladen and clipped; in the difference the specificity cancels: d / J, with
    Youden's J = sensitivity + specificity - 1. That J was measured on few images widens no interval here.

    Args:
        contrast: Of looks.
        judge: How far it is right.
    """
    if not judge.says_something:
        return None
    wrong_alarms, youden = 1 - judge.rates[1], judge.youden
    share, without = (min(1.0, max(0.0, (p - wrong_alarms) / youden)) for p in (contrast.share, contrast.without))
    excess, low, high = (min(1.0, max(-1.0, d / youden)) for d in (contrast.excess, contrast.low, contrast.high))
    return Contrast(share, without, excess, low, high)


@lru_cache(maxsize=65536)
def _hypergeometric(prompts: int, failed: int, with_word: int) -> tuple[int, tuple[float, ...]]:
    """Return the least number of failed prompts with a word, and the chance of each number from it on."""
    least, most = max(0, failed + with_word - prompts), min(failed, with_word)
    total = _log_choose(prompts, with_word)
    chances = tuple(
        math.exp(_log_choose(failed, k) + _log_choose(prompts - failed, with_word - k) - total)
        for k in range(least, most + 1)
    )
    return least, chances


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _terms(seen: Sequence[SeenPrompt]) -> list[_Term]:
    """Find the words and pairs that stood in two prompts or more; those of exactly the same prompts are one."""
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(seen):
        for term in terms_of(prompt.text):
            rows.setdefault(term, []).append(row)
    alike: dict[tuple[int, ...], list[str]] = {}
    for term, where in rows.items():
        if len(where) > 1:
            alike.setdefault(tuple(where), []).append(term)
    found = []
    for together, names in alike.items():
        name = _name_of(names)
        found.append(_Term(name, tuple(other for other in names if other != name), together))
    return found


def _name_of(names: Sequence[str]) -> str:
    """Choose what words that cannot be told apart are called: `left of`, not `left`; `above`, not `above a`."""
    whole = [name for name in names if " " in name and all(part in names for part in name.split())]
    single = [name for name in names if " " not in name]
    return next(iter([*whole, *single, *names]))


@dataclass(frozen=True, slots=True)
class _Strata:
    """Prompts by stratum: which one each is in, how many it has, how many of them failed."""

    of_row: list[tuple[str, ...]]
    prompts: Mapping[tuple[str, ...], int]
    failed: Mapping[tuple[str, ...], int]


def _strata(seen: Sequence[SeenPrompt], named: Sequence[_Term]) -> _Strata:
    """Put each prompt into the stratum of its skill and the named words in it."""
    holds: list[list[str]] = [[prompt.skill] for prompt in seen]
    for term in named:
        for row in term.rows:
            holds[row].append(term.word)
    names = [tuple(held) for held in holds]
    failed = Counter(name for name, prompt in zip(names, seen, strict=True) if prompt.failed)
    return _Strata(names, Counter(names), failed)


def _tables(seen: Sequence[SeenPrompt], strata: _Strata, term: _Term) -> list[Table]:
    own = Counter(strata.of_row[row] for row in term.rows)
    both = Counter(strata.of_row[row] for row in term.rows if seen[row].failed)
    return [(strata.prompts[name], strata.failed[name], number, both[name]) for name, number in own.items()]


def _tested(seen: Sequence[SeenPrompt], strata: _Strata, term: _Term) -> tuple[float, float]:
    return upper_tail([table for table in _tables(seen, strata, term) if 0 < table[1] < table[0] > table[2]])


def _in_families(seen: Sequence[SeenPrompt], term: _Term) -> bool:
    return len({seen[row].family for row in term.rows if seen[row].failed}) >= LEAST_FAMILIES


def _its_word(
    seen: Sequence[SeenPrompt],
    best: _Term,
    parts: Sequence[_Term],
    fit: Sequence[_Term],
    tails: Mapping[str, float],
    level: float,
) -> _Term:
    """Return one of a pair's own words where the pair adds nothing to it: `above a` fails because of `above`."""
    if len(parts) < 2:
        return best
    words = [t for t in parts if t in fit and t != best and _tested(seen, _strata(seen, [t]), best)[0] > level]
    return min(words, key=lambda term: (tails[term.word], term.word), default=best)


def _finding(
    seen: Sequence[SeenPrompt], skills: _Strata, term: _Term, p: float, adjusted: float, named: bool
) -> WordFinding:
    tally = Tally(len(term.rows), sum(seen[row].failed for row in term.rows))
    return WordFinding(term.word, term.same, tally, contrast_of(_tables(seen, skills, term)), p, adjusted, named)
