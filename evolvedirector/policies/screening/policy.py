"""The default policy: look before you buy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from evolvedirector.errors import UserError
from evolvedirector.policies.operations import Operation, checked_operations
from evolvedirector.policies.policy import LOOKS_PER_BOUGHT_IMAGE, RunSize
from evolvedirector.policies.screening import lineages
from evolvedirector.policies.screening.candidates import (
    CandidateShares,
    buying_order,
    candidate_requests,
    most_of_a_skill,
    seeded_choice,
)
from evolvedirector.policies.screening.confirming import (
    Weighed,
    candidates_wanted,
    even_calls,
    expansion_share,
    is_in_doubt,
    judge_of,
    looks_in,
    looks_of_round,
    seen_before,
    taken,
    weighed,
)
from evolvedirector.policies.screening.draws import weights_by_loss
from evolvedirector.policies.screening.rates import (
    NOTHING_KNOWN,
    draw_weight,
    exceeds,
    known_skills,
    last_buying_rounds,
    near_empty_skills,
    round_allowance,
    skill_of,
    skill_rates,
    tallies_by,
    tells_apart,
)
from evolvedirector.policies.screening.settings import Confirming, Mastery, Pace, Screening, Weighting
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    Prompt,
    RoundInfo,
    RoundPlan,
    TrainingMix,
    WriteRequest,
    digest,
)
from evolvedirector.records.plain_settings import settings_of


class ScreeningPolicy:
    """Buy images only for prompts that the student was never trained on and fails.

    A verdict on a trained prompt measures memory, so a round writes several candidates for every image it may buy,
    lets the student draw them, and buys those it fails, interleaved over skills by failure rate
    f_s <- 0.5 f_s + 0.5 (failed share + Sp - 1) / (Se + Sp - 1), with the judge's sensitivity Se and specificity Sp.
    Round k of K may spend
    A_k = S + (B - S) min(1, (k + 1) / ceil(d K)) - spent. What the student can do is drawn less often and replayed,
    not deleted. Where the judge errs, a candidate is looked at again, at another drawing, while a further look is worth
    its price, and those are bought that fail most probably (`posterior`). The four operations of EvolveDirector (arXiv
    2410.07133) can each be left out, for ablations.

    Args:
        skills: Skills the candidates are spread over; None: those met so far, and mutations whose skill the writer
            chooses, so that skills absent from the seeds are found.
        pace: When the budget is spent, and how much of a round one skill or lineage may take.
        screening: Which candidates are written, and how many failures make a skill worth buying from.
        weighting: How looks become failure rates, and rates the shares of skills.
        mastery: When a lineage is mastered or taken back, and how often mastered prompts are drawn again.
        without: Operations to leave out. `discrimination`: candidates are bought unscreened, in seeded order, and
            nothing is mastered. `expansion`: no children are written. `deletion`: nothing is mastered or retired.
            `mutation`: every candidate has a parent.
        confirming: How often a candidate is looked at before it is bought, where the judge errs.

    Raises:
        UserError: An empty list of skills, or an unknown operation.
    """

    checks_seeds = True
    """Images of the seeds are checked like all others: an unfaithful one is never trained on."""

    def __init__(
        self,
        skills: list[str] | None = None,
        pace: Pace = Pace(),  # noqa: B008 - frozen
        screening: Screening = Screening(),  # noqa: B008
        weighting: Weighting = Weighting(),  # noqa: B008
        mastery: Mastery = Mastery(),  # noqa: B008
        without: Set[Operation] = frozenset(),
        confirming: Confirming = Confirming(),  # noqa: B008
    ) -> None:
        if skills is not None and not skills:
            raise UserError("skills is []. Allowed: at least one skill, or null. Write `skills: null` to find them.")
        self.skills = skills
        self.pace = settings_of(Pace, pace, "pace")
        self.screening = settings_of(Screening, screening, "screening")
        self.weighting = settings_of(Weighting, weighting, "weighting")
        self.mastery = settings_of(Mastery, mastery, "mastery")
        self.without = checked_operations(without)
        self.confirming = confirming

    def check_budget(self, budget_teacher_calls: int | None) -> None:
        """Refuse a run without a limit on teacher calls: a round's allowance is a part of that limit.

        Args:
            budget_teacher_calls: Teacher calls of the whole run; None is unlimited.

        Raises:
            UserError: There is no limit.
        """
        if budget_teacher_calls is None:
            raise UserError(
                "ScreeningPolicy shares out budget_teacher_calls over the rounds, and it is None. Allowed: a number, 0 "
                "or more. Set `budget_teacher_calls: 1000`, say, or use EvolveDirectorPolicy."
            )

    @property
    def fingerprint(self) -> str:
        """Name the rule and every setting."""
        groups = (self.pace, self.screening, self.weighting, self.mastery, self.confirming)
        by_loss = (self.weighting.loss_power, self.most_losses) if self.most_losses else ()
        return f"screening-2/{digest(repr((self.skills, *groups, self.without, *by_loss)))}"

    @property
    def most_losses(self) -> int:
        """Return on how many samples a round measures the student's loss, at most; 0 where no draw follows it."""
        return self.weighting.most_losses if self.weighting.loss_power > 0 else 0

    def most_looks(self, size: RunSize) -> int | None:
        """Return the most looks of a run.

        A round looks at c A_k candidates or m for each skill, whichever is more, at the probes, and
        `LOOKS_PER_BOUGHT_IMAGE` times at each image bought; A_k is largest where nothing is bought before. While images
        are bought it may look at `most_candidates_per_call` for each call of an even part of the budget; and it takes
        no more further looks than first ones.

        Args:
            size: Of the run.
        """
        if size.rounds is None or size.budget_teacher_calls is None:
            return None
        calls = size.budget_teacher_calls
        looks = LOOKS_PER_BOUGHT_IMAGE * calls
        if "discrimination" in self.without:
            return looks
        screening, pace = self.screening, self.pace
        measured = screening.min_candidates_per_skill * max(1, size.skills, len(self.skills or ()))
        shares = (pace.open_end_share, pace.buying_share, pace.early_share)
        buying = last_buying_rounds(size.rounds, pace.buying_share)
        even = even_calls(calls, 0, buying)
        for index in range(size.rounds):
            allowed = round_allowance(calls, 0, 0, index, size.rounds, *shares)
            most = screening.most_candidates_per_call * min(allowed, even) if index < buying else 0
            first = max(screening.candidates_per_call * allowed, most, measured)
            # minima by skill come on top of what is shared out, and are looked at again like all others
            further = first + measured if self.confirming.most_looks > 1 and allowed else 0
            looks += first + further + self.mastery.mastered_probes + measured
        return looks

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        """Ask for candidates, and for probes where unseen prompts run out or forgetting may show."""
        calls = self._round_calls(state, round)
        return RoundPlan(
            write=tuple(self._requests(state, round, calls)),
            screen="discrimination" not in self.without,
            probe=tuple(self._probes(state, round)) if "discrimination" not in self.without else (),
            check_teacher=True,
            compare_bought=True,
            budget_teacher_calls=calls,
            test_all_share=self.pace.test_all_share,
            most_losses=self.most_losses,
        )

    def look_again(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[str]:
        """Name the candidates at which a further look gains more than its price; none where one look decides."""
        if "discrimination" in self.without or not is_in_doubt(round, self.confirming):
            return []
        calls = self._allowed(state, allowance, round)
        every, further = looks_in(evidence)
        most = sum(item.kind == "screen" for item in evidence) - further
        for limit in (looks_of_round(round, self._buying_rounds(round)), allowance.judge_calls):
            if limit is not None:
                most = min(most, limit - every)
        return self._weighed(state, evidence, round).worth_a_look(calls, self.confirming.most_looks, most)

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        """Buy failing candidates in order of urgency; master, revive and retire lineages."""
        calls, allowed = self._round_calls(state, round), self._allowed(state, allowance, round)
        decisions = self._lineage_decisions(state, evidence, round)
        rates = self._rates(state, evidence, round)
        closed = {state.entries[d.prompt_id].prompt.lineage_id for d in decisions if d.kind == "master"}
        sure = self._wanted(state, evidence, round)
        wanted = [p for key in sure if (p := state.entries[key].prompt).lineage_id not in closed]
        skills = {e.prompt.skill for e in state.in_state("candidate") if e.prompt.origin != "seed"}
        ordered = buying_order(
            wanted,
            rates,
            round.seed,
            round.round_id,
            self.weighting.least_rate,
            most_of_a_skill(calls, self.pace.most_of_round, len(skills)),
            append_rest=round.rounds is not None
            and round.index + 1 >= last_buying_rounds(round.rounds, self.pace.buying_share),
            sure=sure,
        )
        in_doubt = "discrimination" not in self.without and is_in_doubt(round, self.confirming)
        looks = {item.prompt_id: sum(taken(item)) for item in evidence if item.kind == "screen"}
        return decisions + [
            Decision("buy", p.id, 1, self._reason(p, rates, sure[p.id], looks[p.id] if in_doubt else None))
            for p in lineages.within_cap(state, ordered, self.pace.calls_per_lineage)[:allowed]
        ]

    def _reason(self, prompt: Prompt, rates: Mapping[str, float], fails: float, looks: int | None) -> str:
        rate = f"failure rate of {prompt.skill}: {rates.get(prompt.skill, 1.0):.2f}"
        return f"unseen and failed; {rate}" if looks is None else f"fails by {fails:.0%} after {looks} looks; {rate}"

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        """Draw most from the skills that the student is learning, by loss if asked to, and replay what it mastered."""
        rates = self._rates(state, evidence, round)
        trained = {e.prompt.skill for e in state.entries.values() if e.sample or e.state == "candidate"}
        # a skill whose texts are all trained on passes its probes from memory, so its draws are not cut
        unmeasured = self._near_empty(state)
        weights = {
            skill: 1.0 if skill in unmeasured else draw_weight(rate, self.weighting.least_weight)
            for skill, rate in rates.items()
            if skill in trained
        }
        kinds = {decision.kind for decision in self._lineage_decisions(state, evidence, round)}
        replayed = bool(state.in_state("mastered")) or "master" in kinds
        by_loss: dict[str, float] | None = {} if state.sample_weights else None  # of a run that drew by loss before
        if self.most_losses:
            by_loss = weights_by_loss(state.losses, self.weighting.loss_power, self.weighting.smoothing)
        return TrainingMix(weights, self.mastery.replay_share if replayed else 0.0, by_loss)

    def _allowed(self, state: DatasetState, allowance: Allowance, round: RoundInfo) -> int:
        """Return the images that the round may buy."""
        calls = self._round_calls(state, round)
        return calls if allowance.teacher_calls is None else max(0, min(calls, allowance.teacher_calls))

    def _buying_rounds(self, round: RoundInfo) -> int | None:
        return None if round.rounds is None else last_buying_rounds(round.rounds, self.pace.buying_share)

    def _weighed(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> Weighed:
        shown, buying = self._shown(state, evidence, round), self._buying_rounds(round)
        most = self.screening.most_candidates_per_call
        return weighed(state, evidence, round, self.confirming, self.weighting.smoothing, most, shown, buying)

    def _round_calls(self, state: DatasetState, round: RoundInfo) -> int:
        self.check_budget(round.budget_teacher_calls)
        return round_allowance(
            round.budget_teacher_calls or 0,
            round.seed_calls,
            round.teacher_calls,
            round.index,
            round.rounds,
            self.pace.open_end_share,
            self.pace.buying_share,
            self.pace.early_share,
            tells_apart(state.history, self.screening.error_deviations, self.mastery.min_looks_per_lineage),
        )

    def _near_empty(self, state: DatasetState) -> set[str]:
        return near_empty_skills(state, self.skills, self.screening.min_candidates_per_skill)

    def _rates(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> dict[str, float]:
        skills = known_skills(state, None) | set(self.skills or ())
        if "discrimination" in self.without:  # what nobody looked at counts as failed
            return dict.fromkeys(sorted(skills), NOTHING_KNOWN)
        near_empty, weighting = self._near_empty(state), self.weighting
        return skill_rates(state, evidence, round, skills, near_empty, weighting.near_empty_rate, weighting.smoothing)

    def _requests(self, state: DatasetState, round: RoundInfo, calls: int) -> list[WriteRequest]:
        if not calls and "discrimination" in self.without:
            return []
        screening, weighting = self.screening, self.weighting
        skills = known_skills(state, self.skills)
        rates = self._rates(state, (), round)
        screened = "discrimination" not in self.without
        sought = screening.candidates_per_call * calls
        of_mutation = screening.mutation_share
        if screened:
            sought = self._candidates_sought(state, round, calls)
            if screening.least_expansion_share is not None:
                judge = judge_of(round, state.history, self.confirming)
                seen = seen_before(state.history, round, judge, self.confirming, weighting.smoothing)
                of_mutation = 1.0 - expansion_share(seen, screening.least_expansion_share, of_mutation)
        shares = CandidateShares(
            total=max(sought, screening.min_candidates_per_skill * len(skills)),
            weights={skill: max(weighting.least_rate, rate) for skill, rate in rates.items() if skill in skills},
            near_empty=self._near_empty(state) & skills if screened else set(),
            least=screening.min_candidates_per_skill,
            mutation_share=0.0 if "mutation" in self.without else of_mutation,
            open_share=0.0 if self.skills else 1.0 if not state.history else 0.5,
        )
        cap = self.pace.calls_per_lineage
        parents = lineages.parent_weights(state, cap, weighting.least_rate, weighting.smoothing)
        if not screened:  # nobody was looked at, so all parents are alike
            parents = dict.fromkeys(parents, 1.0)
        if "expansion" in self.without:
            parents = {}
        return candidate_requests(
            round, shares, parents, screening.children_per_parent, mutation="mutation" not in self.without
        )

    def _candidates_sought(self, state: DatasetState, round: RoundInfo, calls: int) -> int:
        least, most = self.screening.candidates_per_call, self.screening.most_candidates_per_call
        if most == least:
            return least * calls
        shares = (self.weighting.smoothing, least, most, self.pace.buying_share)
        return candidates_wanted(state, round, calls, self.confirming, *shares)

    def _probes(self, state: DatasetState, round: RoundInfo) -> list[str]:
        mastery = self.mastery
        chosen = lineages.mastered_probes(state, round, mastery.mastered_probes, mastery.min_looks_per_lineage)
        for skill in sorted(self._near_empty(state)):
            live = [e.prompt.id for e in state.in_state("live") if e.sample and e.prompt.skill == skill]
            chosen += seeded_choice(live, self.screening.min_candidates_per_skill, "probe", round.seed, round.round_id)
        return chosen

    def _wanted(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> dict[str, float]:
        """Return the candidates worth buying, with the probability that they fail: 1 where one look decides."""
        if "discrimination" in self.without:
            return {
                key: 1.0 for key, e in state.entries.items() if e.state == "candidate" and e.prompt.origin != "seed"
            }
        if is_in_doubt(round, self.confirming):
            found = self._weighed(state, evidence, round)
            return {key: found.posteriors[key] for key in found.worth_buying()}
        shown = self._shown(state, evidence, round)
        failed = {item.prompt_id for item in evidence if item.kind == "screen" and item.reading == "lacks"}
        return {key: 1.0 for key in failed if state.entries[key].prompt.skill in shown}

    def _shown(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> set[str]:
        """Name the skills where more candidates fail than the judge's error explains."""
        tallies = tallies_by(state, evidence, {"screen"}, skill_of)
        return {s for s, t in tallies.items() if exceeds(t, 0.0, round.judge, self.screening.error_deviations)}

    def _lineage_decisions(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> list[Decision]:
        if "deletion" in self.without:
            return []
        decisions = lineages.over_cap(state, self.pace.calls_per_lineage)
        if "discrimination" not in self.without:
            mastery = self.mastery
            limits = (mastery.min_looks_per_lineage, mastery.master_failed_share, mastery.revive_failed_share)
            retired = {decision.prompt_id for decision in decisions}
            moves = lineages.moves(state, evidence, round.judge, *limits)
            decisions += [decision for decision in moves if decision.prompt_id not in retired]
        return decisions
