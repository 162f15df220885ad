"""Let a trained student choose the scale of a merge on a validation split, for `evolvedirector merge`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from evolvedirector.callbacks import ExpertTable
from evolvedirector.callbacks._run.scale_choice import merge_at_best_scale
from evolvedirector.commands.part_files import build_part
from evolvedirector.commands.trained_student import trained_student
from evolvedirector.errors import UserError
from evolvedirector.evaluation.validation_split import ValidationSplit
from evolvedirector.experts import Expert
from evolvedirector.experts.host import HoldsExperts
from evolvedirector.experts.merge_settings import Merge
from evolvedirector.models.part_files import read_part
from evolvedirector.planning.roles import HoldsOut, ListsTexts
from evolvedirector.rewards.reward import Reward
from evolvedirector.store.paths import user_path


def add_scale_options(parser: argparse.ArgumentParser) -> None:
    """Let a word choose among scales.

    Args:
        parser: Of the word.
    """
    parser.add_argument("--scales", nargs="+", type=float, metavar="S", help="in place of --scale: the best is taken")
    parser.add_argument("--validation", metavar="FILE", help="prompts that --scales are chosen on; none is held out")
    parser.add_argument("--reward", metavar="FILE", help="YAML of the reward that chooses; no evaluator of the run")
    parser.add_argument("--run", metavar="FOLDER", help="the run of the experts, whose student draws for --scales")


def check_scale_options(options: argparse.Namespace) -> None:
    """Refuse scales without what chooses among them, and the other way round.

    Args:
        options: Of the word.

    Raises:
        UserError: One is missing, or given in vain.
    """
    needed = {f"--{name}": getattr(options, name) for name in ("validation", "reward", "run")}
    if options.scales and (missing := [name for name, value in needed.items() if value is None]):
        raise UserError(
            f"--scales needs {', '.join(missing)}: somebody must draw and score. Allowed is --scales with all of "
            f"{', '.join(needed)}, or --scale alone. Write --validation validation.txt --reward reward.yaml --run "
            "runs/mine, say."
        )
    if not options.scales and (given := [name for name, value in needed.items() if value is not None]):
        raise UserError(
            f"{given[0]} is given, and there is nothing to choose. Allowed is it with --scales. Write --scales 0.3 0.6 "
            "1.0, or leave it out."
        )


def merge_on_validation(settings: Merge, experts: Sequence[Expert], name: str, options: argparse.Namespace) -> Expert:
    """Merge experts with the scale whose drawings score best.

    Args:
        settings: Have `scales`.
        experts: That are merged.
        name: Of the result.
        options: Name split, reward and run.

    Raises:
        UserError: One cannot be used, or the split or the reward also measures.
    """
    reward = build_part(read_part(Path(options.reward), "reward"), Reward, "reward", str(options.reward))
    split = ValidationSplit(user_path(options.validation), reward)
    student = trained_student(user_path(options.run), averaged=True, words=[])
    data: Any = student.run.datamodule
    evaluators = {
        key: evaluator
        for callback in student.run.configured
        if isinstance(callback, ExpertTable)
        for key, evaluator in callback.evaluators.items()
    }
    split.refuse_measured(data.held_out_prompts() if isinstance(data, HoldsOut) else (), evaluators)
    trained_on = data.training_texts() if isinstance(data, ListsTexts) else []
    found: list[Expert] = []

    def work(trainer: Trainer, module: LightningModule) -> None:
        if not isinstance(module, HoldsExperts):
            raise UserError(
                f"The run in {options.run} trained {type(module).__name__}, which holds no experts. Allowed is the run "
                "of the experts. Name that one."
            )
        network = module.experts()
        for expert in experts:
            if expert.base_digest and expert.base_digest != network.base_digest:
                raise UserError(
                    f"Expert {expert.name!r} was trained beside other weights ({expert.base_digest}) than the student "
                    f"of {options.run} ({network.base_digest}). Allowed is the run of the experts. Name that one."
                )
        found.append(merge_at_best_scale(trainer, module, network.network, settings, experts, name, split, trained_on))

    student.work(work)
    return found[0]
