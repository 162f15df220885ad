"""Who has made which further file of which sample: what a command that derives files still has to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evolvedirector.store.delta import Revision
from evolvedirector.store.shards import open_index


def makers_of(root: Path, revision: Revision, role: str) -> dict[str, str]:
    """Return, by sample key, who made the file of a role that counts: a fingerprint; empty where nobody said it.

    Args:
        root: The dataset root.
        revision: One of its revisions.
        role: Which file; samples without it are left out.

    Raises:
        StoreError: If the index of a companion cannot be read.
    """
    found: dict[str, str] = {}
    for shard in revision.companions.values():  # oldest first: where two have the same file, the newer counts
        if role in shard.roles:
            records, _ = open_index(root / "shards" / f"{shard.name}.index")
            having = np.char.startswith(records["extension"], f"{role}.".encode())
            found.update((key.decode(), shard.made_by) for key in records["key"][having].tolist())
    samples = (sample for entry in revision.state.entries.values() for sample in entry.samples)
    return found | {sample.key: "" for sample in samples if role in sample.files}
