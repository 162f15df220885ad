"""The command `evolvedirector assets`: obtain what is not part of the project, artwork or a trained joint space."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evolvedirector.assets.asset_error import AssetError
from evolvedirector.assets.cache import CACHE_VARIABLE, cache_folder
from evolvedirector.assets.emoji_install import install_emoji, is_installed
from evolvedirector.assets.emoji_packages import EMOJI_PACKAGES
from evolvedirector.assets.npm_package import NpmPackage
from evolvedirector.commands import joint_space


def main(args: list[str]) -> int:
    """Run `evolvedirector assets ...` and return its exit status.

    Args:
        args: The words after `assets`.
    """
    options = _parser().parse_args(args)
    if options.word == "joint-space":
        return joint_space.train(options)
    cache = cache_folder(options.folder)
    print("\n".join(_table(EMOJI_PACKAGES, cache / "emoji")))
    print(f"Into {cache / 'emoji'}\n")
    if options.tarballs is not None and not options.tarballs.is_dir():
        return _fail(f"--from {options.tarballs} is not a folder. Allowed is a folder of tarballs made by `npm pack`.")
    try:
        root = install_emoji(cache, options.tarballs, EMOJI_PACKAGES)
    except AssetError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("Interrupted. What is already in place is kept: run the same command again.", status=130)
    print(f"\nReady: {root}. Each package's licence lies beside its files; see NOTICE for the attributions.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evolvedirector assets",
        description="Obtain what is not part of the project: artwork, with your npm client, or a trained joint space.",
    )
    words = parser.add_subparsers(dest="word", required=True)
    emoji = words.add_parser(
        "emoji",
        help="captions and five emoji art styles",
        description="Obtain emoji captions and five art styles, verify checksums, keep them with their licences.",
    )
    emoji.add_argument("--folder", help=f"cache folder (else ${CACHE_VARIABLE}, else the user's own)")
    emoji.add_argument(
        "--from", dest="tarballs", type=Path, metavar="FOLDER", help="use tarballs you have in place of the npm client"
    )
    space = words.add_parser(
        "joint-space",
        help="the small joint embedding of the joint world, trained here (about 3 minutes)",
        description="Train a joint embedding of texts and drawn scenes and its decoder, and measure its gate.",
    )
    joint_space.add_words(space)
    return parser


def _table(packages: tuple[NpmPackage, ...], root: Path) -> list[str]:
    """List sizes and licences, and what of it is still to be fetched."""
    missing = [package for package in packages if not is_installed(root / package.folder_name, package)]
    rows = [
        f"{p.role:<12} {p.specifier:<38} {p.size_bytes / 1e6:>5.1f} MB  {p.license:<12}"
        f"{'' if p in missing else ' in place'}".rstrip()
        for p in packages
    ]
    total, to_fetch = (sum(package.size_bytes for package in of) / 1e6 for of in (packages, missing))
    return [*rows, f"{'in all':<12} {'':<38} {total:>5.1f} MB", f"{'to fetch':<12} {'':<38} {to_fetch:>5.1f} MB"]


def _fail(message: str, status: int = 1) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
