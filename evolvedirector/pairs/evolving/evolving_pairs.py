"""Rounds over subject pairs: what does the student fail to draw of subjects it never saw, and what is built of that?"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from evolvedirector.errors import RunError, UserError
from evolvedirector.evolution.opening import opened
from evolvedirector.evolution.round_parts import Round
from evolvedirector.execution.executor import Tenants
from evolvedirector.pairs.builder import SubjectPairBuilder
from evolvedirector.pairs.evolving.cells import Cell, CellRate, Seen
from evolvedirector.pairs.evolving.looking import Sighting, cells_of, looked_at
from evolvedirector.pairs.evolving.pair_policy import FailingPairs, PairPolicy
from evolvedirector.pairs.evolving.plan import looks_of_round, parted, wishes_of_round
from evolvedirector.pairs.pair_book import PairBook
from evolvedirector.pairs.pair_records import REFERENCE, Subject
from evolvedirector.pairs.stage_run import StageRefusesAll, StageRun
from evolvedirector.pairs.stages import FilterStage, MaskStage
from evolvedirector.pairs.thresholds import Thresholds, check_thresholds
from evolvedirector.pairs.wishes import MadePairs, PairWish
from evolvedirector.records import RevisionChange, Tally, digest, seed_of
from evolvedirector.records.part import Part

MOST_CELLS_TOLD = 40
"""Cells that a round's figures name; of more, those with most failing looks."""


class EvolvingPairs:
    """Look which subjects and kinds of change the student fails, and have the pair builder make those next.

    A share of the subjects is only ever looked at: the student draws them from reference and words, and the judge, by
    default the builder's own filter with its thresholds, says whether it is the subject and whether the change is
    there. Failing shares by category of subjects and kind of change say what is built of the other subjects. A round of
    a dataset without pairs looks at nothing and spreads its pairs evenly. What was asked, drawn and decided is
    remembered, so that a round that was killed goes on; an older checkpoint that repeats a round reuses its pairs.

    This judge chooses what is trained on, so it must never read the figures: an evaluation has readers and subjects of
    its own. Toffee (arXiv 2406.09305) does not evolve its pairs: this is ours.

    Example:
        ```yaml
        - class_path: evolvedirector.callbacks.EvolutionCallback
          init_args:
            first_rounds: 1
            pairs:
              class_path: evolvedirector.pairs.EvolvingPairs
              init_args: {pairs_per_round: 200, looks_per_round: 100, builder: ...}
        ```
    """

    def __init__(
        self,
        builder: SubjectPairBuilder,
        pairs_per_round: int = 200,
        looks_per_round: int = 100,
        look_share: float = 0.2,
        judge: FilterStage | None = None,
        thresholds: dict[str, dict[str, float]] | None = None,
        mask: MaskStage | None = None,
        policy: PairPolicy | None = None,
        most_pairs: int | None = None,
    ) -> None:
        """Choose who builds, who looks, and how much.

        Args:
            builder: Makes the pairs; its budget is that of all rounds, looks included (`calls: {look: 1000}`).
            pairs_per_round: Pairs asked of it in a round, at most.
            looks_per_round: Drawings of the student that are looked at in a round, at most.
            look_share: Share of the subjects' groups that are looked at and never built, above 0 to under 1.
            judge: Who scores what the student drew: a pair filter, or `SubjectJudge`. None: the builder's filter. Never
                the reader of the figures.
            thresholds: Least scores of a drawing by kind of change. None: the builder's, where `judge` is its filter
                too; 0.5 for `identity` and `change` else.
            mask: Who finds the subject in a drawing. None: the builder's.
            policy: Decides which pairs are made next. None: `FailingPairs`.
            most_pairs: Asked of the builder over all rounds. None: no limit but the builder's budget.

        Raises:
            UserError: A number is out of range, or a kind lacks its thresholds.
        """
        for name, value in (("pairs_per_round", pairs_per_round), ("looks_per_round", looks_per_round)):
            if not 1 <= value <= 100_000:
                raise UserError(f"{name} is {value}. Allowed are 1 to 100,000. Write `{name}: 100`, say.")
        if not 0 < look_share < 1:
            raise UserError(
                f"look_share is {look_share}. Allowed are shares above 0 and under 1: subjects that are looked at are "
                "never built. Write `look_share: 0.2`."
            )
        if most_pairs is not None and most_pairs < 0:
            raise UserError(f"most_pairs is {most_pairs}. Allowed are 0 or more. Write `most_pairs: 5000`, or null.")
        self.builder, self.judge = builder, judge or builder.stages["filter"]
        self.mask = mask or builder.stages["mask"]
        halves = {str(kind): {"identity": 0.5, "change": 0.5} for kind in builder.kinds}
        self.thresholds: Thresholds = thresholds or (builder.thresholds if judge is None else halves)
        check_thresholds(self.thresholds, builder.kinds)
        self.policy: PairPolicy = policy or FailingPairs()
        self.pairs_per_round, self.looks_per_round = pairs_per_round, looks_per_round
        self.look_share, self.most_pairs = look_share, most_pairs

    @property
    def fingerprint(self) -> str:
        """Name builder, judge, policy and every number."""
        who = (self.builder.fingerprint, self.builder.source.fingerprint, self.judge.fingerprint, self.mask.fingerprint)
        numbers = (self.pairs_per_round, self.looks_per_round, repr(self.look_share), repr(self.most_pairs))
        of = self.builder
        limits = (repr(self.thresholds), repr(vars(of.budget)), repr(of.most_subjects), " ".join(of.kinds))
        return digest("evolving pairs 1", *who, self.policy.fingerprint, *numbers, *limits)

    def parts(self) -> Mapping[str, Part]:
        """Name the stages, and who looks."""
        stages = {f"pairs.builder.{stage}": part for stage, part in self.builder.stages.items()}
        return {**stages, "pairs.judge": self.judge, "pairs.mask": self.mask}

    def tenants(self) -> Tenants:
        """Say who is asked in which phase."""
        own = self.builder.tenants()
        return {**own, "score": {**own["score"], "pairs.judge": self.judge, "pairs.mask": self.mask}}

    def selectors(self) -> Sequence[Part]:
        """List who chooses what is trained on: who looks at the student, and who filters the pairs."""
        return [self.judge, self.builder.stages["filter"]]

    def summary(self) -> Mapping[str, str]:
        """Say what a round does."""
        limits = {
            name: value for name, value in vars(self.builder.budget).items() if value and name != "per_kept_after"
        }
        in_all = "" if self.most_pairs is None else f", {self.most_pairs:,} in all"
        return {
            "pairs per round": f"at most {self.pairs_per_round:,}{in_all}",
            "looks per round": f"at most {self.looks_per_round:,}, by {type(self.judge).__name__}",
            "subjects looked at": f"{self.look_share:.0%} of the groups, never built",
            "budget of pairs": ", ".join(f"{name} {value}" for name, value in limits.items()) or "no limit",
            "policy": type(self.policy).__name__,
        }

    def hold(self, round: Round) -> str:
        """Hold a round and return the sha of its revision; held again after a kill, it does only what is missing.

        Raises:
            UserError: The student reads no references, or no subject is left to build.
            RunError: No pair was made for a dataset that has none.
        """
        store, ledger, info = round.parts.store, round.parts.ledger, round.info
        done = ledger.rounds.published(info.round_id)
        if done is not None:  # an older checkpoint repeats it
            round.parts.executor.enter("train")
            return done
        self._check_student(round)
        look_at, build_of = parted(self._subjects(), self.look_share, self.builder.seed)
        cells = cells_of(build_of, self.builder.kinds)
        round = opened(round)
        state = store.state(info.revision_sha)
        there = {sample.variant for entry in state.entries.values() for sample in entry.samples}
        with PairBook.for_writing(store.root) as book:
            run = self.builder.run_over(store, book, round.parts.executor, round.watch.check)
            seen = self._look(round, run, look_at) if there else []
            rates = self.policy.rates(cells, [*self._past(round), _seen(seen)])
            chosen = self.policy.choose(rates, self._allowed(round), seed_of("pairs", info.seed, info.round_id))
            made, problem = self._make(run, wishes_of_round(chosen, build_of, info.index, info.seed))
            news = [row for row in made.kept if row.pair_id not in there]
            if not news and not there:
                raise RunError(_nothing_made(made, problem, run))
            if problem:
                warnings.warn(f"Pairs were not made, training goes on: {problem}", stacklevel=2)
            round.figures.pairs.update(_told(rates, chosen, made, problem, run))
            round.watch.check()
            child = info.revision_sha
            if news:
                samples = tuple(self.builder.samples_of(store, news))
                child = store.publish(info.revision_sha, info.round_id, RevisionChange(samples=samples))
            book.mark_published([row.pair_id for row in made.kept])
        ledger.rounds.close(info.round_id, child, round.figures)
        round.parts.executor.enter("train")
        return child

    def _subjects(self) -> Sequence[Subject]:
        return self.builder.source.subjects()[: self.builder.most_subjects]

    def _check_student(self, round: Round) -> None:
        if REFERENCE not in round.parts.student.roles:
            raise UserError(
                "The student reads no reference, so it cannot draw a given subject. Allowed for rounds over pairs is a "
                "module whose `file_roles` name `reference`. Write `model: {class_path: "
                "evolvedirector.lightning_modules.SubjectToImage}`."
            )

    def _look(self, round: Round, run: StageRun, look_at: Sequence[Subject]) -> list[Sighting]:
        seed = seed_of("looks", round.info.seed, round.info.round_id)
        wanted = looks_of_round(look_at, self.builder.kinds, self.looks_per_round, seed)
        asks = self.builder.stages_over(run)
        looks = self.builder.stages_over(run, self.thresholds, look=self.judge, mask=self.mask)
        return looked_at(round, asks, looks, wanted)

    def _past(self, round: Round) -> list[Seen]:
        """Read what earlier rounds of this branch saw, oldest first."""
        ledger = round.parts.ledger
        names = [row.round_id for row in ledger.rounds.finished(round.info.revision_sha)]
        past: dict[str, dict[Cell, Tally]] = {name: {} for name in names}
        for name, kind, category, looked, failed in ledger.looks.screened(names):
            past[name][Cell(category, kind)] = Tally(looked, failed)  # type: ignore[arg-type]
        return list(past.values())

    def _allowed(self, round: Round) -> int:
        if self.most_pairs is None:
            return self.pairs_per_round
        finished = round.parts.ledger.rounds.finished(round.info.revision_sha)
        asked = sum(sum(row.figures.pairs.get("asked", {}).values()) for row in finished)
        return max(0, min(self.pairs_per_round, self.most_pairs - asked))

    def _make(self, run: StageRun, wishes: Sequence[PairWish]) -> tuple[MadePairs, str]:
        """Make pairs; a stage that refuses everything ends the work of the round, and not a training that has pairs."""
        made = MadePairs()
        try:
            self.builder.make(run, wishes, made)
        except StageRefusesAll as error:
            return made, str(error)
        return made, ""


def _seen(sightings: Sequence[Sighting]) -> dict[Cell, Tally]:
    looked: Counter[Cell] = Counter(seen.cell for seen in sightings if seen.reading != "unreadable")
    failed: Counter[Cell] = Counter(seen.cell for seen in sightings if seen.reading == "lacks")
    return {cell: Tally(count, failed[cell]) for cell, count in looked.items()}


def _told(
    rates: Mapping[Cell, CellRate], chosen: Mapping[Cell, int], made: MadePairs, problem: str, run: StageRun
) -> dict[str, Any]:
    """Say what a round found and built, for its figures."""
    asked: Counter[str] = Counter()
    for cell, count in chosen.items():
        asked[cell.kind] += count
    order = sorted(rates, key=lambda cell: (-rates[cell].failed, -rates[cell].high, cell))[:MOST_CELLS_TOLD]
    cells = [
        {
            "category": cell.category,
            "kind": cell.kind,
            "looked": round(rates[cell].looked, 2),
            "failed": round(rates[cell].failed, 2),
            "share": round(rates[cell].share, 3),
            "interval": [round(rates[cell].low, 3), round(rates[cell].high, 3)],
            "asked": chosen.get(cell, 0),
        }
        for cell in order
    ]
    return {
        "asked": dict(asked),
        "kept": dict(Counter(row.kind for row in made.kept)),
        "rejected": dict(Counter(row.cause for row in made.rejected)),
        "open": sum(chosen.values()) - len(made.kept) - len(made.rejected),
        "held back": {limit: count for limit, count in run.held_back.items() if count},
        "failures": {f"{stage}: {reason}": count for (stage, reason), count in run.failures.items()},
        "problem": problem,
        "cells": cells,
    }


def _nothing_made(made: MadePairs, problem: str, run: StageRun) -> str:
    causes = Counter(row.cause for row in made.rejected)
    said = [f"{count} were rejected for '{cause}'" for cause, count in causes.most_common()]
    said += [f"{limit} held back {count} calls" for limit, count in run.held_back.items()]
    said += [f"{count} x {stage}: {reason}" for (stage, reason), count in run.failures.items()]
    why = problem or f"{'; '.join(said) or 'none was asked for'}."
    return (
        f"No pair was made, and there is none to train on: {why} Allowed is a first round that keeps some. Look at "
        "them with `evolvedirector pairs show`, then change the thresholds, the stage or the budget."
    )
