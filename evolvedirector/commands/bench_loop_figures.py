"""What `evolvedirector bench` measures of the whole loop, as JSON and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from evolvedirector.execution.metered import Asked
from evolvedirector.planning.loop_time import LoopTime
from evolvedirector.planning.memory import gib
from evolvedirector.planning.unasked import AskingCost
from evolvedirector.report.loop_money import LoopMoney, Spent

Rows = dict[str, str]
PHASE_OF = {"write": "writing", "judge": "judging", "teach": "teaching", "score": "scoring", "embed": "embedding"}
"""What a phase of a round is called in reports; the student's own are training and drawing."""
ORDER = ("training", "drawing", *PHASE_OF.values())
"""Of phases in tables."""


def answer_of(place: str) -> str:
    """Say what a part answers with.

    Args:
        place: Where it is written.
    """
    kinds = {"judge": "look", "writer": "prompt", "rewards": "score", "embedder": "embedding"}
    return kinds.get(place.partition(".")[0], "image")


def one(what: str) -> str:
    """Put the article before a word.

    Args:
        what: A part answers with.
    """
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"


def rate_told(place: str, requests: float, answers: float, seconds: float, more: str = "") -> str:
    """Say in words how fast a part answered.

    Args:
        place: Where it is written.
        requests: Handed to it.
        answers: Images, looks, prompts.
        seconds: In which it worked.
        more: Said in the brackets.
    """
    what = answer_of(place)
    of = f" of {requests:,} asked" if what == "image" and requests > answers else ""
    per_s = answers / seconds if seconds else 0.0
    return f"{per_s:,.2f} {what}s/s ({answers:,}{of} in {seconds_told(seconds)}{more})"


@dataclass(frozen=True, slots=True)
class PartRate:
    """How fast one part answered.

    Args:
        place: Where it is written: `judge`, `writer`, `teachers.NAME`.
        cost: What it takes to ask it.
        asked: The calls of it, in order; none where it was not measured.
        where: It works elsewhere than beside the student: on the cluster, or behind an address. Empty: here.
        needs_consent: It may cost money, and nobody has said that it may be asked.
    """

    place: str
    cost: AskingCost
    asked: Sequence[Asked] = ()
    where: str = ""
    needs_consent: bool = False

    @property
    def answers(self) -> int:
        """Images, looks, prompts."""
        return sum(asked.answers for asked in self.asked)

    @property
    def seconds(self) -> float:
        """In which it worked, the recording of its answers included."""
        return sum(asked.seconds for asked in self.asked)

    @property
    def per_s(self) -> float | None:
        """Answers per second; None where nothing was asked."""
        return self.answers / self.seconds if self.answers and self.seconds else None

    def as_json(self) -> dict[str, Any]:
        """Return every figure with its unit in its name."""
        return {
            "per_s": self.per_s,
            "what": f"{answer_of(self.place)}s",
            "answers": self.answers,
            "requests": sum(asked.requests for asked in self.asked),
            "seconds": self.seconds,
            "calls": len(self.asked),
            "first_answer_s": self.asked[0].first_s if self.asked else None,
            "price_usd": self.cost.price_usd,
            "is_free": self.cost.is_free,
            "is_play_money": self.cost.is_play,
            "works": self.where or "here",
        }

    def told(self) -> str:
        """Say it in words."""
        what = answer_of(self.place)
        if self.per_s is None:
            if not self.needs_consent:
                return f"not asked; {self.cost.told(one(what))}"
            return f"not measured: {self.cost.told(one(what))}; ask with --calls N, which asks it N times at most"
        requests = sum(asked.requests for asked in self.asked)
        where = f", {self.where}" if self.where else ""
        first = f", the first after {seconds_told(self.asked[0].first_s or 0.0)}"
        return (
            f"{rate_told(self.place, requests, self.answers, self.seconds, first)}{where}; {self.cost.told(one(what))}"
        )


def bought_told(parts: Sequence[PartRate]) -> str:
    """Say in words what a measurement bought.

    Args:
        parts: Of the loop.
    """
    paid = [part for part in parts if not part.cost.is_free]
    bought, asked = sum(part.answers for part in paid), sum(call.requests for part in paid for call in part.asked)
    if bought:
        return f"{bought:,} answers of paid parts were bought"
    if asked:
        return f"{asked:,} requests went to paid parts and brought no answer, which may cost money all the same"
    return "Nothing was bought"


def not_in_books(parts: Sequence[PartRate]) -> list[str]:
    """Say whose money is not among that of an accepted sample: a ledger holds what teachers and the judge take.

    Args:
        parts: Of the loop.
    """
    others = [part.place for part in parts if not part.place.startswith("teachers.") and part.place != "judge"]
    paid = [part.place for part in parts if part.place in others and part.asked and not part.cost.is_free]
    return [f"What {', '.join(paid)} took is in no ledger: it comes on top of an accepted sample."] if paid else []


@dataclass(frozen=True, slots=True)
class LoopFigures:
    """What is known of a loop.

    Args:
        parts: Of its rounds, in order.
        mode: `between_epochs` or `background`. Empty: no round was timed.
        time: Of the round. None: none was held.
        phases_s: Seconds of the parts of that round, by what their phase is called.
        epoch_told: What an epoch is, in words.
        money: From the ledger. None: nothing was asked of teachers.
        memory_kind: What `peak_bytes` counts, in words.
        peak_bytes: By phase.
        notes: What was left out or cut short, and why.
        problem: Why no round was held, or what ended it. Empty: nothing.
        failed: Whether something went wrong, other than that the config or its prices want no round.
    """

    parts: Sequence[PartRate] = ()
    mode: str = ""
    time: LoopTime | None = None
    phases_s: dict[str, float] = field(default_factory=dict)
    epoch_told: str = ""
    money: LoopMoney | None = None
    memory_kind: str = ""
    peak_bytes: dict[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    problem: str = ""
    failed: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return every figure with its unit in its name."""
        time = self.time
        return {
            "mode": self.mode or None,
            "parts": {part.place: part.as_json() for part in self.parts},
            "round": None
            if time is None
            else {
                "seconds": time.round_s,
                "at_ends_of_epochs_s": list(time.boundary_s),
                "drawing_s": time.drawing_s,
                "phases_s": self.phases_s,
                "epochs_beside": time.epochs_beside,
                "idle_s": time.idle_s,
                "idle_share": time.idle_share_of_round,
            },
            "epoch": None
            if time is None or time.every_n_epochs is None
            else {
                "training_s": time.epoch_s,
                "with_rounds_s": time.epoch_with_rounds_s,
                "every_n_epochs": time.every_n_epochs,
                "idle_share": time.idle_share_of_epoch,
            },
            "money": None if self.money is None else money_json(self.money),
            "peak_bytes": {"kind": self.memory_kind, **self.peak_bytes} if self.peak_bytes else None,
            "notes": list(self.notes),
            "problem": self.problem or None,
        }

    def rows(self) -> dict[str, Rows]:
        """Put the figures into words, by table."""
        tables: dict[str, Rows] = {}
        if self.parts:
            tables["parts of a round, as the loop gets their answers"] = {
                part.place: part.told() for part in self.parts
            }
        if self.time is not None:
            tables[f"the student's time, mode {self.mode}"] = self._time_rows(self.time)
        if self.peak_bytes:
            peaks = sorted(self.peak_bytes.items(), key=lambda item: ORDER.index(item[0]))
            tables["most memory by phase"] = {name: gib(size) for name, size in peaks} | {"of": self.memory_kind}
        if self.money is not None:
            tables["an accepted sample"] = money_rows(self.money, self._play())
        notes = [*self.notes, *([f"No round was timed: {self.problem}"] if self.problem else [])]
        if notes:
            tables["notes"] = {str(number): note for number, note in enumerate(notes, start=1)}
        return tables

    def _play(self) -> str:
        """Say behind amounts how far nobody pays them."""
        if not any(part.cost.is_play for part in self.parts):
            return ""
        return ", play money included" if any(not part.cost.is_free for part in self.parts) else " of play money"

    def _time_rows(self, time: LoopTime) -> Rows:
        beside = f", {time.epochs_beside} epoch{'s' * (time.epochs_beside > 1)} beside it included"
        beside = beside if time.epochs_beside else ""
        rows = {
            "idle in a round": f"{time.idle_share_of_round:.1%}: {seconds_told(time.idle_s)} of "
            f"{seconds_told(time.round_s)}{beside}",
        }
        if (share := time.idle_share_of_epoch) is not None:
            rows["idle in an epoch"] = (
                f"{share:.1%} of {seconds_told(time.epoch_with_rounds_s or 0.0)}: {self.epoch_told}, and a round every "
                f"{_epochs(time.every_n_epochs)}"
            )
        took = {**self.phases_s, "drawing": time.drawing_s}
        rest = time.round_s - time.epochs_beside * time.epoch_s - sum(took.values())
        said = [f"{name} {seconds_told(seconds)}" for name, seconds in took.items()]
        if not time.epochs_beside:
            said.append(f"books and all else {seconds_told(max(0.0, rest))}")
        rows["a round takes"] = ", ".join(said)
        return rows


def money_json(money: LoopMoney) -> dict[str, Any]:
    """Return what samples took, with units in the names.

    Args:
        money: From the ledger.
    """

    def of(spent: Spent | None) -> dict[str, Any] | None:
        return None if spent is None else {**asdict(spent), "per_accepted_sample": spent.each()}

    return {
        "whole": of(money.whole),
        "rounds": of(money.rounds),
        "rounds_skipped": money.skipped,
        "price_of_image_usd": money.price_of_image_usd,
    }


def money_rows(money: LoopMoney, play: str = "") -> Rows:
    """Say what samples took.

    Args:
        money: From the ledger.
        play: Said behind amounts that nobody pays.
    """
    rows = {"seeds and rounds": _each(money.whole, play)}
    if money.rounds is not None:
        rows["rounds alone"] = _each(money.rounds, play)
    if money.skipped:
        rows["skipped"] = f"{money.skipped:,} rounds: the judge was below its floors"
    if money.price_of_image_usd:
        rows["price of an image"] = ", ".join(f"{name} {usd:.4g} USD" for name, usd in money.price_of_image_usd.items())
    return rows


def _each(spent: Spent, play: str) -> str:
    each = spent.each()
    if each is None:
        return f"none was accepted of {spent.images:,} images; {spent.looks:,} looks, {spent.cost_usd:.4g} USD{play}"
    return (
        f"{each['cost_usd']:.4g} USD{play}, {each['images']:.2f} images asked for, {each['looks']:.1f} looks "
        f"({spent.accepted:,} accepted of {spent.images:,})"
    )


def seconds_told(seconds: float) -> str:
    """Write a time, short ones in milliseconds.

    Args:
        seconds: The time.
    """
    return f"{seconds * 1000:,.0f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def _epochs(number: int | None) -> str:
    return "epoch" if number == 1 else f"{number} epochs"
