"""`evolvedirector probe`: look at what a student cannot draw, without teachers and without training."""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from rich.table import Table

from evolvedirector.callbacks._run.held_out import evolution_plans, size_px_of
from evolvedirector.callbacks._run.round_driver import RoundDriver
from evolvedirector.callbacks.checkpoint import latest_committed
from evolvedirector.commands.chosen_checkpoint import choose_checkpoint
from evolvedirector.commands.console import plain_console, readable_console
from evolvedirector.commands.readable_errors import print_paragraph
from evolvedirector.commands.trained_student import StudentOfRun, with_weights
from evolvedirector.errors import UserError
from evolvedirector.evolution import ImageGenerator
from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.probing.plan import ProbeSettings
from evolvedirector.evolution.probing.run import run_probe
from evolvedirector.evolution.round_id import gold_name
from evolvedirector.evolution.round_parts import Round
from evolvedirector.execution.signals import EndBySignal, run_until_signal
from evolvedirector.planning.preflight import problems_of, told
from evolvedirector.planning.roles import EvolutionPlan, HasRoot, HasSeeds, HoldsOut, StartsTrained
from evolvedirector.planning.spending import check_prices, with_look_price
from evolvedirector.policies.screening.policy import ScreeningPolicy
from evolvedirector.records import Prompt, RoundInfo, digest
from evolvedirector.records.part import Part, price_of
from evolvedirector.report.build import write_page
from evolvedirector.report.probe import failed_lines, probe_figures, probe_page, sentences, table_rows
from evolvedirector.store.dataset import create_root
from evolvedirector.store.durable import write_durably
from evolvedirector.store.paths import user_path
from evolvedirector.store.prompt_files import read_prompts
from evolvedirector.store.revision import RevisionFiles

FOLDER = "probe"
"""In the run folder: the page, figures and prompts, and below it the ledger and images of all its probes."""


def main(args: list[str]) -> int | None:
    """Look at a student; the words beside the probe's own are those of `evolvedirector fit`.

    Args:
        args: The words after `probe`.

    Returns:
        Exit code: 0; 1 where the writer or the judge gave no answers on the way.

    Raises:
        ValueError: Something in the config cannot work; the message says what and what to write.
        evolvedirector.errors.RunError: The judge cannot be read or trusted.
    """
    options, further = _parser().parse_known_args(args)
    if not any(word.partition("=")[0] in ("-c", "--config", "--model") for word in further):
        raise UserError(
            "No config is given. Allowed is that of a run, whose student, writer and judge are probed. Write "
            "`evolvedirector probe -c configs/quickstart.yaml`, say."
        )
    settings = ProbeSettings(options.looks, options.usd, options.within, tuple(options.skills or ()), options.seed)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    outcome: list[int] = []

    def run(ending: EndBySignal) -> None:
        outcome.append(_probe(StudentOfRun(["fit", *further], [ending]), settings, options))

    with readable_console():
        return run_until_signal(run, ["probe", *args]) or next(iter(outcome), 0)


@dataclass(frozen=True)
class _Asked:
    """Who is asked in a probe: verified before anything is spent, and nobody else."""

    judge: Part
    writer: Part

    def parts(self) -> Mapping[str, Part]:
        """Name them by their place."""
        return {"judge": self.judge, "writer": self.writer}


@dataclass(frozen=True, slots=True)
class _Weights:
    """What the student is loaded from: a checkpoint, or nothing beside what the config names."""

    checkpoint: str | None
    name: str


def _probe(run: StudentOfRun, settings: ProbeSettings, options: argparse.Namespace) -> int:
    trainer, module = run.trainer, run.model
    plan = _plan_of(run)
    budget = with_look_price(Budget(budget_cost_usd=settings.cost_usd), plan.settings.judge)
    budget = replace(budget, price_per_look_usd=plan.settings.budget.price_per_look_usd or budget.price_per_look_usd)
    plan = replace(plan, settings=replace(plan.settings, teachers={}, rewards={}, budget=budget))
    problems = problems_of([_Asked(plan.settings.judge, plan.settings.writer)], (module,))
    if problems:
        raise UserError(told(problems).replace("keep this run from starting", "keep this probe from starting"))
    check_prices(budget, {}, plan.settings.judge)
    if settings.cost_usd is not None and price_of(plan.settings.writer) is None:
        raise UserError(
            f"--usd is {settings.cost_usd:g}, but the price of a reply of {type(plan.settings.writer).__name__} is "
            "unknown, so the limit could not be kept. Every part needs a price where money is limited. Write "
            "`cost_usd_per_reply: 0.001` in its completer with your provider's price, or leave --usd out."
        )
    weights = _weights_of(run, options.untrained)
    settings = settings if settings.skills else replace(settings, skills=_skills_of(plan))
    if _is_first():
        print(f"Probing {type(module).__name__} with {weights.name}. {cost_line(settings, plan)}", flush=True)
    if options.plan:
        return 0
    folder = Path(trainer.default_root_dir) / FOLDER
    failed: list[str] = []

    def look(trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            create_root(folder / "store")
        driver = RoundDriver(plan, folder / "store", trainer, module)
        revision_sha = _revision_of(run)
        student = [type(module).__name__, weights.name, repr(run.config[run.subcommand].get("model"))]
        name = digest(
            "probe-1", settings.seed, *settings.skills, revision_sha, *student,
            plan.settings.judge.fingerprint, plan.settings.writer.fingerprint, gold_name(plan.settings.judge_health),
        )  # fmt: skip
        info = RoundInfo(name, 0, 1, settings.seed, trainer.global_step, revision_sha)
        try:
            failed.append(driver.carry(lambda round: _look(round, run, settings, weights, folder), info, FOLDER))
        finally:
            driver.close()

    with_weights(run, weights.checkpoint, look)
    if _is_first():
        _show(folder, failed[0])
    return 1 if failed[0] else 0


def _look(round: Round, run: StudentOfRun, settings: ProbeSettings, weights: _Weights, folder: Path) -> str:
    """Look, and write what came out; returns what kept it from going on. On rank 0 alone."""
    data = run.datamodule
    held_out = list(data.held_out_prompts()) if isinstance(data, HoldsOut) else []
    seeds: list[Prompt] = list(read_prompts(data.seeds)) if isinstance(data, HasSeeds) and data.seeds else []
    round.parts.ledger.prompts.hold_out([prompt.id for prompt in held_out])
    known = _known_ids(run)
    outcome = run_probe(round, settings, seeds or held_out, known, lambda line: print(f"  {line}", flush=True))
    round.parts.executor.enter("train")
    student = f"{type(run.model).__name__} with {weights.name}"
    figures = probe_figures(outcome, student, round.parts.judge_fingerprint)
    write_durably(folder / "probe.json", (json.dumps(figures, indent=1) + "\n").encode())
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in failed_lines(figures))
    write_durably(folder / "failed.jsonl", lines.encode())
    config = run.config[run.subcommand].as_dict()
    page = probe_page(figures, round.parts.store.blobs, config, Path(run.trainer.default_root_dir).name)
    write_page(folder / "index.html", page)
    return outcome.problem


def cost_line(settings: ProbeSettings, plan: EvolutionPlan) -> str:
    """Say what a probe may cost at most.

    Args:
        settings: Of the probe.
        plan: Names judge and writer.
    """
    judge, writer = plan.settings.judge, price_of(plan.settings.writer)
    price = plan.settings.budget.price_per_look_usd or price_of(judge)
    looks = f"At most {settings.looks:,} looks"
    if price is None:
        looks += ", price of a look unknown: set its cost_usd_per_look"
    elif price:
        looks += f" x {price:.4g} USD = {settings.looks * price:,.2f} USD"
    replies = {None: ", of unknown price", 0.0: ""}.get(writer, f" x {writer} USD")
    limit = "" if settings.cost_usd is None else f" It ends at {settings.cost_usd:,.2f} USD."
    return f"{looks}; about {settings.looks // 4:,} replies of the writer at most{replies}; no teacher.{limit}"


def _plan_of(run: StudentOfRun) -> EvolutionPlan:
    """Find writer and judge in the callback that evolves the data; its teachers are left alone.

    Raises:
        UserError: There is none, the module cannot draw, or the size of its images is unknown.
    """
    plans = evolution_plans(run.configured)
    if not plans:
        raise UserError(
            "This config has no callback that evolves data, so it names no writer and no judge. A probe needs both. "
            "Add an EvolutionCallback with `writer`, `judge` and any teacher; a probe asks no teacher."
        )
    if not isinstance(run.model, ImageGenerator):
        raise UserError(
            f"{type(run.model).__name__} has no `generate`, so nothing of it can be looked at. It needs `def "
            "generate(self, requests: Sequence[ImageRequest]) -> list[Tensor]`. Add it, or use "
            "evolvedirector.lightning_modules.TextToImage."
        )
    size = plans[0].image_size_px or size_px_of(run.model) or size_px_of(run.datamodule)
    if size is None:
        raise UserError(
            f"The size of the images is unknown: {type(run.model).__name__} has no `image_size_px`. It is a number of "
            "pixels. Write `image_size_px: 512`, say, in EvolutionCallback."
        )
    return replace(plans[0], image_size_px=size)


def _weights_of(run: StudentOfRun, untrained: bool) -> _Weights:
    """Choose the weights: the checkpoint that is named, else the newest of the run folder, else pretrained ones.

    Raises:
        UserError: There are none, and nobody asked for a student without training.
    """
    folder, named = Path(run.trainer.default_root_dir), run.config[run.subcommand].get("ckpt_path")
    module: LightningModule = run.model
    if named == "last":
        named = choose_checkpoint("last", folder, FOLDER)
    found = user_path(str(named)) if named else None if untrained else latest_committed(folder)
    if found is not None:
        return _Weights(
            str(found), f"the weights of {found.absolute().parent.name}/{found.name} ({_content_of(found)})"
        )
    start = module.starts_from() if isinstance(module, StartsTrained) else None
    if start is not None:
        return _Weights(None, f"the pretrained weights {start}")
    if untrained:
        return _Weights(None, "the weights it is built with")
    raise UserError(
        f"The student is untrained: {folder} holds no finished checkpoint, and {type(module).__name__} names no "
        "pretrained weights. Allowed is a checkpoint, a run folder with one, or pretrained weights in the model. Write "
        "`--ckpt_path FILE`, or `--untrained` to look at the weights it is built with."
    )


def _content_of(checkpoint: Path) -> str:
    """Name the content of a checkpoint without reading it: a file, or the files of a sharded one."""
    if not checkpoint.exists():
        raise UserError(
            f"The checkpoint '{checkpoint}' does not exist. Allowed is a file, or the folder of a sharded one. Write "
            "`--ckpt_path last` for the newest of the run folder."
        )
    files = sorted(path for path in (checkpoint.rglob("*") if checkpoint.is_dir() else [checkpoint]) if path.is_file())
    stats = [(path.name, path.stat()) for path in files]
    return digest(*(part for name, stat in stats for part in (name, stat.st_size, stat.st_mtime_ns)), length=8)


def _skills_of(plan: EvolutionPlan) -> tuple[str, ...]:
    """Return the skills that the policy spreads its candidates over; none where the writer chooses them."""
    policy = plan.settings.policy
    return tuple(policy.skills or ()) if isinstance(policy, ScreeningPolicy) else ()


def _revision_of(run: StudentOfRun) -> str:
    """Name the newest revision of the run's dataset; empty where there is none yet."""
    return (
        (RevisionFiles(Path(run.datamodule.data_root)).current() or "") if isinstance(run.datamodule, HasRoot) else ""
    )


def _known_ids(run: StudentOfRun) -> set[str]:
    """Return the ids of the prompts that the student may have been trained on; the root is only read."""
    sha = _revision_of(run)
    return set(RevisionFiles(Path(run.datamodule.data_root)).load(sha).state.entries) if sha else set()


def _is_first() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"


def _show(folder: Path, problem: str) -> None:
    """Print the words and skills, and where everything is."""
    figures = json.loads((folder / "probe.json").read_text("utf-8"))
    table = Table(box=None, pad_edge=False)
    for name in ("", "prompts", "fail", "than without", "p", ""):
        table.add_column(name)
    for row in table_rows(figures):
        table.add_row(*row)
    plain_console(None if os.isatty(1) else 160).print(table)
    for sentence in sentences(figures):
        print(sentence)
    print(f"Page: {folder / 'index.html'}\nFigures: {folder / 'probe.json'}", flush=True)
    if figures["failing"]:
        print(f"Prompts to begin a run with: evolvedirector data import ROOT --prompts {folder / 'failed.jsonl'}")
    if problem:
        print_paragraph(problem)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evolvedirector probe",
        allow_abbrev=False,
        description="Look at what a student cannot draw: writer, student and judge of a run's config, no teacher, no "
        "training. Writes a page, figures and the failing prompts into <default_root_dir>/probe.",
        epilog="All other options are those of fit: -c FILE, --ckpt_path FILE or last, --trainer.default_root_dir ...",
    )
    parser.add_argument("--looks", type=int, default=600, help="looks at most, the judge's check included (600)")
    parser.add_argument("--usd", type=float, help="US dollars at most, for looks and the writer's replies")
    parser.add_argument(
        "--within", type=float, default=0.1, help="end when every share is known within this much (0.1; 0: never)"
    )
    parser.add_argument("--skills", nargs="+", metavar="SKILL", help="ask for texts of these skills alone")
    parser.add_argument("--seed", type=int, default=0, help="root of every draw (0)")
    parser.add_argument("--untrained", action="store_true", help="look at the weights that the student is built with")
    parser.add_argument("--plan", action="store_true", help="say what it would cost, and end")
    return parser
