"""Train the tiny vision-language model: first its eyes, patch by patch, then everything by questions.

The questions come in three courses: open ones and single parts first, which teach what the words mean; then whole
prompts against near misses; then two pictures as well. Every draw depends on the seed and the step alone, so that a
training that was cut off goes on as it would have.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AyaVisionForConditionalGeneration, PreTrainedTokenizerFast

from benchmarks.tiny_vlm_eyes import PatchHeads, patch_targets, to_pixel_values
from benchmarks.tiny_vlm_model import VISION_WIDTH
from benchmarks.tiny_vlm_packing import Packed, Packer, answer_losses, forward
from benchmarks.tiny_vlm_pictures import HeldOut, Picture, mirrored
from benchmarks.tiny_vlm_questions import Questioner, Taught

Pair = tuple[Picture, Picture]


PEAK_RATE = 1.5e-3
TOWER_RATE_SHARE = 0.2
PATCH_LOSS_SHARE = 0.3
"""Less, and the tower forgets shapes while the language model is still confused."""
PAIR_TOKENS = 112
PAIR_SHARE = 0.4
"""Of the steps from `pairs_from` on."""
EASY_SHARES = (0.1, 0.55, 0.35)
"""Of whole prompts, single parts and open questions, before `easy_until`."""
SHARES = (0.45, 0.3, 0.25)
"""Likewise, afterwards."""


@dataclass(frozen=True)
class Schedule:
    """How long to train, and what comes when.

    Args:
        eye_steps: steps of the vision tower alone.
        steps: steps with questions.
        easy_until: step at which whole prompts become the main question.
        pairs_from: step from which two pictures are shown as well.
        pictures: in a step with questions; 64 in a step of the vision tower.
        question_tokens: behind each picture.
        seed: of weights, batches and questions.
    """

    eye_steps: int = 500
    steps: int = 12_000
    easy_until: int = 1500
    pairs_from: int = 3000
    pictures: int = 8
    question_tokens: int = 128
    seed: int = 0


class Scoreboard:
    """Count right answers and losses per kind of question."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(3))
        self._since = time.monotonic()
        self.pictures = 0

    def add(self, packed: Packed, logits: Tensor, losses: Tensor) -> None:
        """Count one batch; pairs near one half do not count as right or wrong."""
        self.pictures += len(packed.pixel_values)
        chosen = logits.argmax(dim=-1)
        expected = torch.where(packed.shares >= 0.5, packed.answers[:, 0], packed.answers[:, 1])
        for kind, right, loss, share in zip(
            packed.kinds, (chosen == expected).tolist(), losses.tolist(), packed.shares.tolist(), strict=True
        ):
            if abs(share - 0.5) > 0.2:
                self._sums[kind] += (1.0, float(right), loss)

    def line(self) -> str:
        """Return accuracy and loss per kind, and the speed; starts anew."""
        parts = [f"{kind} {s[1] / s[0]:.3f}/{s[2] / s[0]:.3f}" for kind, s in sorted(self._sums.items())]
        answers = sum(s[0] for s in self._sums.values())
        seconds = time.monotonic() - self._since
        speed = f"{self.pictures / seconds:.1f} pictures/s {answers / seconds:.0f} answers/s"
        self.__init__()  # type: ignore[misc]
        return f"{', '.join(parts)}; {speed}"


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100, decay_share: float = 0.4) -> float:
    """Return a rate that warms up, stays, and falls to nothing over the last share of the steps."""
    left = (steps - step) / (steps * decay_share)
    return peak * min(1.0, (step + 1) / warmup, max(left, 0.01))


def _maybe_mirrored(picture: Picture, rng: np.random.Generator) -> Picture:
    return picture if rng.random() < 0.5 else mirrored(picture)


def train_eyes(vision: nn.Module, heads: PatchHeads, pictures: Sequence[Picture], schedule: Schedule) -> None:
    """Teach the vision tower what covers each patch.

    Args:
        vision: tower of the model.
        heads: over its patches.
        pictures: with their readings.
        schedule: how long.
    """
    optimizer = torch.optim.AdamW(
        [*vision.parameters(), *heads.parameters()], lr=1.0e-3, betas=(0.9, 0.98), weight_decay=0.02
    )
    losses = []
    for step in range(schedule.eye_steps):
        rng = np.random.default_rng([schedule.seed, 0, step])
        batch = [_maybe_mirrored(pictures[i], rng) for i in rng.integers(len(pictures), size=64)]
        states = vision(to_pixel_values(batch), output_hidden_states=True).hidden_states[-1]
        loss = heads.loss(states, patch_targets(batch))
        _set_rate(optimizer, learning_rate(step, schedule.eye_steps, 1.0e-3, warmup=50))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vision.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 50 == 49:
            print(f"eyes {step + 1}: loss {np.mean(losses[-50:]):.3f}", flush=True)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


class QuestionTraining:
    """Train the whole model by questions, resumable at every checkpoint.

    Args:
        model: with a tower that was taught to see.
        tokenizer: of the model.
        heads: kept in training, so that the tower does not forget.
        schedule: how long, and what comes when.
        checkpoint: file to continue from and to write to.
    """

    def __init__(
        self,
        model: AyaVisionForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        heads: PatchHeads,
        schedule: Schedule,
        checkpoint: Path,
    ) -> None:
        self.model, self.heads, self.schedule, self.checkpoint = model, heads, schedule, checkpoint
        self.packer = Packer(tokenizer)
        self.held_out = HeldOut()
        self.optimizer = torch.optim.AdamW(_parameter_groups(model, heads), lr=PEAK_RATE, betas=(0.9, 0.97))
        self.step = 0
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            model.load_state_dict(state["model"])
            heads.load_state_dict(state["heads"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = int(state["step"])

    def run(self, pictures: Sequence[Picture], pairs: Sequence[Pair], until: int | None = None) -> None:
        """Train to the end of the schedule, or stop on the way.

        Args:
            pictures: to ask about.
            pairs: of pictures for one prompt.
            until: step at which to stop with a checkpoint; None is the end.
        """
        scores = Scoreboard()
        self.model.train()
        last = self.schedule.steps if until is None else until
        while self.step < last:
            packed = self._batch(pictures, pairs)
            logits, states = forward(self.model, packed)
            losses = answer_losses(logits, packed)
            loss = losses.mean() + PATCH_LOSS_SHARE * self.heads.loss(states, packed.targets)
            _set_rate(self.optimizer, learning_rate(self.step, self.schedule.steps, PEAK_RATE))
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            scores.add(packed, logits.detach(), losses.detach())
            if self.step % 100 == 0:
                print(f"questions {self.step}: {scores.line()}", flush=True)
            if self.step % 200 == 0 or self.step == last:
                self._save()
        self.model.eval()

    def _batch(self, pictures: Sequence[Picture], pairs: Sequence[Pair]) -> Packed:
        schedule = self.schedule
        rng = np.random.default_rng([schedule.seed, 1, self.step])
        asker = Questioner(self.held_out, rng)
        if self.step >= schedule.pairs_from and rng.random() < PAIR_SHARE:
            groups = []
            for index in rng.integers(len(pairs), size=max(1, schedule.pictures * 5 // 8)):
                first, second = (_maybe_mirrored(picture, rng) for picture in pairs[index])
                groups.append((first, second) if rng.random() < 0.5 else (second, first))
            return self.packer.pack(groups, lambda group: asker.pair(*group), PAIR_TOKENS)
        shares = EASY_SHARES if self.step < schedule.easy_until else SHARES
        kinds: tuple[Callable[[Picture], Taught | None], ...] = (asker.check, asker.atom, asker.open)

        def ask(group: tuple[Picture, ...]) -> Taught | None:
            return kinds[rng.choice(3, p=shares)](group[0])

        chosen = rng.integers(len(pictures), size=schedule.pictures)
        return self.packer.pack([(_maybe_mirrored(pictures[i], rng),) for i in chosen], ask, schedule.question_tokens)

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        partial = self.checkpoint.with_suffix(".part")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)


def _parameter_groups(model: AyaVisionForConditionalGeneration, heads: PatchHeads) -> list[dict[str, object]]:
    """Return matrices with weight decay, those of the tower slower, and everything else without decay."""
    tower = {id(p) for p in model.model.vision_tower.parameters()}
    matrices = {id(p): p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name}
    rest = [p for p in model.parameters() if id(p) not in matrices]
    return [
        {"params": [p for key, p in matrices.items() if key not in tower], "weight_decay": 0.02},
        {"params": [p for key, p in matrices.items() if key in tower], "weight_decay": 0.02, "scale": TOWER_RATE_SHARE},
        {"params": [*rest, *heads.parameters()], "weight_decay": 0.0},
    ]


def new_heads() -> PatchHeads:
    """Make the heads that fit the model's tower."""
    return PatchHeads(VISION_WIDTH)
