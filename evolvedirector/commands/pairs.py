"""`evolvedirector pairs`: build subject pairs into a dataset root, look at them, export them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evolvedirector.commands.part_files import build_part
from evolvedirector.commands.recipes import with_packaged_files
from evolvedirector.errors import UserError
from evolvedirector.models.part_files import read_part
from evolvedirector.store.paths import user_path


def main(args: list[str]) -> int:
    """Run `pairs build`, `pairs show` or `pairs export`.

    Args:
        args: The words after `pairs`.

    Returns:
        Exit code: 0, or 1 after an error that was printed, or where no pair was kept.

    Raises:
        ValueError: The builder's file does not fit, or nothing can be built.
        RuntimeError: A stage refuses everything.
    """
    options = _parser().parse_args(args)
    from evolvedirector.store import StoreError

    options.root = user_path(options.root)
    try:
        return {"build": _build, "show": _show, "export": _export}[options.action](options)
    except StoreError as error:
        print(f"evolvedirector pairs: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evolvedirector pairs",
        description="Make pairs of a reference and a picture of the same subject in which something has changed.",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    building = actions.add_parser("build", help="make what is missing; the same command goes on after a break")
    building.add_argument("root", help="folder of the dataset; made where there is none")
    building.add_argument(
        "--builder", required=True, metavar="FILE", help=".yaml with class_path and init_args of the pair builder"
    )
    showing = actions.add_parser("show", help="print what was made and what it cost, and draw pairs side by side")
    showing.add_argument("root", help="folder of the dataset")
    showing.add_argument("--out", metavar="FILE", default=None, help="picture to write (.png); else figures alone")
    showing.add_argument("--pairs", type=int, default=24, help="pairs in the picture at most")
    showing.add_argument("--rejected", action="store_true", help="show rejected pairs in place of kept ones")
    showing.add_argument("--cause", default=None, help="of these, the ones rejected for this cause")
    exporting = actions.add_parser("export", help="write kept pairs as WebDataset tars with a dataset card")
    exporting.add_argument("root", help="folder of the dataset")
    exporting.add_argument("out", help="new folder; pairs for generation and for editing get one each in it")
    exporting.add_argument("--samples-per-shard", type=int, default=1000, help="samples of each tar but the last")
    return parser


def _build(options: argparse.Namespace) -> int:
    from evolvedirector.pairs import SubjectPairBuilder
    from evolvedirector.pairs.pair_book import PairBook
    from evolvedirector.store import DatasetStore

    path = user_path(with_packaged_files(options.builder))
    builder = build_part(read_part(path, "builder"), SubjectPairBuilder, "builder", str(path))
    with DatasetStore(options.root, create=True) as store:
        figures = builder.build(store, note=lambda line: print(line, flush=True))
    print("\n".join(figures.lines()))
    if sum(figures.kept.values()) == 0 and figures.rejected:
        cause = max(figures.rejected, key=lambda cause: figures.rejected[cause])
        with PairBook.for_reading(options.root) as book:
            reason = book.pairs("rejected", cause, limit=1)[0].body["reason"].rstrip(".")
        print(
            f"evolvedirector pairs: No pair was kept. Most were rejected for '{cause}': {reason}. Look at them with"
            " `evolvedirector pairs show ROOT --rejected --out rejected.png`, then change the subjects, the stage or"
            " the thresholds.",
            file=sys.stderr,
        )
        return 1
    return 0


def _show(options: argparse.Namespace) -> int:
    from evolvedirector.pairs.pair_book import PairBook
    from evolvedirector.pairs.pair_figures import PairFigures
    from evolvedirector.pairs.pair_grid import pair_grid
    from evolvedirector.store import Blobs

    if not 1 <= options.pairs <= 200:
        raise UserError(f"--pairs is {options.pairs}. Allowed are 1 to 200 in one picture. Write `--pairs 24`.")
    with PairBook.for_reading(options.root) as book:
        figures = PairFigures.of(book.counts(), book.spend())
        status = "rejected" if options.rejected or options.cause else "kept"
        rows = book.pairs(status, options.cause, limit=options.pairs)
    print("\n".join(figures.lines()))
    if options.out is not None:
        out = user_path(options.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(pair_grid(rows, Blobs(options.root)))
        print(f"{len(rows)} {status} pairs: {out}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from evolvedirector.pairs.pair_export import export_pairs

    out = Path(user_path(options.out))
    for use, count in export_pairs(options.root, out, options.samples_per_shard).items():
        print(f"Wrote {count:,} pairs for {use} into '{out / use}', with a card for Hugging Face `datasets`.")
    return 0
