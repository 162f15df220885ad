"""The families of prompts: seeds and mutations with their descendants, and what became of each."""

from __future__ import annotations

from typing import Any

from evolvedirector.report.history import Fate, History
from evolvedirector.report.pairs import clipped
from evolvedirector.report.thumbnails import Thumbnails
from evolvedirector.store.blobs import Blobs
from evolvedirector.store.ledger import Ledger

MAX_PROMPTS = 20_000
MAX_CHARACTERS = 2_000_000
MAX_PICTURES = 1_500
_WRITTEN = Fate("candidate")


def lineage_of(
    ledger: Ledger, history: History, blobs: Blobs, thumbnails: Thumbnails, most: int = MAX_PROMPTS
) -> dict[str, Any]:
    """List prompts family by family, the largest families first, parents before children.

    Args:
        ledger: The ledger.
        history: What became of each prompt.
        blobs: The images.
        thumbnails: Takes the small copies of the images that prompts are trained on.
        most: Prompts at most; whole families are taken as long as they fit.

    Returns:
        `nodes` as lists (text, position of the parent or -1, origin, skill, state, teacher, picture), `total`,
        `families`, and `skills` etc. are spelled out: a page of 20 thousand prompts stays a few megabytes.
    """
    total, families = ledger.file.rows("SELECT COUNT(*), COUNT(DISTINCT lineage_id) FROM prompts")[0]
    nodes: list[list[Any]] = []
    places: dict[str, int] = {}
    characters = pictures = 0
    # CROSS JOIN keeps the order of the tables: the other way round each family would search all prompts
    query = (
        "SELECT p.id, p.text, p.origin, p.skill, p.parent_id FROM prompts p CROSS JOIN "
        "(SELECT lineage_id, COUNT(*) AS n, MIN(rowid) AS first FROM prompts GROUP BY lineage_id) f "
        "ON f.lineage_id = p.lineage_id ORDER BY f.n DESC, f.first, p.rowid LIMIT ?"
    )
    for prompt_id, text, origin, skill, parent_id in ledger.file.stream(query, (most,)):
        fate = history.fates.get(prompt_id, _WRITTEN)
        picture = None
        if fate.image_sha256 and pictures < MAX_PICTURES:
            picture = thumbnails.add(fate.image_sha256, lambda fate=fate: blobs.get(fate.image_sha256))  # type: ignore[misc]
            pictures += picture is not None
        text = clipped(text)
        characters += len(text)
        if characters > MAX_CHARACTERS:
            break
        places[prompt_id] = len(nodes)
        nodes.append([text, parent_id, origin, skill, fate.state, fate.teacher or "", picture])
    for node in nodes:  # only now: a text that was written again may stand before its parent
        node[1] = places.get(node[1], -1)
    return {"nodes": nodes, "total": total, "families": families}
