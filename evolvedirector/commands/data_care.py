"""`evolvedirector data verify`, `diff` and `push`: is a root whole, what changed, and a copy of it at a URL."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evolvedirector.records import DatasetState
    from evolvedirector.store.difference import Difference
    from evolvedirector.store.verify import Verification


def add_care_words(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the words to the parser of `data`; each sets `edit` to the function that carries it out."""
    verifying = actions.add_parser("verify", help="read a root whole and say what is missing, damaged or foreign in it")
    verifying.add_argument("root", help="folder of the dataset")
    verifying.add_argument("--quick", action="store_true", help="compare names and sizes only")
    verifying.add_argument(
        "--repair", action="store_true", help="mend what the root itself still knows, and look again"
    )
    verifying.add_argument("--json", action="store_true", help="print what was found as JSON")
    verifying.set_defaults(edit=verify)
    comparing = actions.add_parser("diff", help="say what changed from one revision to another")
    comparing.add_argument("root", help="folder of the dataset")
    comparing.add_argument("before", metavar="SHA", nargs="?", help="a revision, by its first characters (the parent)")
    comparing.add_argument("after", metavar="SHA", nargs="?", help="another one (the newest)")
    comparing.add_argument("--json", action="store_true", help="print every prompt and sample that changed as JSON")
    comparing.set_defaults(edit=diff)
    pushing = actions.add_parser("push", help="bring the published revisions to a URL, where other machines read them")
    pushing.add_argument("root", help="folder of the dataset")
    pushing.add_argument("url", help="an empty place, or one that this root was pushed to, such as s3://bucket/folder")
    pushing.add_argument("--thorough", action="store_true", help="also bring what was deleted or cut there since")
    pushing.set_defaults(edit=push)


def verify(options: argparse.Namespace) -> int:
    """Verify a root; a run may hold it meanwhile, unless it is to be repaired.

    Args:
        options: Root, and how thoroughly.

    Returns:
        Exit code: 0, or 1 where the root is not whole.
    """
    from evolvedirector.pairs.pair_verify import damages_of_pairs
    from evolvedirector.store.repair import repair_root
    from evolvedirector.store.verify import verify_root

    def progress(line: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[KReading {line}", end="", file=sys.stderr, flush=True)

    found = verify_root(options.root, options.quick, progress, [damages_of_pairs])
    done: list[str] = []
    if options.repair and not found.is_whole:
        done = repair_root(options.root, found.damages)
        found = verify_root(options.root, options.quick, progress, [damages_of_pairs])
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    if options.json:
        print(json.dumps({**asdict(found), "is_whole": found.is_whole, "repaired": done}, indent=1))
    else:
        print("\n".join([*done, *_told(found, options.quick)]))
    return 0 if found.is_whole else 1


def _told(found: Verification, quick: bool) -> Iterable[str]:
    for damage in found.damages:
        mark = "note" if damage.is_harmless else damage.kind
        yield f"{mark}: {damage.path}: {damage.what}. {damage.advice}"
    what = f"{found.revisions} revisions, {found.shards} shards, {found.blobs} blobs and the ledger"
    how = "names and sizes alone" if quick else f"{found.bytes_read / 2**20:.1f} MiB read"
    damaged = sum(not damage.is_harmless for damage in found.damages)
    yield f"{what}: {'whole' if found.is_whole else f'{damaged} damaged'} ({how})."


def push(options: argparse.Namespace) -> int:
    """Push a root; a run may hold it meanwhile.

    Args:
        options: Root and URL.

    Returns:
        Exit code.

    Raises:
        StoreError: The root is damaged, or the place cannot be used.
        UserError: The URL cannot be meant.
    """
    from evolvedirector.store.push import push_root

    def progress(line: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[KPushing {line}", end="", file=sys.stderr, flush=True)

    try:
        pushed = push_root(options.root, options.url, options.thorough, progress)
    finally:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)
    print(
        f"Pushed {pushed.revisions} revisions ({pushed.objects} objects, {pushed.size_bytes / 2**20:.1f} MiB) to"
        f" '{options.url}'. The newest one there is {pushed.newest_sha[:12]}."
    )
    return 0


def diff(options: argparse.Namespace) -> int:
    """Compare two revisions.

    Args:
        options: Root and revisions.

    Raises:
        StoreError: There is only one, or none of that name.
    """
    from evolvedirector.store import StoreError, edits
    from evolvedirector.store.difference import difference

    after = edits.revision_of(options.root, options.after)
    if options.before is None and after.parent_sha is None:
        raise StoreError(
            f"Revision {after.number} of '{options.named}' is the first: nothing came before it. Two revisions are "
            "compared. Train on it, or add to it."
        )
    before = edits.revision_of(options.root, options.before or after.parent_sha)
    found = difference(before.state, after.state)
    if options.json:
        print(json.dumps({**asdict(found), "before": before.state.revision_sha, "after": after.state.revision_sha}))
        return 0
    print(f"Revision {before.number} ({before.state.revision_sha[:12]}) to {after.number}", end=" ")
    print(f"({after.state.revision_sha[:12]}):")
    print("\n".join(_changes(found, before.state, after.state)))
    return 0


def _changes(found: Difference, before: DatasetState, after: DatasetState) -> Iterable[str]:
    if found.is_empty:
        yield "  nothing: both hold and draw the same"
    for (old, new), count in found.counts.items():
        yield f"  {count} prompts: {old or 'not there'} -> {new or 'not there'}"
    if found.added or found.removed:
        yield f"  {len(found.added)} samples added, {len(found.removed)} replaced by others"
    for skill, weights in found.skill_weights.items():
        yield f"  weight of {skill}: " + " -> ".join("none" if w is None else f"{w:.3g}" for w in weights)
    if found.replay_share[0] != found.replay_share[1]:
        yield f"  replay share: {found.replay_share[0]:.0%} -> {found.replay_share[1]:.0%}"
    if found.reweighed:
        yield f"  {found.reweighed} samples are drawn with another weight"
    counts = [sum(entry.state == "live" for entry in state.entries.values()) for state in (before, after)]
    yield f"  live prompts: {counts[0]} -> {counts[1]}"
