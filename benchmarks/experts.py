"""Measure experts as the shipped recipes train them: VersaT2I by aspect, SELMA by skill from five sources of images.

Each seed has a base of its own (configs/experiment/expert_base.yaml), from which every run of that seed begins. Of the
recipes only seeds change, and for SELMA the source: who draws the images of the written prompts.

Run: python -m benchmarks.experts [--recipes versat2i,selma] [--sources exact,self] [--work FOLDER]
Seeds 0, 1 and 2 were fixed before the first run. Finished runs are written to benchmarks/results/experts.json, and an
interrupted run goes on; `--report` prints the tables of what is there and names what was not run.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.data_efficiency import load
from benchmarks.expert_tables import report

RESULTS = Path(__file__).parent / "results" / "experts.json"
WORK = Path("runs/benchmark-experts")
CONFIGS = Path(__file__).parents[1] / "configs"
SEEDS = (0, 1, 2)
WEAKER_STEPS = 360
"""Of a second base that draws for the first one: two thirds of its steps."""
SHAPES = "evolvedirector.worlds.shapes"
SELF = {"class_path": "evolvedirector.teachers.SelfTeacher", "init_args": {"source": "runs/expert-base/export"}}
WEAKER = {"class_path": "evolvedirector.teachers.SelfTeacher", "init_args": {"source": "runs/expert-weaker/export"}}
MISTAKES = {"miscount": 0.3, "swap_colours": 0.3, "confuse_relations": 0.3}
SOURCES: dict[str, dict[str, Any] | None] = {
    "exact": None,
    "self": {"teacher": SELF},
    "self, filtered": {"teacher": SELF, "check_teacher": True},
    "weaker": {"teacher": WEAKER},
    "imperfect": {"mistakes": MISTAKES},
}
"""Who draws for SELMA: the recipe's exact artist, or another one."""


def recipe_of(name: str, source: str, seed: int) -> dict[str, Any]:
    """Return the recipe of one run: the shipped one with another seed and another source of images.

    Args:
        name: `versat2i` or `selma`.
        source: One of `SOURCES`; VersaT2I has the student itself.
        seed: Added to every seed.
    """
    tree: dict[str, Any] = yaml.safe_load((CONFIGS / "experiment" / f"{name}_miniature.yaml").read_text("utf-8"))
    tree["seed_everything"] += seed
    tree["data"]["init_args"]["seed"] = seed
    given = {part["class_path"].rpartition(".")[2]: part.get("init_args", {}) for part in tree["trainer"]["callbacks"]}
    given["EvolutionCallback"]["seed"] = given["ExpertTable"]["seed"] = seed
    if name == "versat2i":
        tree["data"]["init_args"]["seeds"]["init_args"]["seed"] += seed
    elif (change := SOURCES[source]) is not None:
        _draw_by(given["EvolutionCallback"], change)
    return tree


def _draw_by(evolution: dict[str, Any], change: Mapping[str, Any]) -> None:
    exact = evolution["teachers"].pop("exact")
    world = exact["init_args"]["world"]
    erring = {**exact, "init_args": {**exact["init_args"], **change.get("mistakes", {})}}
    evolution["teachers"]["source"] = copy.deepcopy(change.get("teacher", erring))
    evolution["policy"]["init_args"]["bought_from"] = "source"
    if change.get("check_teacher"):
        evolution["policy"]["init_args"]["check_teacher"] = True
        # not the reader of the figures: it errs
        evolution["judge"] = {
            "class_path": f"{SHAPES}.MiniatureJudge",
            "init_args": {"error_rate": 0.1, "world": world},
        }


def one(name: str, source: str, seed: int, work: Path) -> dict[str, Any]:
    """Run one recipe from the base of its seed, and return the figures of its table.

    Args:
        name: `versat2i` or `selma`.
        source: One of `SOURCES`.
        seed: Names the base and everything drawn.
        work: A folder per seed is made in it; bases stay there.

    Raises:
        RuntimeError: A command failed.
    """
    folder = work / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    _base(folder, "expert-base", seed, ())
    if source == "weaker":
        steps = (
            f"--trainer.max_steps={WEAKER_STEPS}",
            f"--model.init_args.lr_scheduler.init_args.total_steps={WEAKER_STEPS}",
        )
        _base(folder, "expert-weaker", seed, steps)
    place = f"{name}-{source.replace(', ', '-')}"
    (folder / f"{place}.yaml").write_text(yaml.safe_dump(recipe_of(name, source, seed)), "utf-8")
    roots = [f"--trainer.default_root_dir=runs/{place}", f"--data.init_args.root=runs/{place}/data"]
    last = ["--ckpt_path", "last"] if (folder / "runs" / place / "checkpoints").exists() else []
    _command(folder, "fit", "-c", f"{place}.yaml", *roots, *last)
    table = json.loads((folder / "runs" / place / "experts" / "table.json").read_text("utf-8"))
    return {"recipe": name, "source": source, "seed": seed, "figures": table["figures"]}


def _base(folder: Path, name: str, seed: int, options: Sequence[str]) -> None:
    if (folder / "runs" / name / "export" / "student.yaml").exists():
        return
    run = f"runs/{name}"
    seeds = [f"--seed_everything={seed}", f"--model.init_args.seed={seed}", f"--data.init_args.seed={seed}"]
    seeds.append(f"--data.init_args.seeds.init_args.seed={seed}")
    roots = [f"--trainer.default_root_dir={run}", f"--data.init_args.root={run}/data"]
    _command(folder, "fit", "-c", str(CONFIGS / "experiment" / "expert_base.yaml"), *seeds, *roots, *options)
    _command(folder, "export", run, f"{run}/export")


def _command(folder: Path, *words: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "evolvedirector", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed in {folder}:\n{done.stderr[-3000:]}")


def jobs_of(recipes: Sequence[str], sources: Sequence[str]) -> list[tuple[str, str, int]]:
    """List recipe, source and seed of each run.

    Args:
        recipes: `versat2i` and `selma`, or one of them.
        sources: Of SELMA; VersaT2I draws for itself.
    """
    pairs = [(name, source) for name in recipes for source in (("self",) if name == "versat2i" else sources)]
    return [(name, source, seed) for seed in SEEDS for name, source in pairs]


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="versat2i,selma")
    parser.add_argument("--sources", default=";".join(SOURCES), help="of SELMA, separated by ';'")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--report", action="store_true", help="print the tables of the finished runs")
    options = parser.parse_args()
    jobs = jobs_of(options.recipes.split(","), options.sources.split(";"))
    for job in [] if options.report else jobs:
        runs = load(options.out)
        if job not in {(run["recipe"], run["source"], run["seed"]) for run in runs}:
            options.out.write_text(json.dumps([*runs, one(*job, options.work.absolute())], indent=1) + "\n", "utf-8")
            print(f"{job[0]} from {job[1]}, seed {job[2]}: finished", flush=True)
    print(report(load(options.out), jobs_of(["versat2i", "selma"], list(SOURCES))))


if __name__ == "__main__":
    main()
