"""The scale of a merge, chosen by what the student draws with it on a validation split."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import lightning.pytorch as pl
from torch import nn

from evolvedirector.callbacks._run.drawing import draw_share
from evolvedirector.callbacks._run.held_out import size_to_draw_px
from evolvedirector.callbacks._run.suite_reading import read_by_ranks
from evolvedirector.errors import RunError
from evolvedirector.evaluation.prompt_choice import requests_to_draw
from evolvedirector.evaluation.validation_split import ValidationSplit, mean_score
from evolvedirector.experts.expert import Expert
from evolvedirector.experts.lent import lent
from evolvedirector.experts.merge_settings import Merge
from evolvedirector.records.part import requests_in_flight_of


def merge_at_best_scale(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    network: nn.Module,
    merge: Merge,
    experts: Sequence[Expert],
    name: str,
    split: ValidationSplit,
    trained_on: Collection[str],
) -> Expert:
    """Merge experts with the scale whose drawings score best; every rank calls it and gets the same.

    Args:
        trainer: Knows the ranks.
        module: Draws.
        network: Its trained network, which the merge is lent to.
        merge: Has `scales`.
        experts: That are merged, in the order of the weights.
        name: Of the result.
        split: Prompts and reward.
        trained_on: Texts that are left out of it.

    Raises:
        UserError: All prompts are trained on, or the experts cannot be merged.
        RunError: The reward broke off.
    """
    prompts = split.unseen(trained_on)
    size_px = size_to_draw_px(trainer, module)
    asked = requests_to_draw(prompts, split.images_per_prompt, split.seed, size_px, "validation")
    texts = {key: prompt.text for key, (_, prompt) in asked.items()}
    alone = requests_in_flight_of(split.reward) > 0

    def read(of: Mapping[str, bytes]) -> dict[str, float | None]:
        return split.scores({key: of[key] for key in asked if key in of}, texts)

    def score(merged: Expert) -> float:
        with lent(network, merged):
            images = draw_share(trainer, module, [request for request, _ in asked.values()], averaged=False)
        found, error = read_by_ranks(read, images, alone)
        if error:
            raise RunError(f"The reward of the validation split broke off at the merge {name}: {error}. Mend it.")
        return mean_score({key: found[key] for key in asked})

    chosen = merge.chosen(experts, name, score)
    told = {**chosen.provenance["validation"], "reward": split.reward.fingerprint, "prompts": len(prompts)}
    return replace(chosen, provenance={**chosen.provenance, "validation": told})
