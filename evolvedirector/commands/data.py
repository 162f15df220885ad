"""`evolvedirector data`: bring data in, and show what a dataset root holds."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evolvedirector.records import Sample
    from evolvedirector.store import Revision, RevisionFiles
    from evolvedirector.store.imports import ImportReport

_MAX_PROBLEMS = 20


def main(args: list[str]) -> int:
    """Run `data import` or `data show`.

    Args:
        args: The words after `data`.

    Returns:
        Exit code: 0, or 1 after an error that was printed.
    """
    parser = _parser()
    options = parser.parse_args(args)
    if options.action == "import" and options.roles and not options.webdataset:
        parser.error("--roles names members of tars. It stands beside --webdataset. Leave it out, or give the tars.")
    from evolvedirector.store import StoreError

    try:
        return _import(options) if options.action == "import" else _show(options)
    except StoreError as error:
        print(f"evolvedirector data: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="evolvedirector data", description="Import data, or show a dataset.")
    actions = parser.add_subparsers(dest="action", required=True)
    importing = actions.add_parser("import", help="make revision 1 of a new dataset root from your own data")
    importing.add_argument("root", type=Path, help="folder of the new dataset")
    source = importing.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--prompts",
        metavar="FILE",
        help="one prompt per line, or .jsonl with `prompt` and optionally `skill`; images are bought in rounds",
    )
    source.add_argument(
        "--images", metavar="PATTERN", help="pictures with a caption in the .txt of the same name, such as 'dir/**'"
    )
    source.add_argument(
        "--webdataset", metavar="PATTERN", help="local WebDataset tars with captions, such as 'x-{000..009}.tar'"
    )
    importing.add_argument(
        "--roles",
        metavar="NAMES",
        help="further files to keep of each sample in the tars: 'mask,source' for KEY.mask.png, KEY.source.jpg",
    )
    showing = actions.add_parser("show", help="print what a dataset root holds and what it cost")
    showing.add_argument("root", type=Path, help="folder of the dataset")
    showing.add_argument("--revision", metavar="SHA", help="another revision than the newest (its first characters)")
    return parser


def _import(options: argparse.Namespace) -> int:
    from evolvedirector.store import DatasetStore, imports

    problems: list[str] = []
    # read before the root is made, so that a mistyped file leaves nothing behind
    prompts = imports.read_prompt_file(options.prompts) if options.prompts else []
    with DatasetStore(options.root, create=True) as store:
        if options.prompts:
            report = imports.import_prompts(store, prompts)
        elif options.images:
            report = imports.import_images(store, imports.folder_images(options.images, problems))
        else:
            roles = [role.strip() for role in (options.roles or "").split(",") if role.strip()]
            report = imports.import_images(store, imports.tar_images(options.webdataset, problems, roles))
    _print_import(report, [*problems, *report.problems], options.root)
    return 0


def _print_import(report: ImportReport, problems: list[str], root: Path) -> None:
    for problem in problems[:_MAX_PROBLEMS]:
        print(f"skipped {problem}", file=sys.stderr)
    if len(problems) > _MAX_PROBLEMS:
        print(f"... and {len(problems) - _MAX_PROBLEMS} more", file=sys.stderr)
    print(
        f"Imported {report.prompts} prompts and {report.images} captioned images into '{root}' as revision"
        f" {report.revision_sha[:12]}; skipped {report.duplicates} duplicates and {len(problems)} unusable ones."
    )


def _show(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from evolvedirector.store import RevisionFiles, StoreError
    from evolvedirector.store.dataset import check_format

    check_format(options.root)
    files = RevisionFiles(options.root)
    newest = files.current()
    if newest is None:
        raise StoreError(f"The dataset root '{options.root}' has no revision yet. Import something into it first.")
    sha = files.resolve(options.revision) if options.revision else newest
    revision = files.load(sha)
    table = Table(title=f"{options.root}: revision {revision.number} ({sha[:12]})", show_header=False, title_style="")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(options.root, revision, files, newest):
        table.add_row(name, value)
    Console(soft_wrap=not sys.stdout.isatty()).print(table)
    return 0


def _facts(root: Path, revision: Revision, files: RevisionFiles, newest: str) -> Iterable[tuple[str, str]]:
    """Yield what there is to say about a revision, one fact per row."""
    state = revision.state
    entries = list(state.entries.values())
    trained = [sample for entry in entries if entry.state in ("live", "mastered") for sample in entry.samples]
    parent = revision.parent_sha[:12] if revision.parent_sha else "none"
    yield "published by", f"{revision.round_id} on parent {parent}"
    yield "newest", "yes" if newest == state.revision_sha else f"no, that is {newest[:12]}"
    yield "revisions", f"{len(files.listed())} ({_forks(files.listed())} forks)"
    yield "prompts", f"{len(entries)}: {_counted(entry.state for entry in entries)}"
    yield "trained on", f"{len(trained)} images in {len(revision.shards)} shards"
    if variants := Counter(sample.prompt.id for sample in trained if sample.variant):
        yield "variants", f"{variants.total()} further images of {len(variants)} prompts"
    if roles := list(_further_roles(trained, revision)):
        yield "roles", ", ".join(["image", *roles])
    yield "origin", _counted(entry.prompt.origin for entry in entries)
    yield "skill", _counted(entry.prompt.skill for entry in entries)
    yield "teacher", _counted(sample.teacher for sample in trained)
    yield "lineages", f"{len({entry.prompt.lineage_id for entry in entries})}, depth {_depth(revision)}"
    if state.skill_weights:
        yield "weights", ", ".join(f"{skill} {weight:.3g}" for skill, weight in sorted(state.skill_weights.items()))
    yield "replay share", f"{state.replay_share:.0%}"
    yield "disk", _disk(root)
    yield "spend", _spend(root)


def _further_roles(trained: list[Sample], revision: Revision) -> Iterable[str]:
    """Say how many samples have each further role of their own, and what companion shards hold."""
    for role, count in sorted(Counter(role for sample in trained for role in sample.files).items()):
        yield f"{role} ({count} of {len(trained)} samples)"
    for name, shard in revision.companions.items():
        yield f"{', '.join(shard.roles)} ({shard.samples} samples, derived: {name})"


def _counted(words: Iterable[str]) -> str:
    """Write how often each word occurs, most frequent first."""
    return ", ".join(f"{count} {word}" for word, count in Counter(words).most_common()) or "none"


def _forks(listed: list[str]) -> int:
    """Count revisions that share their number with an earlier one."""
    return len(listed) - len({name.split("-")[0] for name in listed})


def _depth(revision: Revision) -> int:
    """Count the generations from a first ancestor to its furthest descendant (a seed alone: 0)."""
    depths: dict[str, int] = {}
    for prompt_id, entry in revision.state.entries.items():  # parents enter before their children
        parent_id = entry.prompt.parent_id
        depths[prompt_id] = depths.get(parent_id, 0) + 1 if parent_id else 0
    return max(depths.values(), default=0)


def _disk(root: Path) -> str:
    sizes = {
        name: sum(path.stat().st_size for path in (root / name).rglob("*") if path.is_file())
        for name in ("blobs", "shards", "revisions")
    }
    return ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in sizes.items())


def _spend(root: Path) -> str:
    from evolvedirector.store import Ledger

    path = root / "ledger.sqlite"
    if not path.exists():
        return "no ledger"
    ledger = Ledger(path)
    try:
        spend = ledger.spend()
    finally:
        ledger.close()
    return (
        f"{spend.teacher_calls} teacher calls, {spend.judge_calls} judge calls, {spend.lost_calls} lost,"
        f" {spend.cost_usd:.2f} USD"
    )
