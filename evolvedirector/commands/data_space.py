"""`evolvedirector data compact` and `data collect`: fewer shards to read, and nothing kept that nobody names."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evolvedirector.store.collect import Collection


def add_space_words(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the words to the parser of `data`; each sets `edit` to the function that carries it out."""
    compacting = actions.add_parser("compact", help="write small shards into few large ones, as a new revision")
    compacting.add_argument("root", help="folder of the dataset")
    compacting.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    compacting.add_argument("--samples-per-shard", type=int, default=10_000, help="samples of a full shard (10000)")
    compacting.set_defaults(edit=compact)
    collecting = actions.add_parser("collect", help="delete what no checkpoint, newer revision or book names")
    collecting.add_argument("root", help="folder of the dataset")
    collecting.add_argument("--dry-run", action="store_true", help="say what would go, and delete nothing")
    collecting.add_argument("--keep", type=int, default=8, metavar="K", help="newest revisions that stay whole (8)")
    collecting.add_argument(
        "--runs", nargs="+", default=[], metavar="FOLDER", help="further run folders whose checkpoints are to be kept"
    )
    collecting.add_argument(
        "--forget-missing-runs", action="store_true", help="go on where a run folder that was noted is not there"
    )
    collecting.add_argument(
        "--caches", action="store_true", help="delete latents, text states and unpublished embeddings, too"
    )
    collecting.set_defaults(edit=collect)


def compact(options: argparse.Namespace) -> int:
    """Compact the newest revision of a root.

    Args:
        options: Root, and how.

    Raises:
        StoreError: Another process holds the root, or a shard is damaged.
    """
    import os

    from evolvedirector.store.compact import compact, plan_compaction
    from evolvedirector.store.dataset import DatasetStore, lock_root
    from evolvedirector.store.edits import newest, revision_of

    if options.dry_run:
        parent = revision_of(options.root)
        os.close(lock_root(options.root))  # refused while another process writes, as the work itself is
        plan = plan_compaction(options.root, parent, options.samples_per_shard)
    else:
        with DatasetStore(options.root) as store:
            parent = newest(store)
            plan = plan_compaction(options.root, parent, options.samples_per_shard)
            sha = parent.state.revision_sha if plan.is_empty else compact(store, parent, plan)
    if plan.is_empty:
        print(f"Revision {parent.number} lies in {_shards(len(parent.shards))}: nothing to compact.")
        return 0
    old = len(plan.shards) + len(plan.companions)
    what = f"{len(plan.samples)} samples" + (f" and {len(plan.companions)} companions" if plan.companions else "")
    size = f"{what} of {_shards(old)} ({_bytes(plan.bytes_before)}) in {plan.new_shards}"
    if options.dry_run:
        print(f"Would write {size}, as revision {parent.number + 1}. Nothing was written.")
        return 0
    print(f"Wrote {size}, as revision {parent.number + 1} ({sha[:12]}), with the same prompts, samples and states.")
    print("Revisions before it still read the old shards: `evolvedirector data collect` deletes what no one reads.")
    return 0


def collect(options: argparse.Namespace) -> int:
    """Delete the garbage of a root.

    Args:
        options: Root, and what to spare.

    Raises:
        StoreError: Another process holds the root, or it cannot be said for sure what is named.
    """
    from evolvedirector.store.collect import collect

    found = collect(
        options.root, options.keep, options.runs, options.forget_missing_runs, options.caches, options.dry_run
    )
    print("\n".join(_told(found, options.dry_run)))
    return 0


def _told(found: Collection, dry_run: bool) -> Iterable[str]:
    for sha in found.named_but_gone:
        yield f"note: a checkpoint names revision {sha[:12]}, whose files an earlier collection deleted."
    if dry_run:
        yield from (f"{item.kind}: {item.path} ({_bytes(item.size_bytes)})" for item in found.garbage)
    counts = Counter(item.kind for item in found.garbage)
    names = {"shard": "files of shards", "derived": "files of derived shards", "blob": "blobs", "cache": "cache files"}
    for kind, count in counts.items():
        yield f"  {count} {names.get(kind, 'leftovers of stopped writers')}: {_bytes(found.size_bytes(kind))}"
    whys = ", ".join(f"{count} ({why})" for why, count in Counter(found.kept.values()).items())
    runs = f"{len(found.runs)} run folders were asked for checkpoints"
    yield f"Kept whole: {len(found.kept)} revisions: {whys}; {runs}. Losing files: {len(found.losing)} older ones."
    verb = "Would delete" if dry_run else "Deleted"
    yield f"{verb} {len(found.garbage)} files, {_bytes(found.size_bytes())}." + (" Nothing was deleted." * dry_run)


def _shards(count: int) -> str:
    return f"{count} shard" + "s" * (count != 1)


def _bytes(count: int) -> str:
    return f"{count} bytes" if count < 2**20 else f"{count / 2**20:.1f} MiB"
