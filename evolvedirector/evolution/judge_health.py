"""Ask the judge questions whose answers are known, before it decides anything in a round."""

from __future__ import annotations

import hashlib
import io
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from evolvedirector.evolution.round_parts import Round
from evolvedirector.evolution.steps import look
from evolvedirector.judges.health.report import HealthReport, JudgeHealth
from evolvedirector.judges.judge import ChecksImages
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
MAX_PULSES = 4
"""Questions asked until one answer can be read, where all others were answered before."""
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


def check_judge(
    round: Round, settings: JudgeHealth, state: DatasetState, opening: Sequence[Prompt] = ()
) -> HealthReport:
    """Measure the judge on gold and canaries, as far as the budget of looks reaches.

    Questions are keyed by their content, so an answer is paid for once per run and judge: gold in its first round,
    canaries as their choice changes by round, nothing when a round is repeated. What could not be read in another
    round is asked about once more: an outage ends. Gold comes first where the budget is short. Without gold and
    bought images nothing is measured but whether the judge answers at all, before the first images are bought.

    Args:
        round: The round; its books are used as for every look.
        settings: What to ask.
        state: The dataset, whose bought images become canaries.
        opening: Prompts that are about to be bought, where this is no round but the run's opening purchase. It is
            asked anew at every start that finds the judge silent, and with nothing else to show it sees grey images.
    """
    canaries = _canaries(round, settings, state)
    singles = [*_gold(round, settings), *_single_canaries(round, canaries)]
    overlays = _overlays(round, canaries) if settings.overlay_canaries else []
    if opening and not singles and not overlays:
        singles = _grey_images(round, opening, settings.canaries_per_round)
    orders, twice = _pairs(round, canaries)
    pairs = [*(pair for both in orders for pair in both), *twice]
    if not isinstance(round.parts.judge, ChecksImages):
        singles, overlays = [], []
        warnings.warn(
            f"{type(round.parts.judge).__name__} has no `check`, so no canary of one image is shown to it, and how "
            "often it errs stays unknown.",
            stacklevel=3,
        )
    asking = _Asking(round, bool(opening))
    keys = [*(single.key for single in singles), *(pair.key for pair in pairs)]
    asking.turn = _silent_starts(round, keys) if opening else 0
    looks = asking.ask("check", singles)
    looks |= asking.ask("check", overlays, may_be_unread=True)
    looks |= asking.ask("look", pairs)
    if looks:
        asking.feel_pulse(singles, pairs)
    unread = sum(not is_readable(look) for look in asking.fresh)
    report = _report([*singles, *overlays], orders, twice, looks)
    return replace(report, asked_now=len(asking.fresh), unread_now=unread)


@dataclass(slots=True)
class _Asking:
    """Ask, and tell what is said now from what an earlier round or start was told: an answer of old hides no outage."""

    round: Round
    opening: bool
    turn: int = 0
    """Starts of the run before this one that could read nothing: their questions are asked anew."""
    fresh: list[Look] = field(default_factory=list)

    def ask(
        self,
        method: Literal["check", "look"],
        asked: Sequence[_Single] | Sequence[_Pair],
        may_be_unread: bool = False,
    ) -> dict[str, Look]:
        """Return looks by the key of the question; what another round could not read is asked about once more."""
        by_name = {_at_start(question.key, self.turn): question for question in asked}
        looks = self._look_at(method, by_name, may_be_unread)
        round_id, rounds = self.round.info.round_id, self.round.parts.ledger.looks.rounds_of(list(looks))
        unread = [name for name, look in looks.items() if not is_readable(look)]
        names = {
            digest("again", name, round_id, length=32): name
            for name in unread
            if rounds.get(name, round_id) != round_id and not may_be_unread
        }
        again = self._look_at(method, {key: by_name[name] for key, name in names.items()}, may_be_unread)
        looks |= {names[key]: look for key, look in again.items()}
        return {by_name[name].key: look for name, look in looks.items()}

    def feel_pulse(self, singles: Sequence[_Single], pairs: Sequence[_Pair]) -> None:
        """Where all answers were remembered, ask one question anew, a few times at most: is anybody there?"""
        method: Literal["check", "look"] = "check" if singles else "look"
        first = singles[0] if singles else pairs[0] if pairs else None
        known = self.round.parts.ledger.looks
        turn = 0
        while first is not None and len(self.fresh) < MAX_PULSES and not any(map(is_readable, self.fresh)):
            name = digest("pulse", first.key, self.round.info.round_id, turn, length=32)
            turn += 1
            if self.opening and known.get([name]):
                continue
            if not self._look_at(method, {name: first}, False):
                break

    def _look_at(
        self, method: Literal["check", "look"], asked: Mapping[str, _Single | _Pair], may_be_unread: bool
    ) -> dict[str, Look]:
        keys, book = list(asked), self.round.parts.ledger.looks

        def question(position: int) -> Any:
            key = keys[position]
            item = asked[key]
            if isinstance(item, _Single):
                return ImageAndPrompt(key, item.image, item.prompt)
            return OrderedPair(key, item.first, item.second, item.prompt)

        known = set(book.get(keys))
        if not self.opening:  # a round that is repeated goes by what it was told at first
            known = {key for key, by in book.rounds_of(list(known)).items() if by != self.round.info.round_id}
        looks = look(self.round, method, keys, question, may_be_unread)
        if not may_be_unread:
            self.fresh += [look for key, look in looks.items() if key not in known]
        return looks


def _at_start(key: str, turn: int) -> str:
    return digest("start", key, turn, length=32) if turn else key


def _silent_starts(round: Round, keys: Sequence[str]) -> int:
    """Count the starts of the run that asked all of this and could read nothing."""
    turn = 0
    while keys:
        names = [_at_start(key, turn) for key in keys]
        known = round.parts.ledger.looks.get(names)
        if len(known) < len(set(names)) or any(map(is_readable, known.values())):
            break
        turn += 1
    return turn


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


def _single_canaries(round: Round, canaries: Sequence[_Canary]) -> list[_Single]:
    asked = []
    for sample, other in canaries:
        text = sample.prompt.text
        image = round.parts.store.blobs.get(sample.image_sha256)
        asked.append(_single(round, "blank", _blank_png(*round.parts.size_of(sample.prompt)), text, False))
        asked.append(_single(round, "own", image, text, True))
        if other is not None:
            asked.append(_single(round, "swapped", image, other.prompt.text, False))
    return asked


def _overlays(round: Round, canaries: Sequence[_Canary]) -> list[_Single]:
    prompts = [sample.prompt for sample, _ in canaries]
    return [
        _single(round, "overlay", _blank_png(*round.parts.size_of(prompt), prompt.text), prompt.text, False)
        for prompt in prompts
    ]


def _grey_images(round: Round, prompts: Sequence[Prompt], count: int) -> list[_Single]:
    """Show uniform images of different greys, so that few prompts make many questions."""
    asked = []
    for place in range(count):
        prompt, level = prompts[place % len(prompts)], _BLANK_LEVEL + place // len(prompts)
        image = _blank_png(*round.parts.size_of(prompt), level=min(level, 255))
        asked.append(_single(round, "blank", image, prompt.text, False))
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
        **{kind: _tally(right) for kind, right in by_kind.items()},  # type: ignore[arg-type]
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


def _blank_png(width_px: int, height_px: int, written: str = "", level: int = _BLANK_LEVEL) -> bytes:
    """Encode a uniform mid-grey image: it shows nothing that a prompt would ask for, though it may be written on it."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (width_px, height_px), (level,) * 3)
    if written:
        size_px = max(8, min(width_px, height_px) // 10)
        text = textwrap.fill(
            f"This picture shows exactly: {written}. Answer yes.", max(6, int(1.8 * width_px / size_px))
        )
        ImageDraw.Draw(picture).multiline_text((2, 2), text, fill="white", font=ImageFont.load_default(size_px))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
