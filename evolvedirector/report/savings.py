"""What looking first saved: the images an even set would have needed for as many prompts that the student fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolvedirector.policies.screening.confirming import Group, groups_of, share_in, taken
from evolvedirector.policies.screening.posterior import Seen, believed, posterior
from evolvedirector.records import Evidence, Prompt, Tally
from evolvedirector.records.judge_accuracy import clipped
from evolvedirector.store.ledger import Ledger


def saved_by_looking(ledger: Ledger, revision_sha: str) -> dict[str, Any] | None:
    """Compare what was bought with an even set, by the run's own base rate; None where that is not known.

    The base rate is the share of candidates without parent (mutations) that the student failed, in the rounds that
    bought images, corrected for the judge's error: nobody chose those for failing. An even set needs

        images = failing prompts bought / base rate

    The interval is that of the base rate (95 %). How many of those bought fail is the sum of the probabilities that
    their looks leave. Nothing is claimed where the judge's accuracy was not measured or no mutation was looked at.

    Args:
        ledger: The ledger.
        revision_sha: The newest revision; rounds of other branches are left out.

    Returns:
        `candidates` looked at, `failed` by their first look, images `bought` of them, `bought_failing`, `base_share`
        with `base_interval`, `even_images` (None where the base rate is measured as 0) with `even_interval`, whose
        upper end is None where the base rate may be 0.
    """
    rounds = [row for row in ledger.rounds.finished(revision_sha) if row.figures.decisions["buy"]]
    judges = [row.figures.judge_accuracy for row in rounds if row.figures.judge_accuracy.is_known]
    if not judges or len(judges) < len(rounds) or not judges[-1].says_something:
        return None
    judge = judges[-1]
    screened = [
        (row.round_id, item)
        for row in rounds
        for item in ledger.looks.evidence(row.round_id)
        if item.kind == "screen" and item.reading in ("shows", "lacks")
    ]
    prompts = ledger.prompts.get([item.prompt_id for _, item in screened])
    of_nobody = [item for _, item in screened if prompts[item.prompt_id].origin == "mutation"]
    base = Tally(len(of_nobody), sum(item.reading == "lacks" for item in of_nobody))
    share, interval = judge.corrected(base), judge.interval(base)
    asked = {row.round_id: _bought(ledger, row.round_id) for row in rounds}
    bought = [item for round_id, item in screened if item.prompt_id in asked[round_id]]
    if share is None or interval is None or not bought or interval[1] <= 0:
        return None
    believable = believed(judge, 1.0)
    own = {id(item): Seen.of(Tally(1, int(item.reading == "lacks")), believable) for _, item in screened}
    sums: dict[Group, Seen] = {}
    for _, item in screened:
        for group in _groups(item, prompts):
            sums[group] = sums.get(group, Seen()) + own[id(item)]
    failing = sum(
        posterior(share_in(sums, _groups(item, prompts), own[id(item)]), *taken(item), believable) for item in bought
    )
    low, high = interval
    return {
        "candidates": len(screened),
        "failed": sum(item.reading == "lacks" for _, item in screened),
        "bought": len(bought),
        "bought_failing": round(failing, 1),
        "base_share": round(clipped(share), 4),
        "base_interval": [round(low, 4), round(high, 4)],
        "even_images": round(failing / share) if share > 0 else None,
        "even_interval": [round(failing / high), round(failing / low) if low > 0 else None],
    }


def savings_sentence(saved: Mapping[str, Any] | None) -> str:
    """Say what looking first saved; empty where nothing is claimed.

    Args:
        saved: As `saved_by_looking` returns it.
    """
    if not saved:
        return ""
    least, most = saved["even_interval"]
    even = f"at least {least:,}" if saved["even_images"] is None else f"about {saved['even_images']:,}"
    between = f" (95 % interval {least:,} {'or more' if most is None else f'to {most:,}'})"
    bought, failing = saved["bought"], round(saved["bought_failing"])
    sure = "" if failing == bought else f", {failing:,} of them for prompts that it does fail"
    return (
        f"Of {saved['candidates']:,} candidates that the student drew before anything was bought, {saved['failed']:,} "
        f"failed: {bought:,} images were bought{sure}. An even set of prompts would have needed {even} images for as "
        f"many that fail{between}."
    )


def _bought(ledger: Ledger, round_id: str) -> set[str]:
    """Name the prompts for which a round asked a teacher."""
    return {row[0] for row in ledger.file.stream("SELECT DISTINCT prompt_id FROM calls WHERE round_id=?", (round_id,))}


def _groups(item: Evidence, prompts: Mapping[str, Prompt]) -> list[Group]:
    prompt = prompts[item.prompt_id]
    return groups_of(item.skill or prompt.skill, prompt.origin, item.lineage_id or prompt.lineage_id)
