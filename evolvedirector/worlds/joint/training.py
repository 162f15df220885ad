"""Train the joint space: contrast of texts and images, and a decoder beside the image tower; then the gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from evolvedirector.records import seed_of
from evolvedirector.worlds.joint.networks import MAX_TOKENS, ImageTower, PictureDecoder, TextTower
from evolvedirector.worlds.joint.picture import picture
from evolvedirector.worlds.joint.space_files import SpaceRecord, weights_digest
from evolvedirector.worlds.joint.token_states import TokenStates
from evolvedirector.worlds.joint.world import JOINT_WORLD, drawn_scenes
from evolvedirector.worlds.shapes.atoms import matches
from evolvedirector.worlds.shapes.grammar import phrase
from evolvedirector.worlds.shapes.reader import read
from evolvedirector.worlds.shapes.scene import Scene

GATE = 0.93
"""Least share of withheld scenes read right from true embeddings: below it, no figure about priors means anything."""
_GATE_SEED = 987_654
_RATE = 2e-3
_WARM_UP = 50
_TEMPERATURE = 0.07
_PICTURE_WEIGHT = 30.0
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SpaceSettings:
    """How a joint space is trained.

    Args:
        seed: Of weights, scenes and pictures.
        steps: Of 64 pairs.
        pictures: Different ones, over all kinds of scenes and all splits: as CLIP and its decoders have seen far more
            than a prior, the space knows the kinds that are withheld from priors.
        batch: Pairs of a step.
        gate_images: Withheld scenes that the gate is measured on, new pictures all.
    """

    seed: int = 0
    steps: int = 1200
    pictures: int = 12_000
    batch: int = 64
    gate_images: int = 360


def train_space(
    text_encoder: TokenStates, settings: SpaceSettings, tell: Tell = print
) -> tuple[dict[str, nn.Module], SpaceRecord]:
    """Train the three networks together, and measure the gate.

    The loss is the symmetric contrast of CLIP (same texts are no negatives) plus the squared error of the pictures that
    the decoder draws from the image embeddings.

    Args:
        text_encoder: Whose token states are read.
        settings: Seed and length.
        tell: Takes a line of progress.

    Returns:
        `text`, `image` and `decoder`, and what they are. A gate below `GATE` is told, never hidden.
    """
    drawn = _drawn(settings)
    pixels = pictures_of(drawn)
    tell(f"{len(drawn)} pictures drawn")
    texts = list(dict.fromkeys(phrase(scene) for scene, _ in drawn))
    states, mask = encode(text_encoder, texts)
    place = {text: number for number, text in enumerate(texts)}
    text_of = torch.tensor([place[phrase(scene)] for scene, _ in drawn])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("joint space", settings.seed) % 2**32)
        networks: dict[str, nn.Module] = {"text": TextTower(), "image": ImageTower(), "decoder": PictureDecoder()}
    _fit(networks, _Pairs(pixels, states, mask, text_of), settings, tell)
    for network in networks.values():
        network.eval().requires_grad_(False)
    gate = gate_share(networks["image"], networks["decoder"], settings.gate_images)
    tell(
        f"gate: {gate:.3f} of {settings.gate_images} withheld scenes read right from true embeddings ({GATE} is needed)"
    )
    digest = weights_digest(networks)
    record = SpaceRecord(text_encoder.fingerprint, digest, settings.seed, settings.steps, gate, settings.gate_images)
    return networks, record


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Pictures uint8 [pair, 3, 32, 32], token states and mask by text, and which text each picture has."""

    pixels: Tensor
    states: Tensor
    mask: Tensor
    text_of: Tensor


def _fit(networks: dict[str, nn.Module], pairs: _Pairs, settings: SpaceSettings, tell: Tell) -> None:
    weights = [weight for network in networks.values() for weight in network.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=_RATE, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(settings.seed)
    for step in range(settings.steps):
        rate = _RATE * min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = torch.randint(len(pairs.text_of), (settings.batch,), generator=generator)
        said = pairs.text_of[rows]
        contrast, error = _losses(networks, pairs.states[said], pairs.mask[said], said, pairs.pixels[rows])
        optimizer.zero_grad()
        (contrast + _PICTURE_WEIGHT * error).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if (step + 1) % 200 == 0:
            tell(f"step {step + 1} of {settings.steps}: contrast {contrast.item():.3f}, picture {error.item():.4f}")


def gate_share(image: nn.Module, decoder: nn.Module, count: int) -> float:
    """Return the share of withheld scenes that are read right when decoded from the embeddings of their pictures.

    Args:
        image: The image tower.
        decoder: Of pictures.
        count: Scenes, spread over skills; half have kinds of validation, half kinds of test.
    """
    drawn = [*drawn_scenes("validation", count // 2, _GATE_SEED), *drawn_scenes("test", count // 2, _GATE_SEED)]
    right = []
    for start in range(0, len(drawn), 64):
        some = drawn[start : start + 64]
        with torch.no_grad():
            found = decoder(image(pictures_of(some).float() / 127.5 - 1)).clamp(-1, 1)
        values = ((found + 1) * 127.5).round().to(torch.uint8)
        right += [shows(scene, value) for (scene, _), value in zip(some, values, strict=True)]
    return sum(right) / len(right)


def shows(scene: Scene, image: Tensor) -> bool:
    """Tell whether an image shows exactly a scene, by the exact reader.

    Args:
        scene: What it should show.
        image: uint8 (3, height, width).
    """
    return matches(scene, read(Image.fromarray(image.permute(1, 2, 0).numpy()), JOINT_WORLD))


def pictures_of(drawn: Sequence[tuple[Scene, int]]) -> Tensor:
    """Draw scenes as uint8 (scene, 3, 32, 32).

    Args:
        drawn: Scenes and seeds.
    """
    pixels = np.stack([np.asarray(picture(scene, seed)) for scene, seed in drawn])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def encode(text_encoder: TokenStates, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the token states of texts, float16, and their mask.

    Args:
        text_encoder: Encodes them.
        texts: Any.
    """
    found = [text_encoder.encode(texts[start : start + 128], MAX_TOKENS) for start in range(0, len(texts), 128)]
    return torch.cat([states.cpu().half() for states, _ in found]), torch.cat([mask.cpu() for _, mask in found])


def _drawn(settings: SpaceSettings) -> list[tuple[Scene, int]]:
    return drawn_scenes(None, settings.pictures, settings.seed)


def _losses(
    networks: dict[str, nn.Module], states: Tensor, mask: Tensor, said: Tensor, pixels: Tensor
) -> tuple[Tensor, Tensor]:
    images = pixels.float() / 127.5 - 1
    length = int(mask.sum(1).max())
    texts = networks["text"](states[:, :length].float(), mask[:, :length])
    embedded = networks["image"](images)
    cosines = F.normalize(embedded, dim=1) @ F.normalize(texts, dim=1).T / _TEMPERATURE
    own = torch.arange(len(said))
    same = said[:, None] == said[None]
    same[own, own] = False
    cosines = cosines.masked_fill(same, -torch.inf)
    contrast = (F.cross_entropy(cosines, own) + F.cross_entropy(cosines.T, own)) / 2
    return contrast, F.mse_loss(networks["decoder"](embedded), images)
