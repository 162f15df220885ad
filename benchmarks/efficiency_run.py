"""One run of the data-efficiency benchmark: the image student on the real program, one arm, one seed."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from benchmarks.arms import SpendsTheRest, SpreadPolicy
from benchmarks.trial_world import EASY_SHARES, EVEN_SHARES, WORLD, TrialPrompts
from evolvedirector.callbacks import EMA, EvolutionCallback
from evolvedirector.callbacks._run.drawing import averaged_weights, encode_png, eval_mode
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evolution import Budget
from evolvedirector.judges.health.report import JudgeHealth
from evolvedirector.lightning_modules import FlowMatching, MiniLMEncoder, PixArt, TextToImage, WarmupDecayLR
from evolvedirector.policies import EvolveDirectorPolicy, Pace, Screening, ScreeningPolicy
from evolvedirector.policies.policy import Policy
from evolvedirector.records import ImageAndPrompt, ImageRequest, Prompt, seed_of
from evolvedirector.store import DatasetStore
from evolvedirector.worlds.shapes import HeldOutPrompts, MiniatureJudge, MiniatureTeacher, MiniatureWriter
from evolvedirector.worlds.shapes.gold import MiniatureGold

N = 200
"""Teacher calls of an arm of one N."""
SEED_SHARE = 0.1
"""Part of N that is known at the start; 95 % of it easy."""
IMAGES_SEEN = 40_000
BATCH = 32
ROUNDS = 12
EVALUATION_PROMPTS_PER_SKILL = 64
EVALUATION_IMAGES_PER_SKILL = 96
"""A skill with few held-out prompts is drawn with several seeds each, so that every skill is measured alike."""


@dataclass(frozen=True, slots=True)
class Arm:
    """Say what one arm does differently.

    Args:
        policy: Makes the policy; None: all images are bought at the start, from the distribution of the seeds.
        times_n: Teacher calls, in N.
        shares: Weight per skill among the seeds.
        error_rate: Share of wrong looks of the training judge.
    """

    policy: Callable[[], Policy] | None = None
    times_n: float = 1
    shares: Mapping[str, float] = field(default_factory=lambda: EASY_SHARES)
    error_rate: float = 0.0


SCREENING = partial(
    ScreeningPolicy, pace=Pace(buying_share=0.67, early_share=0.5), screening=Screening(candidates_per_call=6)
)
"""This student draws nothing right in its first quarter, so half of the money is spent at once and the other half kept
for rounds in which looks tell skills apart."""

ARMS: Mapping[str, Arm] = {
    "static N": Arm(),
    "static 5N": Arm(times_n=5),
    "no judge N": Arm(partial(SpreadPolicy, WORLD.skills)),
    "published N": Arm(EvolveDirectorPolicy),
    "screening N": Arm(SCREENING),
    "screening N, 30 % wrong looks": Arm(SCREENING, error_rate=0.3),
    "un-skewed N": Arm(shares=EVEN_SHARES),
    "un-skewed 5N": Arm(times_n=5, shares=EVEN_SHARES),
    **{f"static {times}N": Arm(times_n=times) for times in (10, 20, 40)},
}
CALIBRATION = ("un-skewed N", "un-skewed 5N")
CLAIM = ("static N", "static 5N", "no judge N", "published N", "screening N", "screening N, 30 % wrong looks")


def student(seed: int, steps: int) -> TextToImage:
    """Make the student of configs/quickstart.yaml."""
    return TextToImage(
        PixArt(MiniLMEncoder(layer=2), 32, text_length=16, patch_size=8, layers=4, heads=4, head_dim=48),
        FlowMatching(prediction="x0", time_mean=1.2, time_deviation=1.2, smallest_time=0.3, shift=4.0),
        image_size_px=32,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 2e-3, betas=(0.9, 0.99), weight_decay=0.01),
        lr_scheduler=lambda optimizer: WarmupDecayLR(optimizer, total_steps=steps, warmup_steps=50),
        guidance_scale=1.0,
        sampling_steps=8,
        generation_chunk_size=32,
        seed=seed,
    )


def run(name: str, seed: int, images_seen: int = IMAGES_SEEN, n: int = N, folder: Path | None = None) -> dict[str, Any]:
    """Train one student and measure it on the held-out prompts.

    Args:
        name: One of `ARMS`.
        seed: Names seeds, weights, order and draws; equal seeds pair the arms.
        images_seen: Training images.
        n: Teacher calls of one N.
        folder: Keeps the run there; None throws it away.

    Returns:
        Accuracy by skill and mean, calls spent, what was bought per skill in each round, and seconds.
    """
    _quiet()
    arm, began = ARMS[name], time.monotonic()
    budget = round(arm.times_n * n)
    held_out = HeldOutPrompts(WORLD, per_skill=EVALUATION_PROMPTS_PER_SKILL)
    count = round(SEED_SHARE * n) if arm.policy else budget
    policy: Policy = EvolveDirectorPolicy()
    if arm.policy:
        decides = arm.policy()
        pace = decides.pace if isinstance(decides, ScreeningPolicy) else Pace()
        policy = SpendsTheRest(decides, arm.shares, buying_share=pace.buying_share)
    steps = images_seen // BATCH
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(folder or scratch)
        data = EvolvingDataModule(
            root / "data",
            seeds=TrialPrompts(count, arm.shares, held_out, seed),
            held_out=held_out,
            global_batch_size=BATCH,
            batches_per_epoch=steps // ROUNDS,
            image_size_px=32,
            seed=seed,
            generation_chunk_size=32,
        )
        evolution = EvolutionCallback(
            teachers={"exact": MiniatureTeacher(WORLD, layout="tidy")},
            judge=MiniatureJudge(WORLD, error_rate=arm.error_rate, seed=seed),
            writer=MiniatureWriter(WORLD, held_out),
            policy=policy,
            budget=Budget(budget_teacher_calls=budget),
            judge_health=JudgeHealth(gold=MiniatureGold(WORLD)) if arm.policy else False,
            max_rounds=None if arm.policy else 0,
            seed=seed,
        )
        trainer = Trainer(
            accelerator="cpu",
            max_steps=steps,
            default_root_dir=root,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            gradient_clip_val=1.0,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            callbacks=[EMA(decay=0.99), evolution],
        )
        module = student(seed, steps)
        trainer.fit(module, data)
        accuracy = _accuracy(trainer, module, held_out, seed)
        spent, rounds = _spending(root / "data")
    return {
        "arm": name, "seed": seed, "n": n, "images_seen": steps * BATCH, "calls": spent, "accuracy": accuracy,
        "accuracy_mean": sum(accuracy.values()) / len(accuracy), "rounds": rounds,
        "seconds": round(time.monotonic() - began),
    }  # fmt: skip


def _accuracy(trainer: Trainer, module: TextToImage, held_out: HeldOutPrompts, seed: int) -> dict[str, float]:
    """Return the share of held-out images that show their prompt, by skill, as the exact reader sees it."""
    by_skill: dict[str, list[Prompt]] = {}
    for prompt in held_out.prompts():
        by_skill.setdefault(prompt.skill, []).append(prompt)
    prompts = {
        f"{skill}-{number}": of_skill[number % len(of_skill)]
        for skill, of_skill in by_skill.items()
        for number in range(EVALUATION_IMAGES_PER_SKILL)
    }
    requests = [ImageRequest(key, p.text, seed_of("evaluation", seed, key), 32, 32) for key, p in prompts.items()]
    with eval_mode(module), torch.no_grad(), averaged_weights(trainer, module):
        images = module.generate(requests)
    items = [ImageAndPrompt(r.request_id, encode_png(i), r.prompt) for r, i in zip(requests, images, strict=True)]
    right: Counter[str] = Counter()
    asked = Counter(prompt.skill for prompt in prompts.values())
    for look in MiniatureJudge(WORLD).check(items):
        right[prompts[look.item_id].skill] += look.probability >= 0.5
    return {skill: right[skill] / count for skill, count in asked.items()}


def _spending(root: Path) -> tuple[int, list[dict[str, Any]]]:
    """Return the calls of the whole run, and per round what was bought by skill and what the judge was worth."""
    with DatasetStore(root) as store:
        ledger = store.ledger
        skills = {prompt.id: prompt.skill for prompt in ledger.prompts.all().values()}
        rounds = []
        for row in ledger.rounds.all():
            bought = Counter(skills[d.prompt_id] for d in ledger.rounds.decisions(row.round_id) if d.kind == "buy")
            looked = [e for e in ledger.looks.evidence(row.round_id) if e.kind == "screen"]
            failed = Counter(skills[e.prompt_id] for e in looked if e.reading == "lacks")
            rounds.append({
                "step": row.global_step, "calls": ledger.spend(row.round_id).teacher_calls,
                "bought": dict(bought), "screened": dict(Counter(skills[e.prompt_id] for e in looked)),
                "failed": dict(failed), "judge_error": row.figures.judge_accuracy.error,
            })  # fmt: skip
        return ledger.spend().teacher_calls, rounds


def _quiet() -> None:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
