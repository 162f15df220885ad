"""One run of the gap benchmark: a student pretrained on all but the gap, fine-tuned on what one arm bought."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gap_arms import ARMS, REPLAY_SHARE, Arm
from benchmarks.gap_plan import GATE
from benchmarks.gap_policies import ReaderReward
from benchmarks.gap_student import accuracy_of, data_of, fit, losses_of, student_of
from benchmarks.gap_world import WORLDS, GapPrompts, GapWorld
from evolvedirector.callbacks import EvolutionCallback
from evolvedirector.callbacks._run.drawing import averaged_weights
from evolvedirector.evolution import Budget
from evolvedirector.judges.health.report import JudgeHealth
from evolvedirector.lightning_modules import TextToImage
from evolvedirector.records import ImageRequest, Prompt, RevisionChange, Sample, digest, seed_of
from evolvedirector.store import DatasetStore

STEPS = 500
ROUNDS = 10
LEARNING_RATE = 1e-3
PRICE_OF_IMAGE_USD, PRICE_OF_LOOK_USD = 0.04, 0.0005


def pretrained(world: GapWorld, seed: int, work: Path) -> Path:
    """Return the folder of a base student and its pretraining set, made at the first call.

    Args:
        world: What it must not see.
        seed: Names weights, prompts and order.
        work: Where bases are kept.
    """
    folder = work / f"base-{world.name.replace('/', 'of').replace(' ', '-')}-{seed}"
    if (folder / "base.json").exists():
        return folder
    _quiet()
    shutil.rmtree(folder, ignore_errors=True)
    prompts = GapPrompts(world, world.pretraining_images, seed, gap=False).prompts()
    _publish(folder / "data", world, seed, prompts, "pretraining")
    steps = world.pretraining_steps
    module = student_of(world, seed, steps, 2e-3)
    trainer = fit(module, data_of(world, folder / "data", seed, steps // 4), steps, folder, [])
    with averaged_weights(trainer, module):
        torch.save(module.state_dict(), folder / "base.pt")
        gap, known = accuracy_of(module, world, seed)
    with DatasetStore(folder / "data") as store:  # what a pretrained model knows is repeated, never looked for
        current = store.current()
        assert current is not None
        entries = store.state(current).entries
        change = RevisionChange(states=dict.fromkeys(entries, "mastered"), replay_share=REPLAY_SHARE)
        store.publish(current, "known", change)
    (folder / "base.json").write_text(json.dumps({"gap": gap, "known": known, "reached": known >= GATE}))
    return folder


def run(world_name: str, arm_name: str, calls: int, seed: int, work: Path) -> dict[str, Any]:
    """Fine-tune a base on what an arm buys with so many teacher calls, and measure it.

    Args:
        world_name: One of `WORLDS`.
        arm_name: One of `ARMS`.
        calls: Teacher calls.
        seed: Names the base and everything drawn; equal seeds pair the arms.
        work: Where bases are kept.

    Returns:
        Accuracy on the gap and on the rest, what was bought, looks, price and seconds of one core.
    """
    _quiet()
    world, arm = WORLDS[world_name], ARMS[arm_name]
    base = pretrained(world, seed, work)
    began = time.process_time()  # of one thread: other work on the machine does not count
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "data"
        shutil.copytree(base / "data", root)
        with DatasetStore(root) as store:
            current = store.current()
            assert current is not None
            pretraining = set(store.state(current).entries)
        module = student_of(world, seed, STEPS, LEARNING_RATE)
        module.configure_model()
        module.load_state_dict(torch.load(base / "base.pt", weights_only=True))
        if (static := calls if arm.policy is None else round(arm.seed_share * calls)) > 0:
            prompts = bought_anew(GapPrompts(world, static, seed_of("bought", seed)).prompts())
            by_loss = arm.by_loss > 0 or arm.throttle
            weigh = (lambda samples: _weights(arm, module, world, seed, samples)) if by_loss else None
            _publish(root, world, seed, prompts, "static", weigh)
        evolution = _evolution(world, arm, calls if arm.policy is None else calls - static, seed)
        trainer = fit(module, data_of(world, root, seed, STEPS // ROUNDS), STEPS, Path(scratch), evolution)
        with averaged_weights(trainer, module):
            gap, known = accuracy_of(module, world, seed)
        spent = _spending(root, world, pretraining)
    looks_usd = spent["looks"] * PRICE_OF_LOOK_USD
    return {
        "world": world_name, "arm": arm_name, "calls": calls, "seed": seed, "gap": gap, "known": known, **spent,
        "cost_usd": round(spent["bought"] * PRICE_OF_IMAGE_USD + looks_usd, 4),
        "base": json.loads((base / "base.json").read_text()), "seconds": round(time.process_time() - began),
    }  # fmt: skip


def bought_anew(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Give prompts ids of their own: an even set asks for known texts too, and each is paid for and trained on.

    Under its old id a text of the pretraining set would only replace its image there.
    """
    ids = [digest("bought", prompt.id) for prompt in prompts]
    return [replace(prompt, id=own, lineage_id=own) for prompt, own in zip(prompts, ids, strict=True)]


def _evolution(world: GapWorld, arm: Arm, calls: int, seed: int) -> list[Any]:
    if arm.policy is None:
        return []
    judge = arm.judge(world, seed)
    return [
        EvolutionCallback(
            teachers={"exact": world.teacher()},
            judge=judge,
            writer=world.writer(),
            policy=arm.policy(world),
            budget=Budget(budget_teacher_calls=calls),
            judge_health=JudgeHealth(gold=world.gold()),
            image_size_px=world.image_size_px,
            seed=seed,
            rewards={"reader": ReaderReward(judge)},
        )
    ]


def _publish(
    root: Path,
    world: GapWorld,
    seed: int,
    prompts: Sequence[Prompt],
    round_id: str,
    weigh: Callable[[Sequence[tuple[Prompt, bytes]]], Sequence[float]] | None = None,
) -> None:
    """Let the exact teacher draw prompts, and publish them as a revision; they are live.

    Args:
        root: The dataset root.
        world: Sizes the images.
        seed: Of the images.
        prompts: What to draw.
        round_id: Names the revision.
        weigh: Returns how often each image is drawn in training, relative to the others. None: all alike.
    """
    size_px = world.image_size_px
    teacher = world.teacher()
    requests = [ImageRequest(p.id, p.text, seed_of(round_id, seed, p.id), size_px, size_px) for p in prompts]
    images = [reply.image for reply in teacher.generate(requests)]
    drawn = [(prompt, image) for prompt, image in zip(prompts, images, strict=True) if image is not None]
    assert len(drawn) == len(prompts), "the exact teacher draws everything"
    weights: dict[str, float] | None = None
    if weigh is not None:
        # draws are shared out by skill: with a skill of its own, each image has a weight of its own
        drawn = [(replace(p, skill=f"image {place}"), image) for place, (p, image) in enumerate(drawn)]
        weights = {p.skill: weight for (p, _), weight in zip(drawn, weigh(drawn), strict=True)}
    with DatasetStore(root, create=True) as store:
        names = store.blobs.put_many([image for _, image in drawn])
        samples = tuple(Sample.create(p, name, "exact") for (p, _), name in zip(drawn, names, strict=True))
        parent = store.current()
        store.publish(parent, round_id, RevisionChange(samples=samples, skill_weights=weights))


def _weights(
    arm: Arm, module: TextToImage, world: GapWorld, seed: int, drawn: Sequence[tuple[Prompt, bytes]]
) -> list[float]:
    losses = losses_of(module, drawn, seed)
    if arm.throttle:
        known = GapPrompts(world, 64, seed_of("throttle", seed), gap=False).prompts()
        size_px = world.image_size_px
        requests = [ImageRequest(p.id, p.text, seed, size_px, size_px) for p in known]
        replies = world.teacher().generate(requests)
        usual = sorted(losses_of(module, [(p, r.image or b"") for p, r in zip(known, replies, strict=True)], seed))
        return [1.0 if loss > usual[len(usual) // 2] else 0.1 for loss in losses]
    return [max(loss, 1e-6) ** arm.by_loss for loss in losses]


def _spending(root: Path, world: GapWorld, known: set[str]) -> dict[str, Any]:
    """Count what was bought beside the known prompts, how much of it in the gap, and the looks, round by round."""
    with DatasetStore(root) as store:
        current = store.current()
        assert current is not None
        entries = store.state(current).entries.values()
        bought = [e.prompt for e in entries if e.sample and e.prompt.id not in known]
        ledger, rounds = store.ledger, []
        prompts = ledger.prompts.all()
        for row in ledger.rounds.all():
            screened = [e for e in ledger.looks.evidence(row.round_id) if e.kind == "screen"]
            children = [e for e in screened if prompts[e.prompt_id].parent_id]
            rounds.append({
                "screened": len(screened),
                "hidden": sum(world.hides(prompts[e.prompt_id].text) for e in screened),
                "failed": sum(e.reading == "lacks" for e in screened),
                "children": len(children),
                "hidden_children": sum(world.hides(prompts[e.prompt_id].text) for e in children),
                "calls": ledger.spend(row.round_id).teacher_calls,
            })  # fmt: skip
        return {
            "bought": len(bought),
            "bought_in_gap": sum(world.hides(prompt.text) for prompt in bought),
            "looks": ledger.spend().judge_calls,
            "rounds": rounds,
        }


def _quiet() -> None:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
