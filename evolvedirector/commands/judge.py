"""`evolvedirector judge`: measure judges on images with known answers, and correct one by what it said."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.table import Table

from evolvedirector.commands.console import plain_console
from evolvedirector.commands.part_files import build_part
from evolvedirector.errors import UserError
from evolvedirector.models.part_files import read_part
from evolvedirector.store.paths import user_path

if TYPE_CHECKING:
    from evolvedirector.evaluation.judge_trial import Trial
    from evolvedirector.records import GoldItem

MAX_JUDGES = 6
"""As many as the picture has colours."""
_NUMBERS = (
    ("unreadable", "unreadable", "{:.0%}"),
    ("brier", "Brier score (0 best, 0.25 a coin)", "{:.3f}"),
    ("calibration_error", "said and true differ by", "{:.0%}"),
    ("looks", "looks", "{:,}"),
    ("seconds_per_look", "seconds per look, loading included", "{:.3g}"),
    ("cost_usd_per_1000_looks", "USD per 1,000 looks", "{:,.2f}"),
)


def main(args: list[str]) -> int:
    """Measure one judge and correct it, or compare several.

    Args:
        args: The words after `judge`.

    Returns:
        Exit code: 0.

    Raises:
        ValueError: A file does not fit, or a judge cannot be built, used or corrected.
    """
    options = _parser().parse_args(args)
    options.gold, options.out = user_path(options.gold), user_path(options.out)
    files = [user_path(file) for file in ([options.judge] if options.action == "calibrate" else options.judges)]
    names = _names(files)
    contents = {name: read_part(path, "judge") for name, path in names.items()}
    items = _gold(options)
    trials = _try_all(names, contents, items, options.pairs)
    if options.action == "calibrate":
        name = next(iter(names))
        return _calibrate(name, contents[name], trials[name], options.out)
    return _write(trials, options.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evolvedirector judge",
        description="Ask judges about images with known answers: agreement, bias of place, consistency, time and cost.",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    calibrating = actions.add_parser("calibrate", help="measure one judge and write a corrected one as YAML")
    calibrating.add_argument("judge", metavar="JUDGE.yaml", help="class_path and init_args of the judge")
    comparing = actions.add_parser("compare", help="measure several judges side by side")
    comparing.add_argument("judges", nargs="+", metavar="JUDGE.yaml", help="one file per judge")
    for action in (calibrating, comparing):
        action.add_argument(
            "--gold", required=True, metavar="FILE",
            help=".jsonl with image, prompt and shows per line, or a .yaml with class_path of a gold source",
        )  # fmt: skip
        action.add_argument("--out", default="judges", metavar="FOLDER", help="folder for figures and picture")
        action.add_argument("--items", type=int, default=200, help="images at most (one look each)")
        action.add_argument("--pairs", type=int, default=50, help="pairs at most (two looks each)")
    return parser


def _names(files: Sequence[Path]) -> dict[str, Path]:
    """Name each judge by its file, with its folder where two files have one name."""
    if len(files) > MAX_JUDGES:
        raise UserError(f"{len(files)} judges are given. Allowed: 1 to {MAX_JUDGES}. Name fewer files.")
    stems = [path.stem for path in files]
    names = [path.stem if stems.count(path.stem) == 1 else str(path) for path in files]
    if len(set(names)) < len(names):
        raise UserError(f"'{max(names, key=names.count)}' is named twice. Allowed: each judge once. Leave one out.")
    return dict(zip(names, files, strict=True))


def _gold(options: argparse.Namespace) -> list[GoldItem]:
    from evolvedirector.judges.health.gold import GoldSource, check_gold
    from evolvedirector.judges.health.gold_file import GoldFile
    from evolvedirector.records import seed_of

    for name, value, least in (("--items", options.items, 2), ("--pairs", options.pairs, 0)):
        if value < least:
            raise UserError(f"{name} is {value}. Allowed: {least} or more. Write `{name} 50`, say.")
    if options.gold.suffix.lower() in (".yaml", ".yml"):
        source = build_part(read_part(options.gold, "gold"), GoldSource, "gold", str(options.gold))
    else:
        source = GoldFile(str(options.gold))
    items = sorted(source.items(), key=lambda item: seed_of("trial", item.item_id))
    # as many of each answer as there are: a set cut short must not lose one of them
    chosen = [item for shows in (True, False) for item in [i for i in items if i.shows == shows][: options.items // 2]]
    check_gold(chosen)
    return chosen


def _try_all(
    names: Mapping[str, Path], contents: Mapping[str, dict[str, Any]], items: Sequence[GoldItem], most_pairs: int
) -> dict[str, Trial]:
    from evolvedirector.evaluation.judge_trial import gold_pairs, try_judge
    from evolvedirector.judges.judge import Judge
    from evolvedirector.records.part import verify_parts

    pairs = gold_pairs(items, most_pairs)
    judges = {name: build_part(contents[name], Judge, "judge", str(path)) for name, path in names.items()}
    verify_parts(*judges.values())  # before any is asked: the second may be the one that cannot work
    trials = {}
    for name, judge in judges.items():
        print(f"Asking {name}: {len(items)} images, {len(pairs)} pairs in both orders ...", flush=True)
        trials[name] = try_judge(judge, items, pairs, time.perf_counter)
    return trials


def _calibrate(name: str, content: dict[str, Any], trial: Trial, folder: Path) -> int:
    from evolvedirector.evaluation.judge_trial import corrected_trial, fit_trial

    single, pair = fit_trial(trial)
    corrected = {
        "class_path": "evolvedirector.judges.CalibratedJudge",
        "init_args": {
            "judge": content,
            "temperature": round(single.temperature, 4),
            "shift": round(single.shift, 4),
            "pair_temperature": round(pair.temperature, 4),
            "first_shift": round(pair.shift, 4),
        },
    }
    _write({name: trial, f"{name}, corrected": corrected_trial(trial, single, pair)}, folder)
    path = folder / "calibrated.yaml"
    path.write_text(yaml.safe_dump(corrected, sort_keys=False, allow_unicode=True), encoding="utf-8")
    print(f"Corrected judge: {path} (its figures above are of the answers it was fitted to)", flush=True)
    return 0


def _write(trials: Mapping[str, Trial], folder: Path) -> int:
    from evolvedirector.evaluation.judge_picture import judge_picture
    from evolvedirector.evaluation.judge_trial import trial_figures

    figures = {name: trial_figures(trial) for name, trial in trials.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "judges.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (folder / "judges.png").write_bytes(judge_picture(figures))
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in figures:
        table.add_column(name, justify="right")
    for row in table_rows(figures):
        table.add_row(*row)
    plain_console(None if os.isatty(1) else 160).print(table)
    print(f"Figures: {folder / 'judges.json'}\nPicture: {folder / 'judges.png'}", flush=True)
    return 0


def table_rows(figures: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows of the table: a name, then one cell per judge; `-` where nothing was measured.

    Args:
        figures: What `trial_figures` returned, by name of the judge.
    """
    from evolvedirector.evaluation.judge_picture import MEASURES

    rows = [[words, *(_share(judge[key]) for judge in figures.values())] for key, words in MEASURES]
    for key, words, form in _NUMBERS:
        rows.append([words, *("-" if judge[key] is None else form.format(judge[key]) for judge in figures.values())])
    return rows


def _share(share: Mapping[str, Any] | None) -> str:
    if share is None:
        return "-"
    low, high = share["interval"]
    return f"{share['value']:.0%} [{low:.0%}, {high:.0%}] of {share['of']}"
