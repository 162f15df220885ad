"""Train priors of the ECLIPSE benchmark with the shipped module, and read what they draw."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.eclipse_plan import BATCH, EVALUATED, GUIDANCES, PENALTIES, STEPS, Job
from evolvedirector.evaluation.ridge import ridge
from evolvedirector.lightning_modules import (
    DiffusionPriorObjective,
    EclipseObjective,
    ImagePrior,
    MiniLMEncoder,
    PriorNetwork,
    ProjectionObjective,
)
from evolvedirector.records import ImageRequest, seed_of
from evolvedirector.worlds.joint import SceneDecoder, SceneEmbedder, SceneNegatives
from evolvedirector.worlds.joint.space_files import SPACE_FILE, save_space
from evolvedirector.worlds.joint.training import SpaceSettings, pictures_of, shows, train_space
from evolvedirector.worlds.joint.world import Split, drawn_scenes
from evolvedirector.worlds.shapes.grammar import phrase
from evolvedirector.worlds.shapes.scene import Scene

NETWORK = PriorNetwork(embedding_dim=128, heads=4, head_dim=16, layers=2, text_length=14, text_dim=384)
TEMPERATURE = 0.07
_SEEDS: dict[Split, int] = {"train": 11, "validation": 12, "test": 13}


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Texts and images of one split in a joint space.

    Args:
        scenes: What they show.
        prompts: Their texts.
        states: Float[pair, token, width].
        mask: Bool[pair, token].
        texts: Float[pair, embedding].
        images: Float[pair, embedding].
    """

    scenes: list[Scene]
    prompts: list[str]
    states: Tensor
    mask: Tensor
    texts: Tensor
    images: Tensor

    def first(self, count: int) -> Pairs:
        """Return the first pairs: a smaller set is a part of a larger one."""
        return Pairs(
            self.scenes[:count],
            self.prompts[:count],
            *(values[:count] for values in (self.states, self.mask, self.texts, self.images)),
        )


class Batches(IterableDataset[dict[str, Any]]):
    """Draw batches of pairs by seed, as many as are asked for."""

    def __init__(self, pairs: Pairs, batch: int, steps: int, seed: int) -> None:
        self.pairs, self.batch, self.steps, self.seed = pairs, batch, steps, seed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield them."""
        generator = torch.Generator().manual_seed(self.seed)
        for step in range(self.steps):
            rows = torch.randint(len(self.pairs.scenes), (self.batch,), generator=generator)
            seeds = [seed_of("pair", self.seed, step, place) for place in range(self.batch)]
            yield {
                "text_states": self.pairs.states[rows],
                "text_mask": self.pairs.mask[rows],
                "text_embedding": self.pairs.texts[rows],
                "image_embedding": self.pairs.images[rows],
                "sample_seed": torch.tensor(seeds),
                "prompt": [self.pairs.prompts[row] for row in rows.tolist()],
            }


class Laboratory:
    """One joint space with its pairs; trains it where it is missing.

    Args:
        folder: Of the space.
        seed: Of the space.
        settings: How it is trained. None: as shipped, with this seed.
        evaluated: Scenes of each split that arms are measured on.
    """

    def __init__(
        self, folder: Path, seed: int, settings: SpaceSettings | None = None, evaluated: int = EVALUATED
    ) -> None:
        encoder = MiniLMEncoder(layer=2)
        if not (folder / SPACE_FILE).exists():
            networks, record = train_space(encoder, settings or SpaceSettings(seed=seed))
            save_space(folder, networks, record)
        self.embedder, self.decoder = SceneEmbedder(folder, encoder), SceneDecoder(folder)
        self.evaluated = evaluated
        self._pairs: dict[tuple[Split, int], Pairs] = {}
        self._negatives: dict[Split, list[Tensor]] = {}

    def pairs(self, split: Split, count: int) -> Pairs:
        """Return pairs of a split; a smaller set is the beginning of a larger one.

        Args:
            split: Whose scenes.
            count: How many.
        """
        known = next((pairs for (of, size), pairs in self._pairs.items() if of == split and size >= count), None)
        if known is None:
            drawn = drawn_scenes(split, count, _SEEDS[split])
            prompts = [phrase(scene) for scene, _ in drawn]
            texts = self.embedder.embed_texts(prompts)
            images = self.embedder.embed_images(list(pictures_of(drawn)))
            scenes = [scene for scene, _ in drawn]
            known = Pairs(scenes, prompts, texts.states.values, texts.states.mask, texts.pooled, images)
            self._pairs[split, count] = known
        return known.first(count)

    def run(self, job: Job, steps: int = STEPS, batch: int = BATCH) -> dict[str, Any]:
        """Run one job, and return its figures: on validation while tuning, else on test.

        Args:
            job: What to run.
            steps: Of training.
            batch: Pairs of a step.
        """
        split: Split = "validation" if job.part == "tuning" else "test"
        judged = self.pairs(split, self.evaluated)
        if job.arm in ("true", "text"):
            return self.figures(judged.images if job.arm == "true" else judged.texts, split)
        pairs = self.pairs("train", job.pairs)
        if job.arm == "ridge":
            maps = {
                choice: ridge(pairs.texts, pairs.images, choice)
                for choice in (PENALTIES if job.choice is None else (job.choice,))
            }
            return _best({choice: self.figures(map(judged.texts), split) for choice, map in maps.items()})
        begun = process_time()
        prior = self.trained(job, pairs, steps, batch)
        seconds = process_time() - begun
        if job.arm != "diffusion":
            found = self.figures(self.predicted(prior, judged, split), split)
            if job.arm == "eclipse" and job.part == "final":
                found["without_noise"] = self._without_noise(prior, judged, split)
            return found | {"train_s": round(seconds, 1)}
        tried = {}
        for guidance in GUIDANCES:
            prior.objective.guidance_scale = guidance  # type: ignore[attr-defined]
            tried[guidance] = self.figures(self.predicted(prior, judged, split), split)
        sweep = {str(guidance): figures["accuracy"] for guidance, figures in tried.items()}
        found = _best(tried) if job.choice is None else tried[job.choice]
        return found | {"sweep": sweep, "train_s": round(seconds, 1)}

    def trained(self, job: Job, pairs: Pairs, steps: int = STEPS, batch: int = BATCH) -> ImagePrior:
        """Train a prior with the shipped module through a trainer.

        Args:
            job: Objective, rate and seed.
            pairs: What it is trained on.
            steps: Of training.
            batch: Pairs of a step.
        """
        prior = ImagePrior(
            objective=_objective(job, pairs),
            embedder=self.embedder,
            decoder=self.decoder,
            network=NETWORK,
            optimizer=partial(torch.optim.AdamW, lr=job.rate, weight_decay=0.01),
            lr_scheduler=partial(CosineAnnealingWarmRestarts, T_0=steps),
            image_size_px=32,
            generation_chunk_size=self.evaluated,
            seed=job.seed,
        )
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=None,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a loader without workers
            trainer.fit(prior, DataLoader(Batches(pairs, batch, steps, job.seed), batch_size=None))
        prior.eval()
        return prior

    def predicted(self, prior: ImagePrior, judged: Pairs, split: Split) -> Tensor:
        """Return what a prior predicts for the scenes of a split, each from its own seed.

        Args:
            prior: Trained.
            judged: The scenes.
            split: Names the seeds.
        """
        requests = [
            ImageRequest(str(number), text, seed_of("eclipse", split, number), 32, 32)
            for number, text in enumerate(judged.prompts)
        ]
        return prior.embed(requests)

    def figures(self, predicted: Tensor, split: Split) -> dict[str, Any]:
        """Return the figures of embeddings of a split's scenes.

        Args:
            predicted: Float[scene, embedding].
            split: Whose.
        """
        judged = self.pairs(split, self.evaluated)
        requests = [ImageRequest(str(n), text, 0, 32, 32) for n, text in enumerate(judged.prompts)]
        images = self.decoder.decode(predicted, None, requests)
        right = [shows(scene, image) for scene, image in zip(judged.scenes, images, strict=True)]
        found = {
            "accuracy": sum(right) / len(right),
            "cosine_to_text": float(F.cosine_similarity(predicted, judged.texts).mean()),
            "cosine_to_image": float(F.cosine_similarity(predicted, judged.images).mean()),
            "squared_distance": float(((predicted - judged.images) ** 2).sum(-1).mean()),
            "norm": float(predicted.norm(dim=-1).mean()),
        }
        if split == "validation":  # nothing is chosen by retrieval
            return found
        first = [
            bool(F.cosine_similarity(one[None], texts).argmax() == 0)
            for one, texts in zip(predicted, self.negatives(split), strict=True)
        ]
        return found | {"hard_negatives": sum(first) / len(first)}

    def negatives(self, split: Split) -> list[Tensor]:
        """Return, per scene, the embeddings of its text and of its hard negatives, its own first.

        Args:
            split: Whose scenes.
        """
        if split not in self._negatives:
            source = SceneNegatives()
            prompts = self.pairs(split, self.evaluated).prompts
            lists = [[text, *source.negatives(text)] for text in prompts]
            texts = list(dict.fromkeys(text for of in lists for text in of))
            embedded = dict(zip(texts, self.embedder.embed_texts(texts).pooled, strict=True))
            self._negatives[split] = [torch.stack([embedded[text] for text in of]) for of in lists]
        return self._negatives[split]

    def _without_noise(self, prior: ImagePrior, judged: Pairs, split: Split) -> float:
        assert prior.transformer is not None
        with torch.no_grad():
            found = prior.transformer(torch.zeros_like(judged.texts), judged.texts, judged.states, judged.mask)
        return float(self.figures(found, split)["accuracy"])


def _objective(job: Job, pairs: Pairs) -> Any:
    match job.arm:
        case "projection":
            return ProjectionObjective(reduction="sum")
        case "eclipse":
            return EclipseObjective(contrastive_weight=job.weight, reduction="sum", temperature=TEMPERATURE)
        case _:
            scale = 1.0 / float(pairs.images.std())
            return DiffusionPriorObjective(guidance_scale=GUIDANCES[-1], embedding_scale=scale)


def _best(tried: dict[float, dict[str, Any]]) -> dict[str, Any]:
    choice = max(tried, key=lambda key: float(tried[key]["accuracy"]))
    return tried[choice] | {"choice": choice}


def quiet() -> None:
    """Keep Lightning's banners out of the output, and one thread per process."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
