"""The command `evolvedirector assets joint-space`: train the joint embedding of the joint world and its decoder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DEFAULT_FOLDER = Path("runs/joint-space")


def add_words(parser: argparse.ArgumentParser) -> None:
    """Describe the words of the command.

    Args:
        parser: Takes them.
    """
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help=f"where it is written ({DEFAULT_FOLDER})")
    parser.add_argument("--seed", type=int, default=0, help="of weights, scenes and pictures (0)")
    parser.add_argument("--replace", action="store_true", help="train it anew where there is one")


def train(options: argparse.Namespace) -> int:
    """Train the space unless it is there, and return the exit status: 1 below the gate.

    Args:
        options: What `add_words` describes.
    """
    from evolvedirector.lightning_modules import MiniLMEncoder
    from evolvedirector.worlds.joint.space_files import SPACE_FILE, read_record, save_space
    from evolvedirector.worlds.joint.training import GATE, SpaceSettings, train_space

    if (options.folder / SPACE_FILE).exists() and not options.replace:
        record = read_record(options.folder)
        print(f"{options.folder} is in place: gate {record.gate:.3f}, seed {record.seed}.")
    else:
        networks, record = train_space(
            MiniLMEncoder(layer=2), SpaceSettings(seed=options.seed), lambda line: print(line, flush=True)
        )
        save_space(options.folder, networks, record)
        print(f"Ready: {options.folder}.")
    if record.gate < GATE:
        print(
            f"error: only {record.gate:.3f} of withheld scenes are read right from their true embeddings. Allowed is "
            f"{GATE} or more: below it no figure about a prior means anything. Train it anew with another --seed.",
            file=sys.stderr,
        )
        return 1
    return 0
