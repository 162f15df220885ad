"""Rounds that see skills fail, and experts for these: a run that takes seconds, in one process or in several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from evolvedirector.callbacks import EvolutionCallback
from evolvedirector.evolution import Budget
from evolvedirector.experts import LoRA, Trained
from evolvedirector.experts.merge_settings import Merge
from evolvedirector.experts.stages import Stage
from evolvedirector.policies import ScreeningPolicy
from evolvedirector.policies.policy import Policy
from evolvedirector.records import ImageAndPrompt, ImageRequest, Look, WriteReply, WriteRequest, seed_of
from tests.callbacks.staged import Staged
from tests.toys import ToyJudge, ToyTeacher, tone_of

SLOTS = ("one", "two", "three")
PLAN = (
    Stage("one", 2, failing=1),
    Stage("two", 2, failing=2),
    Stage("three", 2, failing=1, on_top_of={"one": 0.5, "two": 0.25}),
)


class ToneWriter:
    """Writes tones of the skill that is asked for."""

    fingerprint = "tone writer"

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        for request in requests:
            least = 128 if request.skill == "light" else 0
            tones = [least + seed_of(request.seed, position) % 128 for position in range(request.count)]
            yield WriteReply(request.request_id, tuple(f"tone {tone}" for tone in tones))


class DarkJudge(ToyJudge):
    """Sees every light picture fail, and every other dark one, whatever was drawn by the student; trusts teachers."""

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        for item, look in zip(items, super().check(items), strict=True):
            tone = tone_of(item.prompt)
            yield look if look.probability > 0.5 or tone >= 128 or tone % 2 else Look(item.item_id, 0.9)


def run(folder: Path, root: Path, policy: Policy | None = None, rounds_first: bool = False, **settings: Any) -> Staged:
    evolution = EvolutionCallback(
        {"toy": ToyTeacher()}, DarkJudge(), ToneWriter(), policy or ScreeningPolicy(["dark", "light"]),
        Budget(budget_teacher_calls=40), judge_health=False, every_n_epochs=1, first_rounds=1,
    )  # fmt: skip
    options = {"stages": PLAN, "merges": {"last": Merge()}, "every": 1} | settings
    made = Staged(folder, root, trained=Trained(LoRA(2), experts=SLOTS), callbacks=[evolution], **options)
    made.drawn = []  # type: ignore[attr-defined]
    draws = made.module.generate

    def generate(requests: Sequence[ImageRequest]) -> list[torch.Tensor]:
        made.drawn.append((made.trainer.global_step, at_work(made)))  # type: ignore[attr-defined]
        return draws(requests)

    made.module.generate = generate  # type: ignore[method-assign]
    if rounds_first:
        made.trainer.callbacks.remove(evolution)  # type: ignore[attr-defined]
        made.trainer.callbacks.insert(0, evolution)  # type: ignore[attr-defined]
    return made


def at_work(made: Staged) -> dict[str, float]:
    """Return which adapters work, with their weights in the sum."""
    layer = next(part for part in made.module.modules() if isinstance(part, LoraLayer))
    return {} if layer.disable_adapters else {name: layer.scaling[name] for name in layer.active_adapters}
