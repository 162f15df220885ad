"""Write kept pairs as frozen WebDatasets: those for editing and those for generation, each with a card."""

from __future__ import annotations

from pathlib import Path

from evolvedirector.pairs.builder import ABOUT
from evolvedirector.pairs.pair_book import PairBook
from evolvedirector.pairs.pair_figures import PairFigures
from evolvedirector.pairs.pair_records import IMAGE, MASK, REFERENCE, REFERENCE_MASK, SOURCE, PairUse
from evolvedirector.records.subject_roles import SUBJECT_BOX
from evolvedirector.records.subset import Subset
from evolvedirector.store import RevisionFiles, StoreError
from evolvedirector.store.frozen import freeze

ROLES: dict[PairUse, tuple[str, ...]] = {
    "generation": (IMAGE, REFERENCE, REFERENCE_MASK, ABOUT),
    "editing": (IMAGE, REFERENCE, REFERENCE_MASK, SOURCE, MASK, ABOUT),
}
_CARD = """
## Subject pairs for {use}

One sample is one pair: `reference.png` shows the subject and `reference_mask.png` its outline; the picture shows it
again with the change that its prompt says{editing}. `subject_box.npy`, where there is one, says where the subject
stands: left, top, right and bottom as shares of the picture. `pair.json` holds subject id, category, kind of change,
all scores, the seed and the fingerprint of every stage.

{figures}
"""
_EDITING = "; `source.png` is the picture before the edit and `mask.png` where it may change"


def export_pairs(root: Path, out: Path, samples_per_shard: int = 1000) -> dict[PairUse, int]:
    """Write `OUT/generation` and `OUT/editing`; returns the number of pairs in each.

    Args:
        root: Of the dataset.
        out: A new folder.
        samples_per_shard: Of each tar but the last.

    Raises:
        StoreError: There is no kept pair, or a folder is there already.
    """
    sha = RevisionFiles(root).current()
    with PairBook.for_reading(root) as book:
        kept = book.pairs("kept")
        ids: dict[PairUse, list[str]] = {use: [row.pair_id for row in kept if row.use == use] for use in ROLES}
        # a column that every sample has: pairs of pictures that are not square have no box
        boxed = {use for use in ROLES if all(SUBJECT_BOX in row.body["files"] for row in kept if row.use == use)}
        figures = "\n".join(f"- {line}" for line in PairFigures.of(book.counts(), book.spend()).lines())
    if sha is None or not any(ids.values()):
        raise StoreError(
            f"'{root}' holds no kept pair. Allowed is a root in which `evolvedirector pairs build` kept some. Look at"
            " what was rejected with `evolvedirector pairs show ROOT --rejected`."
        )
    written: dict[PairUse, int] = {}
    for use, roles in ROLES.items():
        if ids[use]:
            about = _CARD.format(use=use, editing=_EDITING if use == "editing" else "", figures=figures)
            chosen = Subset(variants=ids[use])
            boxes = (SUBJECT_BOX,) if use in boxed else ()
            written[use] = freeze(root, sha, out / use, (*roles, *boxes), samples_per_shard, chosen, about)
    return written
