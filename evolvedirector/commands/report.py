"""`evolvedirector report`: write the page of a run, compare runs on one page, or watch a run while it goes on."""

from __future__ import annotations

import argparse
from pathlib import Path

from evolvedirector.errors import UserError


def main(args: list[str]) -> int:
    """Write or serve reports.

    Args:
        args: The words after `report`.

    Returns:
        Exit code: 0.

    Raises:
        UserError: A folder is none of a run, or the options do not fit together.
    """
    options = _parser().parse_args(args)
    from evolvedirector.report.run_folder import RunFolder
    from evolvedirector.store.paths import user_path

    data = None if options.data is None else user_path(options.data)
    options.output = None if options.output is None else user_path(options.output)

    if options.data is not None and len(options.runs) > 1:
        raise UserError(
            f"--data names one dataset root, but {len(options.runs)} runs are given. Allowed: one run with --data. "
            "Leave it out, and each run's own config.yaml names its root."
        )
    runs = [RunFolder.open(user_path(path), data) for path in options.runs]
    if options.watch:
        return _watch(runs, options)
    return _write(runs, options.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evolvedirector report",
        description="Write report/index.html into a run folder: one page that opens from disk and can be passed on. "
        "With several runs, a page that compares them is written too.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, say runs/quickstart")
    parser.add_argument("-o", "--output", metavar="FILE", help="another file for the page, or the comparison")
    parser.add_argument("--data", metavar="ROOT", help="dataset root of the run, if it lies elsewhere")
    parser.add_argument(
        "--watch", action="store_true", help="serve the page on this machine and refresh it as RUN goes on"
    )
    parser.add_argument("--port", type=int, default=0, help="port of --watch (default: any that is free)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser with --watch")
    return parser


def _write(runs: list, output: Path | None) -> int:
    from evolvedirector.report.build import build_comparison, build_report, write_page
    from evolvedirector.report.compare import MAX_RUNS

    if len(runs) > MAX_RUNS:
        raise UserError(f"{len(runs)} runs are given. Allowed: 1 to {MAX_RUNS}. Name fewer run folders.")
    for run in runs:
        path = output if output is not None and len(runs) == 1 else run.path / "report" / "index.html"
        page = build_report(run)
        try:
            write_page(path, page)
        except OSError as error:
            if output is not None:
                raise
            raise UserError(
                f"The page '{path}' cannot be written: {error.strerror}. A page goes into its run folder, or into a"
                " file of your choice. Name one with `-o report.html`."
            ) from error
        print(f"Report: {path}", flush=True)
    if len(runs) > 1:
        path = output or runs[0].path.resolve().parent / "comparison.html"
        write_page(path, build_comparison(runs))
        print(f"Comparison: {path}", flush=True)
    return 0


def _watch(runs: list, options: argparse.Namespace) -> int:
    from evolvedirector.report.live import watch

    if len(runs) != 1 or options.output is not None:
        raise UserError(
            f"--watch serves the page of one run, not {len(runs)} runs and no --output file. Write "
            "`evolvedirector report --watch runs/quickstart`, say."
        )
    if not 0 <= options.port <= 65535:
        raise UserError(f"--port is {options.port}. Allowed: 0 (any free port) to 65535. Write `--port 8000`, say.")
    return watch(runs[0], options.port, open_browser=not options.no_browser)
