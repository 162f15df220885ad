"""Build the pairs of the Toffee benchmark, train as the shipped recipe says, and measure with its suite."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl

import evolvedirector.configs
from benchmarks.toffee_plan import ARMS, ATTENTIONS, GUIDANCES, JOINT, SUBJECTS_OF_KNOBS, Arm, Job, Source
from evolvedirector.callbacks import EMA, EvaluationCallback, RunCheckpoint
from evolvedirector.callbacks._run.drawing import student_draw
from evolvedirector.callbacks.checkpoint import latest_committed
from evolvedirector.commands.lightning_cli import EvolveDirectorCLI
from evolvedirector.commands.part_files import build_part
from evolvedirector.evaluation.suite import Drawn, Offered, Outcome, Sitting
from evolvedirector.lightning_modules import SubjectToImage
from evolvedirector.lightning_modules.subjects.subject_student import SubjectDrawing
from evolvedirector.models.part_files import read_part
from evolvedirector.pairs import SubjectPairBuilder
from evolvedirector.pairs.drawn.drawn_subjects import SubjectSplit
from evolvedirector.pairs.evaluation import DrawnQuestions, SubjectSuite
from evolvedirector.pairs.evaluation.subject_suite import BOX, EDIT, TEXT_ONLY, WORDS
from evolvedirector.pairs.pair_book import PairBook
from evolvedirector.records.subset import Subset
from evolvedirector.store import DatasetStore

CONFIGS = evolvedirector.configs.path()
RECIPE = CONFIGS / "method" / "toffee.yaml"
BUILDERS: dict[Source, Sequence[tuple[str, Mapping[str, Any]]]] = {
    "recipe": (("models", {}), ("drawn", {})),
    "models": (("models", {"most_kept": 1500, "most_subjects": None}),),
    "unrefined": (("models", {"most_kept": 1500, "most_subjects": None, "refine": None}),),
    "unfiltered": (("models", {"most_kept": 1500, "most_subjects": None, "thresholds": None}),),
}
"""Files of builders, one behind the other into one root, with what is set otherwise in them."""
DRAWN = (WORDS, BOX, EDIT, TEXT_ONLY)
OPEN = {"change": -10.0}
"""Threshold that every pair passes."""


class BuiltRun(EvolveDirectorCLI):
    """Build the parts of a run and leave what is done with them to the caller."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing yet."""


class Laboratory:
    """Train and measure; pairs and the questions are made once.

    Args:
        work: Holds pairs and runs.
        recipe: The run's file.
        builders: Folder of the builders' files.
    """

    def __init__(self, work: Path, recipe: Path = RECIPE, builders: Path = CONFIGS / "pairs") -> None:
        self.work, self.recipe, self.builders = work, recipe, builders
        self._suites: dict[str, SubjectSuite] = {}

    def run(self, job: Job) -> dict[str, Any]:
        """Train one model, and return its figures; `train_s`, processor time, is None where training was interrupted.

        Args:
            job: What to run. A run that was killed goes on from its last checkpoint.
        """
        arm = ARMS[job.arm]
        folder = self.work / f"{job.arm.replace(' ', '-').replace(',', '')}-{job.seed}-{job.steps}"
        began = time.process_time()
        root = self.pairs(arm.source)
        built_s = time.process_time() - began
        is_resumed = latest_committed(folder) is not None
        trainer, module = self._trained(job, arm, root, folder)
        trained_s = time.process_time() - began - built_s
        figures = self.figures(trainer, module, folder, arm) | {"train_s": None if is_resumed else round(trained_s, 1)}
        shutil.rmtree(folder, ignore_errors=True)
        return figures

    def pairs(self, source: Source) -> Path:
        """Build the pairs of an arm, or what is missing of them.

        Args:
            source: What they are.
        """
        root = self.work / f"pairs-{source}"
        for name, changes in BUILDERS[source]:
            path = self.builders / f"toffee_{name}.yaml"
            tree = read_part(path, "builder")
            tree["init_args"] |= changes
            if changes.get("thresholds", 0) is None:
                tree["init_args"]["thresholds"] = {kind: OPEN for kind in ("place", "tint", "texture", "style")}
            builder = build_part(tree, SubjectPairBuilder, "builder", str(path))
            with DatasetStore(root, create=True) as store:
                builder.build(store)
        return root

    def figures(self, trainer: pl.Trainer, module: SubjectToImage, folder: Path, arm: Arm) -> dict[str, Any]:
        """Measure a model on held-out subjects; the joint one on training subjects and over its knobs as well.

        Args:
            trainer: Keeps the averaged weights.
            module: Trained.
            folder: For pictures.
            arm: How it was trained.
        """
        as_shipped = module.subject
        found: dict[str, Any] = {"held_out": plain(self._measured(trainer, module, self._suites["held_out"], folder))}
        if arm != ARMS[JOINT]:
            return found
        found["trained"] = plain(self._measured(trainer, module, self._suites["trained"], folder))
        for name, values in (("guidance", GUIDANCES), ("attention", ATTENTIONS)):
            found[name] = {}
            for value in values:
                module.subject = SubjectDrawing(*((value, 1.0) if name == "guidance" else (1.0, value)))
                measured = self._measured(trainer, module, self._suites["knobs"], folder)
                found[name][str(value)] = {arm: of for arm, of in plain(measured)["arms"].items() if arm in DRAWN}
        module.subject = as_shipped
        return found

    def _trained(self, job: Job, arm: Arm, root: Path, folder: Path) -> tuple[pl.Trainer, SubjectToImage]:
        words = ["fit", "-c", str(self.recipe), "--seed_everything", str(job.seed)]
        words += ["--model.init_args.seed", str(job.seed), "--data.init_args.seed", str(job.seed)]
        words += ["--data.init_args.root", str(root)]
        words += ["--trainer.default_root_dir", str(folder), "--trainer.max_steps", str(job.steps)]
        words += ["--model.init_args.lr_scheduler.init_args.total_steps", str(job.steps), "--trainer.logger", "false"]
        if arm.reference_dropout is not None:
            words += ["--model.init_args.training.reference_dropout", str(arm.reference_dropout)]
        run = BuiltRun(words)
        trainer, module, data = run.trainer, cast(SubjectToImage, run.model), run.datamodule
        measuring = next(c for c in trainer.callbacks if isinstance(c, EvaluationCallback))  # type: ignore[attr-defined]
        self._keep_suites(cast(SubjectSuite, measuring.suites["held_out"]))
        kept = [c for c in trainer.callbacks if isinstance(c, EMA | RunCheckpoint)]  # type: ignore[attr-defined]
        trainer.callbacks = kept  # type: ignore[attr-defined]
        if arm.pairs != "all":
            data.train_on(Subset(variants=kept_pairs(root, arm.pairs)))
        last = latest_committed(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a loader without workers
            trainer.fit(module, datamodule=data, ckpt_path=None if last is None else str(last), weights_only=False)
        return trainer, module.eval()

    def _keep_suites(self, suite: SubjectSuite) -> None:
        """Keep the first suite of the process: what its ends are is then measured once."""
        if self._suites:
            return
        asked = suite.questions
        assert isinstance(asked, DrawnQuestions)
        parts = suite.measures

        def fewer(split: SubjectSplit, subjects: int) -> SubjectSuite:
            kinds, looks = list(asked.kinds), list(asked.looks)
            questions = DrawnQuestions(asked.world, split, subjects, kinds, looks, asked.image_size_px, edits=False)
            return SubjectSuite(questions, parts.identity, parts.mask, parts.reader, side_px=parts.side_px)

        self._suites["held_out"] = suite
        self._suites["trained"] = fewer("train", asked.subjects)
        self._suites["knobs"] = fewer("held_out", min(SUBJECTS_OF_KNOBS, asked.subjects))

    def _measured(self, trainer: pl.Trainer, module: SubjectToImage, suite: SubjectSuite, folder: Path) -> Outcome:
        asked = suite.requests(Offered(size_px=module.image_size_px))
        images = student_draw(trainer, module)([request for request, _ in asked.values()])
        drawn = [Drawn(key, prompt, image) for (key, (_, prompt)), image in zip(asked.items(), images, strict=True)]
        sitting = replace(Sitting(asked, folder=folder / "evaluation"), errors_outside=module.errors_outside)
        return suite.figures(suite.read(drawn, sitting), sitting)


def kept_pairs(root: Path, use: str) -> list[str]:
    """List the kept pairs of one use, as variants of samples.

    Args:
        root: Of the pairs.
        use: `generation` or `editing`.
    """
    with PairBook.for_reading(root) as book:
        return [row.pair_id for row in book.pairs("kept") if row.use == use]


def plain(outcome: Outcome) -> dict[str, Any]:
    """Return the figures of an evaluation as JSON holds them, without its pictures.

    Args:
        outcome: Of the suite.
    """
    about = outcome.summary["subjects"]
    ways = {name: asdict(row)["value"] for name, row in outcome.rows.items() if name.endswith("way to target")}
    return {"arms": about["arms"], "by_kind": about["by_kind"], "way": ways, "subjects": about["subjects"]}
