"""Further drawings of the student: looked at where the policy is in doubt, made ahead where training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolvedirector.errors import UserError
from evolvedirector.evolution import steps
from evolvedirector.evolution.round_parts import Round
from evolvedirector.policies.policy import Confirms
from evolvedirector.records import Allowance, DatasetState, Evidence, Prompt, RoundPlan

MOST_FURTHER_LOOKS = 32
"""Most times that a policy is asked which candidates to look at again: a policy that never has enough ends here."""


def draw_ahead(round: Round, plan: RoundPlan, state: DatasetState, candidates: Sequence[Prompt]) -> None:
    """Let the student draw now what the round may ask of it later; nothing where it can be asked at any time.

    The drawings wait in the ledger, so what asks for them later finds them there.

    Args:
        round: The round; what it compares and screens is drawn already.
        plan: What it is about to do.
        state: The revision it starts from.
        candidates: What was written for it.

    Raises:
        UserError: The plan wants losses, which are measured once the images are bought: the student is not there then.
    """
    spare = round.parts.spare_drawings
    if spare is None:
        return
    if plan.most_losses:
        raise UserError(
            f"The policy wants the student's loss on up to {plan.most_losses} samples that a round has bought, but "
            "rounds in the background leave the student to its training by then. Allowed are draws by skill alone. "
            "Write `mode: between_epochs` in EvolutionCallback, or `most_losses=0` in the plan."
        )
    if plan.screen and isinstance(round.parts.policy, Confirms):
        for variant in range(1, spare + 1):
            steps.render(round, candidates, variant)
    if plan.drawn_by is None and (to_score := prompts_to_score(plan, state, candidates)):
        for variant in range(plan.images_per_prompt):
            steps.render(round, to_score, variant)
    round.watch.drawn()


def prompts_to_score(plan: RoundPlan, state: DatasetState, candidates: Sequence[Prompt]) -> list[Prompt]:
    """List the prompts whose images the rewards are to score."""
    return [state.entries[key].prompt for key in plan.score] + (list(candidates) if plan.score_candidates else [])


def look_again(round: Round, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance) -> list[Evidence]:
    """Look at further drawings of the candidates that the policy is in doubt about; in place of what was known of them.

    What the policy asks follows from what was seen alone, so a round that is repeated after a kill asks the same. A
    candidate of which a further look brings nothing (the budget of looks is spent, the drawing is the same, there is no
    further one) is left.
    """
    policy, by_prompt = round.parts.policy, {item.prompt_id: item for item in evidence if item.kind == "screen"}
    if not isinstance(policy, Confirms):
        return list(evidence)
    spare = round.parts.spare_drawings
    prompts = {key: state.entries[key].prompt for key in by_prompt}
    left: set[str] = set()
    for _ in range(MOST_FURTHER_LOOKS):
        asked = list(dict.fromkeys(policy.look_again(state, evidence, allowance, round.info)))
        _check_asked(asked, by_prompt)
        if spare is not None:
            left.update(key for key in asked if len(by_prompt[key].looks) > spare)
        asked = [key for key in asked if key not in left]
        if not asked:
            break
        more = {item.prompt_id: item for item in steps.check_again(round, [by_prompt[key] for key in asked], prompts)}
        left.update(key for key in asked if key not in more)
        by_prompt |= more
        evidence = [more.get(item.prompt_id, item) if item.kind == "screen" else item for item in evidence]
    return list(evidence)


def _check_asked(asked: Sequence[str], screened: Mapping[str, Evidence]) -> None:
    for prompt_id in asked:
        if prompt_id not in screened:
            raise UserError(
                f"The policy wants another look at prompt {prompt_id!r}, which is none of the {len(screened)} "
                "candidates that were screened. Return ids of evidence of kind `screen` from `look_again`."
            )
