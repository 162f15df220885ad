"""`evolvedirector data add`, `data retire` and `data keys`: edit the newest revision of a root, and list it."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evolvedirector.store.edits import EditReport, LiveSample


def add_edit_words(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the words to the parser of `data`; each sets `edit` to the function that carries it out."""
    adding = actions.add_parser("add", help="add prompts or captioned images to a root, as a new revision")
    adding.add_argument("root", help="folder of the dataset")
    source = adding.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompts", metavar="FILE", help="a prompt file, as `data import` reads it")
    source.add_argument("--images", metavar="PATTERN", help="pictures with captions, as `data import` reads them")
    source.add_argument("--webdataset", metavar="PATTERN", help="local tars, as `data import` reads them")
    adding.add_argument("--roles", metavar="NAMES", help="further files to keep of each sample in the tars")
    adding.set_defaults(edit=add)
    retiring = actions.add_parser("retire", help="take prompts out of training, as a new revision; nothing is deleted")
    retiring.add_argument("root", help="folder of the dataset")
    retiring.add_argument("ids", nargs="*", metavar="ID", help="ids of prompts, or keys of samples (see `data keys`)")
    retiring.add_argument("--prompts", metavar="FILE", help="a prompt file: the prompts with these texts")
    retiring.add_argument("--skill", metavar="NAME", help="all prompts of a skill")
    retiring.set_defaults(edit=retire)
    freezing = actions.add_parser("export", help="write what is trained on as a frozen WebDataset with a card")
    freezing.add_argument("root", help="folder of the dataset")
    freezing.add_argument("out", help="a new folder")
    freezing.add_argument("--revision", metavar="SHA", help="another revision than the newest (its first characters)")
    freezing.add_argument("--roles", metavar="NAMES", help="further files to write of each sample: 'mask,source'")
    freezing.add_argument("--samples-per-shard", type=int, default=1000, help="samples of each tar (1000)")
    freezing.set_defaults(edit=export)
    listing = actions.add_parser("keys", help="list the samples that are trained on, one key a line")
    listing.add_argument("root", help="folder of the dataset")
    listing.add_argument("--revision", metavar="SHA", help="another revision than the newest (its first characters)")
    form = listing.add_mutually_exclusive_group()
    form.add_argument("--tsv", action="store_true", help="key, shard, prompt and more, separated by tabs, with a head")
    form.add_argument("--json", action="store_true", help="the same as a JSON list, one object a line")
    form.add_argument(
        "--left-out",
        action="store_true",
        help="what lies in the tars and is not trained on, as SHARD/KEY: exclusions for loaders that read whole tars",
    )
    listing.set_defaults(edit=keys)


def add(options: argparse.Namespace) -> int:
    """Add to a root and say what entered.

    Args:
        options: Root, one of prompts, images and webdataset, and roles.
    """
    from evolvedirector.store import DatasetStore, edits, imports
    from evolvedirector.store.dataset import check_format
    from evolvedirector.store.left_out import first_lines

    check_format(options.root)  # before anything is read
    problems: list[str] = []
    notes: list[str] = []
    if options.prompts:
        prompts = imports.read_prompt_file(options.prompts)
        with DatasetStore(options.root) as store:
            report = edits.add_prompts(store, prompts)
    else:
        roles = [role.strip() for role in (options.roles or "").split(",") if role.strip()]
        images = (
            imports.folder_images(options.images, problems)
            if options.images
            else imports.tar_images(options.webdataset, problems, roles, notes)
        )
        with DatasetStore(options.root) as store:
            report = edits.add_images(store, images, problems)
    for lines in (first_lines(report.problems), _list_of(report.problems, options.root)):
        if lines:
            print(lines, file=sys.stderr)
    if told := first_lines([*notes, *report.notes], "note"):
        print(told, file=sys.stderr)
    _print_edit(
        report,
        f"Added {report.prompts} prompts and {report.images} captioned images to '{options.root}'; brought back"
        f" {report.revived} retired prompts; left out {report.duplicates} duplicates, {report.held_out} held-out ones"
        f" and {report.unusable} unusable ones.",
    )
    return 0


def retire(options: argparse.Namespace) -> int:
    """Retire prompts and say how many.

    Args:
        options: Root, and one of ids, prompts and skill.
    """
    from evolvedirector.store import DatasetStore, edits, imports

    prompts = imports.read_prompt_file(options.prompts) if options.prompts else []
    with DatasetStore(options.root) as store:
        names: Iterable[str] = options.ids
        if options.prompts:
            names = edits.ids_of_texts(edits.newest(store), prompts)
        elif options.skill is not None:
            names = edits.ids_of_skill(edits.newest(store), options.skill)
        report = edits.retire(store, names)
    _print_edit(
        report,
        f"Retired {report.prompts} prompts with {report.images} images in '{options.root}';"
        f" {report.duplicates} were retired already.",
    )
    return 0


def export(options: argparse.Namespace) -> int:
    """Write the live set as a frozen dataset; a run may hold the root meanwhile.

    Args:
        options: Root, the new folder, revision, roles and samples per shard.
    """
    from evolvedirector.records import IMAGE_ROLE
    from evolvedirector.store import edits
    from evolvedirector.store.frozen import freeze
    from evolvedirector.store.paths import user_path

    revision = edits.revision_of(options.root, options.revision)
    further = [role.strip() for role in (options.roles or "").split(",") if role.strip()]
    out, roles = user_path(options.out), list(dict.fromkeys((IMAGE_ROLE, *further)))
    count = freeze(options.root, revision.state.revision_sha, out, roles, options.samples_per_shard)
    print(
        f"Wrote {count:,} samples of revision {revision.number} into '{out}', with a card for Hugging Face `datasets`."
    )
    return 0


def keys(options: argparse.Namespace) -> int:
    """List the samples of a revision; a run may hold the root meanwhile.

    Args:
        options: Root, revision, and the form.
    """
    from evolvedirector.store import edits

    revision = edits.revision_of(options.root, options.revision)
    if options.left_out:
        lines: Iterable[str] = edits.left_out_samples(options.root, revision)
    elif options.json:
        lines = _json_lines(edits.live_samples(revision))
    elif options.tsv:
        lines = _tsv_lines(edits.live_samples(revision))
    else:
        lines = (sample.key for sample in edits.live_samples(revision))
    _print_lines(lines)
    return 0


def _json_lines(samples: Iterable[LiveSample]) -> Iterable[str]:
    """Write a JSON list of one object a line; every text as ASCII, so that no console can damage it."""
    before = "["
    for sample in samples:
        yield before + json.dumps(sample._asdict())
        before = ","
    yield "]" if before == "," else "[]"


def _tsv_lines(samples: Iterable[LiveSample]) -> Iterable[str]:
    """Write a head and one row a sample; a field with a tab or a quote is quoted as spreadsheets do."""
    from evolvedirector.store.edits import LiveSample

    for row in (LiveSample._fields, *samples):
        line = io.StringIO()
        csv.writer(line, "excel-tab", lineterminator="").writerow(row)
        yield line.getvalue()


def _print_lines(lines: Iterable[str]) -> None:
    """Print lines for a program: what the console's encoding has not is escaped, and `| head` ends it quietly."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        for line in lines:
            print(line.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # what is left in the buffer must not complain at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _list_of(problems: list[str], root: Path) -> str:
    """Write the list of what was left out; say where it is."""
    from evolvedirector.store.left_out import write_list

    if not problems:
        return ""
    try:
        return f"All {len(problems)} are listed in '{write_list(root, problems)}'."
    except OSError as error:
        return f"The list of all {len(problems)} could not be written beside the root ({error})."


def _print_edit(report: EditReport, done: str) -> None:
    print(done)
    print(
        f"Revision {report.number} ({report.revision_sha[:12]}) is the newest now: a new run on this root reads it."
        " A run that goes on with --ckpt_path reads the revision of its checkpoint."
    )
