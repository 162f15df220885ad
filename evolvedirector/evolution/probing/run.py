"""A probe with a real writer, student and judge: asked through the executor, remembered in a ledger of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from evolvedirector.errors import RunError
from evolvedirector.evaluation.words import WordFinding, word_findings
from evolvedirector.evolution import steps
from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.candidates import NOT_REACHED
from evolvedirector.evolution.opening import checked
from evolvedirector.evolution.probing.plan import Ended, ProbeSettings, next_step, probe
from evolvedirector.evolution.probing.sightings import Answer, Looked, Sightings, failing_chances
from evolvedirector.evolution.round_parts import Round
from evolvedirector.records import DatasetState, JudgeAccuracy, Prompt, WriteRequest, digest
from evolvedirector.records.part import price_of
from evolvedirector.store.ledger import Spend
from evolvedirector.store.ledger.faults import told_faults

LIKELY = 0.5
"""How likely a prompt must fail, after all looks at it, to be called failing."""
_LEAST_UNREAD = 8
"""Looks of which not one can be read before a judge counts as silent."""


_SPENT = "looks spent"


class ProbeCutShort(RunError):
    """The writer or the judge cannot be reached; what was seen is kept, and the same command goes on."""


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """What a probe found out.

    Args:
        sightings: Every prompt with its images and answers.
        findings: The words, named ones first.
        chances: How likely each prompt is one that the student fails, by its id.
        judge: How far the judge is right.
        ended: Why it looked no further.
        problem: What kept it from going on; empty where nothing did.
        looks: Looks asked, those that checked the judge included.
        health_looks: The looks that checked the judge.
        writer_calls: Replies asked of the writer.
        cost_usd: What looks and replies cost, as far as their prices are known.
    """

    sightings: Sightings
    findings: list[WordFinding]
    chances: dict[str, float]
    judge: JudgeAccuracy
    ended: Ended
    problem: str
    looks: int
    health_looks: int
    writer_calls: int
    cost_usd: float

    def failing(self) -> list[Looked]:
        """List the prompts that most likely fail, the surest first; each was seen to fail once at least."""
        found = [one for key, one in self.sightings.prompts.items() if one.tally.failed and self.chances[key] >= LIKELY]
        return sorted(found, key=lambda one: (-self.chances[one.prompt.id], -one.tally.failed, one.prompt.id))


def run_probe(
    round: Round,
    settings: ProbeSettings,
    opening: Sequence[Prompt],
    known_ids: Collection[str],
    tell: Callable[[str], None],
) -> ProbeOutcome:
    """Measure the judge, then look until one of the ends is reached. Repeating it asks nothing twice.

    Args:
        round: Its ledger is the probe's own; its name names student, judge and writer.
        settings: Of the probe.
        opening: Prompts that a judge without a gold set is shown grey images for. Empty: the first that are written.
        known_ids: Prompts that the student was trained on: they would measure its memory.
        tell: Is told in a line how far it is.

    Raises:
        RunError: The judge cannot be read or trusted, or the writer wrote nothing at all.
    """
    asks = _RoundAsks(round, settings, known_ids)
    judge, health_looks = _measured(asks, settings, opening)
    sightings = Sightings()

    def goes_on(findings: Sequence[WordFinding]) -> bool:
        looks = health_looks + sum(len(one.failed) for one in sightings.prompts.values())
        tell(_line(sightings, findings, looks, settings))
        return True

    ended: Ended = "stopped"
    problem = ""
    try:
        ended = probe(asks, settings, judge, sightings, goes_on)
    except ProbeCutShort as error:
        problem = str(error)
    if not sightings.prompts and not problem and ended == "nothing new":
        problem = "The writer wrote nothing that could be drawn."
    findings = word_findings(sightings.seen())
    spent, calls = asks.spent(), asks.writer_calls()
    return ProbeOutcome(
        sightings=sightings,
        findings=findings,
        chances=failing_chances(sightings, findings, judge, cautious=True),
        judge=judge,
        ended=ended,
        problem=problem,
        looks=spent.judge_calls,
        health_looks=health_looks,
        writer_calls=calls,
        cost_usd=spent.cost_usd + calls * (asks.reply_usd or 0.0),
    )


def _measured(asks: _RoundAsks, settings: ProbeSettings, opening: Sequence[Prompt]) -> tuple[JudgeAccuracy, int]:
    """Measure the judge once in the life of a probe; return how far it is right, and the looks that took."""
    round = asks.within_budget()
    book, info = round.parts.ledger.rounds, round.info
    row = book.get(info.round_id)
    if row is None or row.child_sha is None:
        if not opening and round.parts.judge_health is not None:
            first = next_step(Sightings(), [], settings, JudgeAccuracy(), 0)
            opening = asks.write(first.write, ()) or []
        round, problem, _ = checked(asks.within_budget(), DatasetState("", {}), opening[:_LEAST_UNREAD])
        if problem is not None:
            faults = [fault for fault in round.parts.ledger.faults.of(info.round_id) if fault.part == "judge"]
            said = f" It was said: {told_faults(faults)}." if faults else ""
            raise RunError(
                f"Nothing is looked at: {problem}{said} A probe with such a judge would say more of the judge than of "
                "the student. Mend the judge and give the same command again, or write `judge_health: false` to trust "
                "it."
            )
        round.figures.judge[_SPENT] = float(asks.spent().judge_calls)  # gold that an earlier probe asked is remembered
        book.open(info.round_id, info.index, info.revision_sha, info.global_step)
        book.close(info.round_id, info.revision_sha, round.figures)
        row = book.get(info.round_id)
        assert row is not None, "it was written just now"
    return row.figures.judge_accuracy, int(row.figures.judge[_SPENT])


class _RoundAsks:
    """Ask through the steps of a round, within the budget of this probe, whatever earlier ones spent."""

    def __init__(self, round: Round, settings: ProbeSettings, known_ids: Collection[str]) -> None:
        self._round = round
        self._settings = settings
        self._known_ids = set(known_ids)
        self._before = _without(round.parts.ledger.spend(), round.parts.ledger.spend(round.info.round_id))
        self._writer = round.parts.writer.fingerprint
        self.reply_usd = price_of(round.parts.writer)

    def spent(self) -> Spend:
        """Return what this probe spent on looks, earlier tries of it included."""
        return self._round.parts.ledger.spend(self._round.info.round_id)

    def writer_calls(self) -> int:
        """Count the replies of the writer to this probe."""
        return self._round.parts.ledger.prompts.write_calls(self._round.info.round_id)

    def within_budget(self) -> Round:
        """Return the round with what it may spend now: the writer's replies are paid from the same money."""
        settings, before = self._settings, self._before
        cost = settings.cost_usd
        if cost is not None:
            cost = max(0.0, before.cost_usd + cost - self.writer_calls() * (self.reply_usd or 0.0))
        budget = Budget(
            budget_judge_calls=before.judge_calls + settings.looks,
            budget_cost_usd=cost,
            price_per_look_usd=self._round.parts.budget.price_per_look_usd,
        )
        return replace(self._round, parts=replace(self._round.parts, budget=budget))

    def write(
        self, requests: Sequence[tuple[WriteRequest, Prompt | None]], known: Collection[str]
    ) -> list[Prompt] | None:
        # another writer gives other texts to the same request
        named = [
            (replace(request, request_id=digest(request.request_id, self._writer)), parent)
            for request, parent in requests
        ]
        book = self._round.parts.ledger.prompts
        new = len(named) - len(book.writes([request.request_id for request, _ in named]))
        left = self.within_budget().allowance().cost_usd
        if new and self.reply_usd and left is not None and new * self.reply_usd > left:
            return None
        refused = self._round.figures.refused
        before = refused[NOT_REACHED]
        prompts = steps.write(self._round, named, self._known_ids | set(known))
        if refused[NOT_REACHED] > before:
            raise ProbeCutShort(_cut_short("The writer", self._faults("writer")))
        return prompts

    def look(self, drawings: Sequence[tuple[Prompt, int]]) -> list[Answer | None]:
        round = self.within_budget()
        found: dict[str, Answer] = {}
        for number in sorted({number for _, number in drawings}):
            prompts = [prompt for prompt, own in drawings if own == number]
            images = steps.render(round, prompts, number)
            evidence = steps.check(round, [(p, images[p.id]) for p in prompts], "screen" if number == 0 else "probe")
            for item in evidence:
                failed = None if item.reading == "unreadable" else item.reading == "lacks"
                found[item.prompt_id] = Answer(images[item.prompt_id], failed)
        if len(found) >= _LEAST_UNREAD and all(answer.failed is None for answer in found.values()):
            raise ProbeCutShort(_cut_short("The judge", self._faults("judge")))
        return [found.get(prompt.id) for prompt, _ in drawings]

    def _faults(self, part: str) -> str:
        faults = self._round.parts.ledger.faults.of(self._round.info.round_id)
        return told_faults([fault for fault in faults if fault.part == part])


def _cut_short(who: str, said: str) -> str:
    return (
        f"{who} gives no answer that can be used{f' ({said})' if said else ''}. Everything seen so far is kept. "
        "Mend it and give the same command again: it goes on from here."
    )


def _without(all_of_it: Spend, part: Spend) -> Spend:
    return Spend(
        all_of_it.teacher_calls - part.teacher_calls,
        all_of_it.judge_calls - part.judge_calls,
        all_of_it.lost_calls - part.lost_calls,
        all_of_it.cost_usd - part.cost_usd,
    )


def _line(sightings: Sightings, findings: Sequence[WordFinding], looks: int, settings: ProbeSettings) -> str:
    """Say in one line how far a probe is."""
    tallies = sightings.skills().values()
    failed, looked = sum(tally.failed for tally in tallies), sum(tally.looked for tally in tallies)
    named = ", ".join(repr(finding.word) for finding in findings if finding.named)
    share = f"{failed} of {looked} new prompts failed" if looked else "nothing could be read"
    return f"{looks} of {settings.looks} looks: {share}, {f'named {named}' if named else 'no word named'}"
