"""`evolvedirector data`: bring data in, edit it, and show what a dataset root holds."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from evolvedirector.commands.data_care import add_care_words
from evolvedirector.commands.data_edits import add_edit_words
from evolvedirector.commands.data_space import add_space_words
from evolvedirector.commands.recipes import with_packaged_files

if TYPE_CHECKING:
    from evolvedirector.records import Sample
    from evolvedirector.store import Revision, RevisionFiles
    from evolvedirector.store.imports import ImportReport


_READ_AT_A_URL = ("show", "diff")


def main(args: list[str]) -> int:
    """Run `data import`, `data show`, or one of the words that edit and list a root.

    Args:
        args: The words after `data`.

    Returns:
        Exit code: 0, or 1 after an error that was printed.
    """
    parser = _parser()
    options = parser.parse_args(args)
    if options.action in ("import", "add") and options.roles and not options.webdataset:
        parser.error("--roles names members of tars. It stands beside --webdataset. Leave it out, or give the tars.")
    if options.action == "retire" and sum(map(bool, (options.ids, options.prompts, options.skill is not None))) != 1:
        parser.error(
            "`data retire` needs to know what: ids, or --prompts FILE, or --skill NAME. Give one of the three."
        )
    if options.action in ("import", "add", "retire"):
        options.prompts = with_packaged_files(options.prompts)
    from evolvedirector.store import StoreError
    from evolvedirector.store.mirror import local_root
    from evolvedirector.store.objects import is_url

    if is_url(options.root) and options.action not in _READ_AT_A_URL:
        words = " and ".join(f"`data {word}`" for word in _READ_AT_A_URL)
        parser.error(f"`data {options.action}` works on the folder of a root. At a URL work {words}. Name the folder.")
    given, options.root = options.root, local_root(options.root)
    options.named = given if is_url(given) else options.root
    try:
        if options.action in ("add", "retire", "export", "keys", "verify", "diff", "push", "compact", "collect"):
            return options.edit(options)
        return _import(options) if options.action == "import" else _show(options)
    except StoreError as error:
        print(f"evolvedirector data: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="evolvedirector data", description="Import data, edit or show a dataset.")
    actions = parser.add_subparsers(dest="action", required=True)
    importing = actions.add_parser("import", help="make revision 1 of a new dataset root from your own data")
    importing.add_argument("root", help="folder of the new dataset")
    source = importing.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--prompts",
        metavar="FILE",
        help="prompts as .txt (one per line), .jsonl, .json, .csv, .tsv or .yaml with `prompt` and optionally `skill`; "
        "images are bought in rounds",
    )
    source.add_argument(
        "--images",
        metavar="PATTERN",
        help="pictures with a caption in the .txt or .json of the same name, such as 'dir/**'",
    )
    source.add_argument(
        "--webdataset", metavar="PATTERN", help="local WebDataset tars with captions, such as 'x-{000..009}.tar'"
    )
    importing.add_argument(
        "--roles",
        metavar="NAMES",
        help="further files to keep of each sample in the tars: 'mask,edge?' for KEY.mask.png and, of the samples that "
        "have it, KEY.edge.png",
    )
    add_edit_words(actions)
    add_care_words(actions)
    add_space_words(actions)
    showing = actions.add_parser("show", help="print what a dataset root holds and what it cost")
    showing.add_argument("root", help="folder of the dataset")
    showing.add_argument("--revision", metavar="SHA", help="another revision than the newest (its first characters)")
    return parser


def _import(options: argparse.Namespace) -> int:
    from evolvedirector.store import StoreError, imports

    root = options.root
    problems: list[str] = []
    notes: list[str] = []
    # what is named is looked for before the root is made, so that a slip leaves nothing behind
    prompts = imports.read_prompt_file(options.prompts) if options.prompts else []
    if options.images:
        images = imports.folder_images(options.images, problems)
    elif options.webdataset:
        roles = [role.strip() for role in (options.roles or "").split(",") if role.strip()]
        images = imports.tar_images(options.webdataset, problems, roles, notes)
    try:
        with imports.new_root(root) as store:
            if options.prompts:
                report = imports.import_prompts(store, prompts)
            else:
                report = imports.import_images(store, images, problems)
    except StoreError as error:
        if not problems:
            raise
        raise StoreError(f"{error}\n{_list_of(problems, root)}") from error
    _print_import(report, notes, root)
    return 0


def _print_import(report: ImportReport, notes: list[str], root: Path) -> None:
    from evolvedirector.store.left_out import first_lines

    listed = (
        first_lines(report.problems),
        _list_of(report.problems, root),
        first_lines([*notes, *report.notes], "note"),
    )
    for lines in filter(None, listed):
        print(lines, file=sys.stderr)
    unusable = len(report.problems) - (report.duplicates if report.images else 0)
    print(
        f"Imported {report.prompts} prompts and {report.images} captioned images into '{root}' as revision"
        f" {report.revision_sha[:12]}; left out {report.duplicates} duplicates and {unusable} unusable ones."
    )


def _list_of(problems: list[str], root: Path) -> str:
    """Write the list of what was left out; say where it is."""
    from evolvedirector.store.left_out import write_list

    try:
        path = write_list(root, problems)
    except OSError as error:
        return f"The list of all {len(problems)} could not be written beside the root ({error})."
    return f"All {len(problems)} are listed in '{path}'." if problems else ""


def _show(options: argparse.Namespace) -> int:
    from rich.table import Table

    from evolvedirector.commands.console import plain_console
    from evolvedirector.store import RevisionFiles, StoreError
    from evolvedirector.store.dataset import check_format

    check_format(options.root)
    files = RevisionFiles(options.root)
    newest = files.current()
    if newest is None:
        raise StoreError(f"The dataset root '{options.named}' has no revision yet. Import something into it first.")
    sha = files.resolve(options.revision) if options.revision else newest
    revision = files.load(sha)
    table = Table(title=f"{options.named}: revision {revision.number} ({sha[:12]})", show_header=False, title_style="")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(options.root, revision, files, newest):
        table.add_row(name, value)
    plain_console().print(table, soft_wrap=not sys.stdout.isatty())
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
    if state.sample_weights:
        low, high = min(state.sample_weights.values()), max(state.sample_weights.values())
        yield "sample weights", f"{len(state.sample_weights)} samples, {low:.3g} to {high:.3g}"
    yield "replay share", f"{state.replay_share:.0%}"
    yield "disk", _disk(root)
    yield "spend", _spend(root)
    yield from _no_answers(root)


def _further_roles(trained: list[Sample], revision: Revision) -> Iterable[str]:
    """Say how many samples have each further role of their own, and what companion shards hold."""
    for role, count in sorted(Counter(role for sample in trained for role in sample.files).items()):
        yield f"{role} ({count} of {len(trained)} samples)"
    for name, shard in revision.companions.items():
        made_by = f" by {shard.made_by}" if shard.made_by else ""
        yield f"{', '.join(shard.roles)} ({shard.samples} samples, derived{made_by}: {name})"


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


def _no_answers(root: Path) -> Iterable[tuple[str, str]]:
    """Say who gave no answer that could be used, how often, and why in its own words."""
    from evolvedirector.store import Ledger
    from evolvedirector.store.ledger.faults import told_faults

    if (root / "ledger.sqlite").exists():
        with Ledger.for_reading(root / "ledger.sqlite") as ledger:
            faults = ledger.faults.of()
        for part in dict.fromkeys(fault.part for fault in faults):
            yield "no answer", told_faults([fault for fault in faults if fault.part == part])


def _spend(root: Path) -> str:
    from evolvedirector.store import Ledger

    path = root / "ledger.sqlite"
    if not path.exists():
        return "no ledger"
    ledger = Ledger.for_reading(path)
    try:
        spend = ledger.spend()
    finally:
        ledger.close()
    return (
        f"{spend.teacher_calls} teacher calls, {spend.judge_calls} judge calls, {spend.lost_calls} lost,"
        f" {spend.cost_usd:.2f} USD"
    )
