"""Who taught what: each teacher's share of the training images by skill, and how it earned it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evolvedirector.evolution.standings import Standing, added, past_standings
from evolvedirector.evolution.summary import wilson_interval

if TYPE_CHECKING:
    from evolvedirector.store.dataset import DatasetStore


def teacher_share(store: DatasetStore, revision_sha: str) -> dict[str, Any]:
    """Count by skill what each teacher gave to a revision: the paper's table of select ratios (its Table 3).

    A fork sees its own past only. Images that are retired are not counted as trained.

    Args:
        store: The dataset, with its ledger.
        revision_sha: The revision.

    Returns:
        `overall` and `skills` (by skill); in both, by teacher: `images`, `share`, `duels`, `duels_won` (a tie counts
        one half), `win_rate` and `win_rate_interval` (95 %, Wilson; None without duels), `checked`, `unfaithful` (the
        judge's mistakes included), `refusals`, `failures`.
    """
    images: Counter[tuple[str, str]] = Counter(
        (entry.prompt.skill, entry.sample.teacher)
        for entry in store.state(revision_sha).entries.values()
        if entry.sample and entry.state != "retired"
    )
    standings = past_standings(store.ledger, revision_sha)
    keys = sorted({*images, *standings})
    skills = {
        skill: _rows(
            {name: images[skill, name] for of, name in keys if of == skill},
            {name: standings.get((skill, name), Standing()) for of, name in keys if of == skill},
        )
        for skill in dict.fromkeys(skill for skill, _ in keys)
    }
    names = sorted({name for _, name in keys})
    overall = _rows(
        {name: sum(count for (_, teacher), count in images.items() if teacher == name) for name in names},
        {name: added(*[item for (_, teacher), item in standings.items() if teacher == name]) for name in names},
    )
    return {"overall": overall, "skills": skills}


def _rows(images: Mapping[str, int], standings: Mapping[str, Standing]) -> dict[str, dict[str, Any]]:
    total = sum(images.values())
    return {
        name: {
            "images": images[name],
            "share": images[name] / total if total else None,
            "duels": standing.duels,
            "duels_won": standing.wins,
            "win_rate": standing.wins / standing.duels if standing.duels else None,
            "win_rate_interval": wilson_interval(standing.wins, standing.duels),
            "checked": standing.faithful + standing.unfaithful,
            "unfaithful": standing.unfaithful,
            "refusals": standing.refusals,
            "failures": standing.failures,
        }
        for name, standing in standings.items()
    }
