"""The student of the policy trial: a small network from the words of a prompt to a layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.trial_world import CLASSES, WORLD, Layout, decode, encode, layout_of
from evolvedirector.records import ImageRequest, Prompt
from evolvedirector.store.reader import RevisionReader
from evolvedirector.worlds.shapes.grammar import NUMBERS
from evolvedirector.worlds.shapes.scene import RELATIONS
from evolvedirector.worlds.shapes.shapes import PLURALS

MAX_WORDS = 10
"""Of "a red circle, a blue square and a green star"."""
_WORDS = (
    "",
    *("a", "an", "and", "of"),
    *NUMBERS,
    *(word.split()[0] for word in RELATIONS),
    *WORLD.colours,
    *WORLD.shapes,
    *(PLURALS[shape] for shape in WORLD.shapes),
)
_NUMBER_OF = {word: number for number, word in enumerate(_WORDS)}


def tokens_of(prompt: str) -> list[int]:
    """Number each (position, word) of a prompt: the input is one-hot at each position."""
    words = prompt.replace(",", "").split()
    words += [""] * (MAX_WORDS - len(words))
    return [position * len(_WORDS) + _NUMBER_OF[word] for position, word in enumerate(words)]


class TrialStudent:
    """Learn prompt to layout by cross entropy: one kind per thing, and the arrangement.

    Args:
        hidden: Width of the two hidden layers.
        steps: Optimizer steps of the whole training; the learning rate falls to 0 over the last 30 %.
        learning_rate: Of Adam.
        seed: Of the first weights.
    """

    def __init__(self, hidden: int, steps: int, learning_rate: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.network = nn.Sequential(
            nn.EmbeddingBag(MAX_WORDS * len(_WORDS), hidden, mode="sum"),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, sum(CLASSES)),
        )
        nn.init.normal_(self.network[0].weight, std=MAX_WORDS**-0.5)  # type: ignore[arg-type]
        self.optimizer = torch.optim.Adam(self.network.parameters(), learning_rate, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (1.0 - step / steps) / 0.3)
        )

    def train(self, root: Path, revision_sha: str, batches: range, batch_size: int, seed: int) -> None:
        """Train on a stretch of a revision's own keyed order, by its skill weights and replay share.

        Args:
            root: The dataset root.
            revision_sha: Which revision.
            batches: Counted from the start of this revision's stream.
            batch_size: Images per batch.
            seed: Names the order.
        """
        reader = RevisionReader(root, revision_sha)
        raws = [reader.raw(row) for row in range(len(reader))]
        tokens = torch.tensor([tokens_of(bytes(raw["txt"]).decode()) for raw in raws])  # type: ignore[arg-type]
        targets = torch.tensor([decode(bytes(raw["png"])) for raw in raws])  # type: ignore[arg-type]
        order = reader.order(seed, batch_size)
        for batch in batches:
            rows = torch.from_numpy(order.global_batch(batch))
            loss = _loss(self.network(tokens[rows]), targets[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
        reader.close()

    def layouts(self, prompts: Sequence[str]) -> list[Layout]:
        """Return the likeliest layout of each prompt."""
        with torch.no_grad():
            logits = self.network(torch.tensor([tokens_of(prompt) for prompt in prompts]))
            classes = torch.stack([part.argmax(1) for part in logits.split(CLASSES, dim=1)], dim=1)
        return [tuple(row) for row in classes.tolist()]

    def draw(self, requests: Sequence[ImageRequest]) -> list[bytes]:
        """Draw requests as encoded pictures."""
        layouts = self.layouts([request.prompt for request in requests])
        return [encode(layout, request.seed) for layout, request in zip(layouts, requests, strict=True)]

    def accuracy(self, prompts: Sequence[Prompt]) -> dict[str, float]:
        """Return the share of exactly right layouts by skill."""
        hits: dict[str, list[bool]] = {}
        for prompt, layout in zip(prompts, self.layouts([prompt.text for prompt in prompts]), strict=True):
            hits.setdefault(prompt.skill, []).append(layout == layout_of(prompt.text))
        return {skill: sum(right) / len(right) for skill, right in hits.items()}


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum the cross entropies of all pixels of the layout, in the mean over the batch.

    Args:
        logits: [batch, classes of all pixels].
        targets: Class of each pixel, [batch, pixel].
    """
    parts = zip(logits.split(CLASSES, dim=1), targets.unbind(1), strict=True)
    return torch.stack([nn.functional.cross_entropy(part, target) for part, target in parts]).sum()
