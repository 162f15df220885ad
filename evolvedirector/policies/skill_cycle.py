"""The data of SELMA: so many prompts of each skill, one image of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from evolvedirector.errors import UserError
from evolvedirector.policies.policy import RunSize
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
    seed_of,
)
from evolvedirector.writers.skills import skill_names


class SkillCycle:
    """Fill skills: have prompts written for each that has too few, and buy one image of each prompt.

    SELMA (arXiv 2403.06952, sections 3.1 and 3.2) writes 1,000 prompts for each of five skills and draws one image of
    each with the student itself, unscreened. A round asks for what is missing; once all skills are full, a further
    round writes and buys nothing. What came too short (the writer has no more, a teacher refuses) is stated in the
    round's figures, and asked for again by the next round.

    With `check_teacher` an image that the judge finds unfaithful is not trained on, and the next round has another
    prompt written in its place: the paper's ablation with filtered data.

    Args:
        skills: Names, or the files of a `SkillWriter`.
        prompts_per_skill: Prompts with an image that each skill is filled to.
        bought_from: Name of the teacher that draws; a `SelfTeacher` is one. None: any, the best in the skill first.
        check_teacher: Check each image, those of the seeds included, and drop unfaithful ones.
        even: Let training draw from each skill equally often, however many prompts it has.

    Raises:
        UserError: No skill is named or one twice, or a number is below 1.
    """

    def __init__(
        self,
        skills: Sequence[str],
        prompts_per_skill: int = 1000,
        bought_from: str | None = None,
        check_teacher: bool = False,
        even: bool = False,
    ) -> None:
        names = skill_names(skills)
        if not names or len(set(names)) < len(names):
            raise UserError(
                f"skills is {list(names)}. Each skill is named once, at least one. Write `skills: [counting]`, say."
            )
        if prompts_per_skill < 1:
            raise UserError(
                f"prompts_per_skill is {prompts_per_skill}. Allowed is 1 or more. Write `prompts_per_skill: 1000`."
            )
        self.skills = names
        self.prompts_per_skill = prompts_per_skill
        self.bought_from = bought_from
        self.check_teacher = check_teacher
        self.checks_seeds = check_teacher
        self.even = even

    @property
    def fingerprint(self) -> str:
        """Name the rule and every setting."""
        settings = (self.skills, self.prompts_per_skill, self.bought_from, self.check_teacher, self.even)
        return f"skill-cycle-1/{digest(repr(settings))}"

    def most_looks(self, size: RunSize) -> int | None:
        """Return the most looks of a run: one for each image that is bought, where images are checked.

        Args:
            size: Of the run.
        """
        if not self.check_teacher:
            return 0
        if size.budget_teacher_calls is not None or size.rounds is None:
            return size.budget_teacher_calls
        return size.seeds + size.rounds * len(self.skills) * self.prompts_per_skill

    def check_parts(self, teachers: Collection[str], rewards: Collection[str]) -> None:
        """Refuse a teacher's name that nobody has.

        Args:
            teachers: Names of those that take part.
            rewards: Likewise; none is needed.

        Raises:
            UserError: `bought_from` is none of them.
        """
        if self.bought_from is not None and self.bought_from not in teachers:
            raise UserError(
                f"bought_from is {self.bought_from!r}, and no teacher is called so. Allowed: {', '.join(teachers)}. "
                "Write one of these names, or leave it out to buy from any."
            )

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        """Ask for what each skill is short of; nothing where all are full."""
        known = tuple(entry.prompt.text for entry in state.entries.values())
        requests = tuple(
            WriteRequest(
                digest("skill cycle", round.round_id, skill),
                "mutation",
                None,
                skill,
                count,
                seed_of("skill cycle", round.seed, round.round_id, skill),
                known=known,
            )
            for skill, count in self._missing(state).items()
        )
        return RoundPlan(write=requests, screen=False, check_teacher=self.check_teacher, bought_from=self.bought_from)

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        """Buy every written prompt, the skills in turn, so that a budget which ends leaves them alike."""
        missing = self._missing(state)
        written: dict[str, list[Prompt]] = {skill: [] for skill in missing}
        for entry in state.in_state("candidate"):
            if entry.prompt.origin != "seed" and entry.prompt.skill in written:
                written[entry.prompt.skill].append(entry.prompt)
        reasons = {
            skill: f"{skill}: {len(written[skill])} of {count} missing prompts" for skill, count in missing.items()
        }
        turns = max(map(len, written.values()), default=0)
        return [
            Decision("buy", prompts[turn].id, 1, reasons[skill])
            for turn in range(turns)
            for skill, prompts in written.items()
            if turn < len(prompts)
        ]

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        """Draw from each skill equally often, or leave the draws as they are."""
        if not self.even:
            return None
        return TrainingMix({skill: 1.0 for skill in self.skills}, state.replay_share)

    def _missing(self, state: DatasetState) -> dict[str, int]:
        """Count, by skill, the prompts with an image that are still to come."""
        trainable = [entry for entry in state.entries.values() if entry.state in ("live", "mastered") and entry.sample]
        counts = Counter(entry.prompt.skill for entry in trainable)
        missing = {skill: self.prompts_per_skill - counts[skill] for skill in self.skills}
        return {skill: count for skill, count in missing.items() if count > 0}
