"""The default policy: look before you buy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evolvedirector.policies.policy import LOOKS_PER_BOUGHT_IMAGE, RunSize
from evolvedirector.policies.screening import lineages
from evolvedirector.policies.screening.candidates import (
    CandidateShares,
    buying_order,
    candidate_requests,
    most_of_a_skill,
    seeded_choice,
)
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


class ScreeningPolicy:
    """Buy images only for prompts that the student was never trained on and fails.

    A verdict on a trained prompt measures memory, so a round writes several candidates for every image it may buy,
    lets the student draw them, and buys those it fails, interleaved over skills by failure rate
    f_s <- 0.5 f_s + 0.5 (failed share - e) / (1 - 2 e), e the judge's error. Round k of K may spend
    A_k = S + (B - S) min(1, (k + 1) / ceil(d K)) - spent. What the student can do is drawn less often and replayed,
    not deleted. The four operations of EvolveDirector (arXiv 2410.07133) each have an off switch, for ablations.

    Args:
        candidates_per_call: Candidates written for each image the round may buy.
        mutation_share: Least share of the candidates that have no parent, 0 to 1.
        children_per_parent: Most children written for one prompt in a round.
        min_candidates_per_skill: Unseen prompts of a skill below which its measurement needs probes of trained ones.
        skills: Skills the candidates are spread over; None: those met so far, and mutations whose skill the writer
            chooses, so that skills absent from the seeds are found.
        test_all_share: Share of the bought prompts that every teacher draws, 0 to 1.
        smoothing: Weight of the newest round in a failure rate, over 0 to 1.
        least_rate: Floor of a failure rate when candidates and purchases are shared out, over 0 to 1.
        near_empty_rate: Floor of the failure rate of a skill with hardly any unseen prompts left, 0 to 1.
        most_of_round: Most of a round's purchases that one skill may take, over 0 to 1.
        error_deviations: A skill is bought from when more fail than the judge's error explains, by so many standard
            deviations; a perfect judge needs one failure.
        least_weight: Floor of a skill's draw weight, over 0. The weight is 1 while f >= 0.5 and where no unseen prompts
            are left to measure f, else max(floor, 4 f (1 - f)).
        master_failed_share: Failed share of unseen children up to which a lineage passes a round, 0 to 1.
        revive_failed_share: Failed share of probes above which a mastered lineage is live again, 0 to 1.
        min_looks_per_lineage: Looks below which a round says nothing about a lineage.
        mastered_probes: Mastered prompts drawn again per round, to detect forgetting.
        replay_share: Share of training draws that repeat mastered prompts, 0 to 1.
        calls_per_lineage: Most images of one lineage; further ones are neither written nor bought. None: no cap.
        open_end_share: Share of what is left that a round may spend when the number of rounds is not known, 0 to 1.
        buying_share: Share of the rounds in which images are bought, d, over 0 to 1; the rest trains on what is there.
        early_share: Share of the budget spent in the first round, 0 to 1; the rest waits until looks tell skills apart,
            at most until half of those rounds. None: spends evenly, as where the number of rounds is not known.
        discrimination: Off: candidates are bought unscreened, in seeded order, and nothing is mastered.
        expansion: Off: no children are written.
        deletion: Off: nothing is mastered or retired.
        mutation: Off: every candidate has a parent.
        replay: Off: mastered prompts are drawn like live ones.

    Raises:
        ValueError: A share, rate or count out of its range, or an empty list of skills.
    """

    checks_seeds = True
    """Images of the seeds are checked like all others: an unfaithful one is never trained on."""

    def __init__(
        self,
        candidates_per_call: int = 4,
        mutation_share: float = 0.2,
        children_per_parent: int = 4,
        min_candidates_per_skill: int = 10,
        skills: list[str] | None = None,
        test_all_share: float = 0.1,
        smoothing: float = 0.5,
        least_rate: float = 0.05,
        near_empty_rate: float = 0.15,
        most_of_round: float = 0.5,
        error_deviations: float = 2.0,
        least_weight: float = 0.35,
        master_failed_share: float = 0.1,
        revive_failed_share: float = 0.2,
        min_looks_per_lineage: int = 4,
        mastered_probes: int = 16,
        replay_share: float = 0.25,
        calls_per_lineage: int | None = None,
        open_end_share: float = 0.25,
        buying_share: float = 0.5,
        early_share: float | None = None,
        discrimination: bool = True,
        expansion: bool = True,
        deletion: bool = True,
        mutation: bool = True,
        replay: bool = True,
    ) -> None:
        self.candidates_per_call = candidates_per_call
        self.mutation_share = mutation_share
        self.children_per_parent = children_per_parent
        self.min_candidates_per_skill = min_candidates_per_skill
        self.skills = skills
        self.test_all_share = test_all_share
        self.smoothing = smoothing
        self.least_rate = least_rate
        self.near_empty_rate = near_empty_rate
        self.most_of_round = most_of_round
        self.error_deviations = error_deviations
        self.least_weight = least_weight
        self.master_failed_share = master_failed_share
        self.revive_failed_share = revive_failed_share
        self.min_looks_per_lineage = min_looks_per_lineage
        self.mastered_probes = mastered_probes
        self.replay_share = replay_share
        self.calls_per_lineage = calls_per_lineage
        self.open_end_share = open_end_share
        self.buying_share = buying_share
        self.early_share = early_share
        self.discrimination = discrimination
        self.expansion = expansion
        self.deletion = deletion
        self.mutation = mutation
        self.replay = replay
        self._refuse_nonsense()

    def _refuse_nonsense(self) -> None:
        shares = ("mutation_share", "test_all_share", "near_empty_rate", "master_failed_share", "revive_failed_share")
        counts = ("candidates_per_call", "children_per_parent", "min_candidates_per_skill", "min_looks_per_lineage")
        ranges: list[tuple[str, float, float, tuple[str, ...]]] = [
            ("0 to 1", 0.0, 1.0, (*shares, "replay_share", "open_end_share")),
            ("over 0, up to 1", 1e-6, 1.0, ("smoothing", "least_rate", "most_of_round", "buying_share")),
            ("over 0", 1e-6, math.inf, ("least_weight",)),
            ("0 or more", 0, math.inf, ("error_deviations", "mastered_probes")),
            ("0 to 1, or null to spend evenly", 0.0, 1.0, ("early_share",)),
            ("1 or more", 1, math.inf, counts),
            ("1 or more, or null for no cap", 1, math.inf, ("calls_per_lineage",)),
        ]
        for allowed, least, most, names in ranges:
            for name in names:
                value = getattr(self, name)
                if value is not None and not least <= value <= most:
                    raise ValueError(f"{name} is {value}. Allowed: {allowed}. Leave {name} out to take its default.")
        if self.skills is not None and not self.skills:
            raise ValueError("skills is []. Allowed: at least one skill, or null. Write `skills: null` to find them.")

    def check_budget(self, budget_teacher_calls: int | None) -> None:
        """Refuse a run without a limit on teacher calls: a round's allowance is a part of that limit.

        Args:
            budget_teacher_calls: Teacher calls of the whole run; None is unlimited.

        Raises:
            ValueError: There is no limit.
        """
        if budget_teacher_calls is None:
            raise ValueError(
                "ScreeningPolicy shares out budget_teacher_calls over the rounds, and it is None. Allowed: a number, 0 "
                "or more. Set `budget_teacher_calls: 1000`, say, or use EvolveDirectorPolicy."
            )

    @property
    def fingerprint(self) -> str:
        """Name the rule and every setting."""
        written = (self.candidates_per_call, self.mutation_share, self.children_per_parent, self.skills)
        measured = (self.min_candidates_per_skill, self.smoothing, self.least_rate, self.near_empty_rate)
        bought = (self.test_all_share, self.most_of_round, self.error_deviations, self.calls_per_lineage)
        drawn = (self.least_weight, self.master_failed_share, self.revive_failed_share, self.min_looks_per_lineage)
        replayed = (self.mastered_probes, self.replay_share)
        spent = (self.open_end_share, self.buying_share, self.early_share)
        operations = (self.discrimination, self.expansion, self.deletion, self.mutation, self.replay)
        settings = (*written, *measured, *bought, *drawn, *replayed, *spent, *operations)
        return f"screening-1/{digest(repr(settings))}"

    def most_looks(self, size: RunSize) -> int | None:
        """Return the most looks of a run.

        A round looks at c A_k candidates or m for each skill, whichever is more, at the probes, and
        `LOOKS_PER_BOUGHT_IMAGE` times at each image bought; A_k is largest where nothing is bought before.

        Args:
            size: Of the run.
        """
        if size.rounds is None or size.budget_teacher_calls is None:
            return None
        calls = size.budget_teacher_calls
        looks = LOOKS_PER_BOUGHT_IMAGE * calls
        if not self.discrimination:
            return looks
        measured = self.min_candidates_per_skill * max(1, size.skills, len(self.skills or ()))
        shares = (self.open_end_share, self.buying_share, self.early_share)
        for index in range(size.rounds):
            allowed = round_allowance(calls, 0, 0, index, size.rounds, *shares)
            looks += max(self.candidates_per_call * allowed, measured) + self.mastered_probes + measured
        return looks

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        """Ask for candidates, and for probes where unseen prompts run out or forgetting may show."""
        calls = self._round_calls(state, round)
        return RoundPlan(
            write=tuple(self._requests(state, round, calls)),
            screen=self.discrimination,
            probe=tuple(self._probes(state, round)) if self.discrimination else (),
            check_teacher=True,
            compare_bought=True,
            budget_teacher_calls=calls,
            test_all_share=self.test_all_share,
        )

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        """Buy failing candidates in order of urgency; master, revive and retire lineages."""
        calls = self._round_calls(state, round)
        allowed = calls if allowance.teacher_calls is None else max(0, min(calls, allowance.teacher_calls))
        decisions = self._lineage_decisions(state, evidence, round)
        rates = self._rates(state, evidence, round)
        closed = {state.entries[d.prompt_id].prompt.lineage_id for d in decisions if d.kind == "master"}
        wanted = [p for p in self._wanted(state, evidence, round) if p.lineage_id not in closed]
        skills = {e.prompt.skill for e in state.in_state("candidate") if e.prompt.origin != "seed"}
        ordered = buying_order(
            wanted,
            rates,
            round.seed,
            round.round_id,
            self.least_rate,
            most_of_a_skill(calls, self.most_of_round, len(skills)),
            append_rest=round.rounds is not None
            and round.index + 1 >= last_buying_rounds(round.rounds, self.buying_share),
        )
        return decisions + [
            Decision("buy", p.id, 1, f"unseen and failed; failure rate of {p.skill}: {rates.get(p.skill, 1.0):.2f}")
            for p in lineages.within_cap(state, ordered, self.calls_per_lineage)[:allowed]
        ]

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        """Draw most from the skills that the student is learning, and replay what it has mastered."""
        rates = self._rates(state, evidence, round)
        trained = {e.prompt.skill for e in state.entries.values() if e.sample or e.state == "candidate"}
        # a skill whose texts are all trained on passes its probes from memory, so its draws are not cut
        unmeasured = self._near_empty(state)
        weights = {
            skill: 1.0 if skill in unmeasured else draw_weight(rate, self.least_weight)
            for skill, rate in rates.items()
            if skill in trained
        }
        kinds = {decision.kind for decision in self._lineage_decisions(state, evidence, round)}
        replayed = self.replay and (bool(state.in_state("mastered")) or "master" in kinds)
        return TrainingMix(weights, self.replay_share if replayed else 0.0)

    def _round_calls(self, state: DatasetState, round: RoundInfo) -> int:
        self.check_budget(round.budget_teacher_calls)
        return round_allowance(
            round.budget_teacher_calls or 0,
            round.seed_calls,
            round.teacher_calls,
            round.index,
            round.rounds,
            self.open_end_share,
            self.buying_share,
            self.early_share,
            tells_apart(state.history, self.error_deviations, self.min_looks_per_lineage),
        )

    def _near_empty(self, state: DatasetState) -> set[str]:
        return near_empty_skills(state, self.skills, self.min_candidates_per_skill)

    def _rates(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> dict[str, float]:
        skills = known_skills(state, None) | set(self.skills or ())
        if not self.discrimination:  # what nobody looked at counts as failed
            return dict.fromkeys(sorted(skills), NOTHING_KNOWN)
        near_empty = self._near_empty(state)
        return skill_rates(state, evidence, round, skills, near_empty, self.near_empty_rate, self.smoothing)

    def _requests(self, state: DatasetState, round: RoundInfo, calls: int) -> list[WriteRequest]:
        if not calls and not self.discrimination:
            return []
        skills = known_skills(state, self.skills)
        weights = {s: max(self.least_rate, r) for s, r in self._rates(state, (), round).items() if s in skills}
        shares = CandidateShares(
            total=max(self.candidates_per_call * calls, self.min_candidates_per_skill * len(skills)),
            weights=weights,
            near_empty=self._near_empty(state) & skills if self.discrimination else set(),
            least=self.min_candidates_per_skill,
            mutation_share=self.mutation_share if self.mutation else 0.0,
            open_share=0.0 if self.skills else 1.0 if not state.history else 0.5,
        )
        parents = lineages.parent_weights(state, self.calls_per_lineage, self.least_rate, self.smoothing)
        if not self.discrimination:  # nobody was looked at, so all parents are alike
            parents = dict.fromkeys(parents, 1.0)
        parents = parents if self.expansion else {}
        return candidate_requests(round, shares, parents, self.children_per_parent, self.mutation)

    def _probes(self, state: DatasetState, round: RoundInfo) -> list[str]:
        chosen = lineages.mastered_probes(state, round, self.mastered_probes, self.min_looks_per_lineage)
        for skill in sorted(self._near_empty(state)):
            live = [e.prompt.id for e in state.in_state("live") if e.sample and e.prompt.skill == skill]
            chosen += seeded_choice(live, self.min_candidates_per_skill, "probe", round.seed, round.round_id)
        return chosen

    def _wanted(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> list[Prompt]:
        """List the candidates worth buying: failed ones of skills where more fail than the judge's error explains."""
        if not self.discrimination:
            return [e.prompt for e in state.in_state("candidate") if e.prompt.origin != "seed"]
        tallies = tallies_by(state, evidence, {"screen"}, skill_of)
        shown = {s for s, t in tallies.items() if exceeds(t, 0.0, round.judge_error, self.error_deviations)}
        failed = {item.prompt_id for item in evidence if item.kind == "screen" and item.reading == "lacks"}
        return [prompt for key in failed if (prompt := state.entries[key].prompt).skill in shown]

    def _lineage_decisions(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> list[Decision]:
        if not self.deletion:
            return []
        decisions = lineages.over_cap(state, self.calls_per_lineage)
        if self.discrimination:
            limits = (self.min_looks_per_lineage, self.master_failed_share, self.revive_failed_share)
            retired = {decision.prompt_id for decision in decisions}
            moves = lineages.moves(state, evidence, round.judge_error, *limits)
            decisions += [decision for decision in moves if decision.prompt_id not in retired]
        return decisions
