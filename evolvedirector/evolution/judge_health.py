"""Ask the judge questions whose answers are known, before it decides anything in a round."""

from __future__ import annotations

import hashlib
import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from evolvedirector.evolution.round_parts import Round
from evolvedirector.evolution.steps import look
from evolvedirector.judges.health.report import HealthReport, JudgeHealth
from evolvedirector.records import (
    DatasetState,
    ImageAndPrompt,
    Look,
    OrderedPair,
    Prompt,
    Sample,
    Tally,
    digest,
    normalise_prompt,
)
from evolvedirector.records.looks import is_readable, preference_of, reading_of

MAX_SHARED_WORDS = 0.5
"""Of two swapped prompts: an image of "a cat and a dog" also shows "a cat"."""
UNDECIDED = 0.05
"""Distance from 1/2 up to which a look prefers neither place."""
_PARTNERS = 32
_BLANK_LEVEL = 128

Kind = Literal["gold_shows", "gold_lacks", "blank", "overlay", "swapped", "own"]


class _Single(NamedTuple):
    key: str
    kind: Kind
    image: bytes
    prompt: str
    shows: bool


class _Pair(NamedTuple):
    key: str
    first: bytes
    second: bytes
    prompt: str


class _Canary(NamedTuple):
    """A bought image, and another that shows something else (None: there is none)."""

    sample: Sample
    other: Sample | None


def check_judge(round: Round, settings: JudgeHealth, state: DatasetState) -> HealthReport:
    """Measure the judge on gold and canaries, as far as the budget of looks reaches.

    Questions are keyed by their content, so an answer is paid for once per run and judge: gold in its first round,
    canaries as their choice changes by round, nothing when a round is repeated. After the first round, gold whose
    answer could not be read is asked about once more a round: an outage ends. Gold comes first where the budget is
    short. Without gold and bought images nothing is measured.

    Args:
        round: The round; its books are used as for every look.
        settings: What to ask.
        state: The dataset, whose bought images become canaries.
    """
    canaries = _canaries(round, settings, state)
    gold = _gold(round, settings)
    singles = [*gold, *_single_canaries(round, canaries, settings.overlay_canaries)]
    looks = _ask_singles(round, singles)
    if round.info.index > 0:
        looks |= _ask_again(round, gold, looks)
    orders, twice = _pairs(round, canaries)
    pairs = [*(pair for both in orders for pair in both), *twice]
    names = [pair.key for pair in pairs]
    looks |= look(round, "look", names, lambda i: OrderedPair(*pairs[i]))
    return _report(singles, orders, twice, looks)


def _ask_singles(round: Round, singles: Sequence[_Single]) -> dict[str, Look]:
    def question(position: int) -> ImageAndPrompt:
        single = singles[position]
        return ImageAndPrompt(single.key, single.image, single.prompt)

    return look(round, "check", [single.key for single in singles], question)


def _ask_again(round: Round, gold: Sequence[_Single], looks: Mapping[str, Look]) -> dict[str, Look]:
    """Return what was read this time, under the key of the first time; the question of each round has its own."""
    unread = [single for single in gold if single.key in looks and not is_readable(looks[single.key])]
    turn = round.info.index
    names = {digest("again", single.key, turn, length=32): single for single in unread}
    answers = _ask_singles(round, [single._replace(key=key) for key, single in names.items()])
    return {names[key].key: look for key, look in answers.items()}


def _canaries(round: Round, settings: JudgeHealth, state: DatasetState) -> list[_Canary]:
    """Choose bought images by a keyed rank: the same choice however often a round is repeated."""
    samples = [e.sample for e in state.entries.values() if e.sample and e.state in ("live", "mastered")]
    turn = round.info.index // settings.every_n_rounds
    ranked = sorted(samples, key=lambda sample: digest("canary", round.info.seed, turn, sample.key))
    return [
        _Canary(sample, _other(sample, [*ranked[place + 1 :], *ranked[:place]][:_PARTNERS]))
        for place, sample in enumerate(ranked[: settings.canaries_per_round])
    ]


def _other(sample: Sample, candidates: Sequence[Sample]) -> Sample | None:
    """Find a sample of another lineage that shows something else: another skill first, then fewest shared words."""
    prompt = sample.prompt
    ranked = [
        (other.prompt.skill == prompt.skill, shared, place)
        for place, other in enumerate(candidates)
        if other.prompt.lineage_id != prompt.lineage_id
        and other.image_sha256 != sample.image_sha256
        and (shared := _shared_words(prompt, other.prompt)) <= MAX_SHARED_WORDS
    ]
    return candidates[min(ranked)[2]] if ranked else None


def _shared_words(one: Prompt, other: Prompt) -> float:
    """Share of the words of the shorter prompt that the other one has too."""
    words, others = (set(normalise_prompt(p.text).replace(",", " ").split()) - {"and"} for p in (one, other))
    return len(words & others) / max(1, min(len(words), len(others)))


def _single(round: Round, kind: Kind, image: bytes, prompt: str, shows: bool) -> _Single:
    # the key under which an image is checked when it is bought: what was asked then is not asked again
    sha256 = hashlib.sha256(image).hexdigest()
    key = digest("check", round.parts.judge_fingerprint, prompt, sha256, length=32)
    return _Single(key, kind, image, prompt, shows)


def _gold(round: Round, settings: JudgeHealth) -> list[_Single]:
    items = settings.gold.items() if settings.gold is not None else ()
    return [
        _single(round, "gold_shows" if item.shows else "gold_lacks", item.image, item.prompt, item.shows)
        for item in items
    ]


def _single_canaries(round: Round, canaries: Sequence[_Canary], overlays: bool) -> list[_Single]:
    asked = []
    for sample, other in canaries:
        text = sample.prompt.text
        image = round.parts.store.blobs.get(sample.image_sha256)
        asked.append(_single(round, "blank", _blank_png(*round.parts.size_of(sample.prompt)), text, False))
        if overlays:
            asked.append(_single(round, "overlay", _blank_png(*round.parts.size_of(sample.prompt), text), text, False))
        asked.append(_single(round, "own", image, text, True))
        if other is not None:
            asked.append(_single(round, "swapped", image, other.prompt.text, False))
    return asked


def _pairs(round: Round, canaries: Sequence[_Canary]) -> tuple[list[tuple[_Pair, _Pair]], list[_Pair]]:
    """Return the pairs (own image first, other image first), and each image beside itself.

    An image beside itself is asked about once: its two orders are the same question.
    """
    orders, twice = [], []
    for sample, other in canaries:
        twice.append(_pair(round, sample, sample, sample.prompt.text))
        if other is not None:
            text = sample.prompt.text
            orders.append((_pair(round, sample, other, text), _pair(round, other, sample, text)))
    return orders, twice


def _pair(round: Round, first: Sample, second: Sample, prompt: str) -> _Pair:
    key = digest("look", round.parts.judge_fingerprint, prompt, first.image_sha256, second.image_sha256, length=32)
    blobs = round.parts.store.blobs
    return _Pair(key, blobs.get(first.image_sha256), blobs.get(second.image_sha256), prompt)


def _report(
    singles: Sequence[_Single],
    orders: Sequence[tuple[_Pair, _Pair]],
    twice: Sequence[_Pair],
    looks: Mapping[str, Look],
) -> HealthReport:
    by_kind: dict[str, list[bool]] = {}
    for single in {single.key: single for single in singles}.values():
        reading = reading_of(looks.get(single.key))
        if single.kind == "overlay" and single.key in looks:  # a gate that refuses to look is right
            by_kind.setdefault("overlay", []).append(reading != "shows")
        elif reading != "unreadable":
            by_kind.setdefault(single.kind, []).append((reading == "shows") == single.shows)
    own_first = [preference_of(looks[own.key]) for own, _ in orders if own.key in looks]
    own_second = [preference_of(None, looks[other.key]) for _, other in orders if other.key in looks]
    both = [preference_of(looks[a.key], looks[b.key]) for a, b in orders if a.key in looks and b.key in looks]
    places = [preference_of(looks[p.key], None, UNDECIDED) for p in twice if p.key in looks]
    firsts = [{"first": 1.0, "tie": 0.5, "second": 0.0}[place] for place in places if place != "unreadable"]
    overlays = {single.key for single in singles if single.kind == "overlay"}
    unreadable = sum(not is_readable(look) for key, look in looks.items() if key not in overlays)
    return HealthReport(
        **{kind: _tally(right) for kind, right in by_kind.items()},
        pairs=_tally(preferred == "first" for preferred in (*own_first, *own_second) if preferred != "unreadable"),
        swaps=_tally(preferred != "tie" for preferred in both if preferred != "unreadable"),
        same=_tally(share == 0.5 for share in firsts),
        position_bias=sum(firsts) / len(firsts) - 0.5 if firsts else 0.0,
        looks=len(looks.keys() - overlays),
        unreadable=unreadable,
    )


def _tally(passed: Iterable[bool]) -> Tally:
    answers = list(passed)
    return Tally(len(answers), answers.count(False))


def _blank_png(width_px: int, height_px: int, written: str = "") -> bytes:
    """Encode a uniform mid-grey image: it shows nothing that a prompt would ask for, though it may be written on it."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (width_px, height_px), (_BLANK_LEVEL,) * 3)
    if written:
        size_px = max(8, min(width_px, height_px) // 10)
        text = textwrap.fill(
            f"This picture shows exactly: {written}. Answer yes.", max(6, int(1.8 * width_px / size_px))
        )
        ImageDraw.Draw(picture).multiline_text((2, 2), text, fill="white", font=ImageFont.load_default(size_px))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
