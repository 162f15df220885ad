"""Predict what a student's work takes on a device: its own forward and backward pass, run on tensors without memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.codec import latent_shape
from evolvedirector.lightning_modules.codecs.pixels import Pixels
from evolvedirector.lightning_modules.faked import autocast_of, faked
from evolvedirector.lightning_modules.families.family import Family, GuidesItself
from evolvedirector.lightning_modules.frozen_model import FrozenModel
from evolvedirector.lightning_modules.latents import encode_chunk, posterior_of
from evolvedirector.lightning_modules.learned_variance import learns_variance
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.objectives.resolution_flow import at_resolution
from evolvedirector.lightning_modules.text_cache import ENCODE_CHUNK as TEXT_CHUNK
from evolvedirector.lightning_modules.text_encoders.text_encoder import (
    PooledTextEncoder,
    TextEncoder,
    bytes_per_value,
)
from evolvedirector.lightning_modules.text_encoders.tokenizer import Tokenizer
from evolvedirector.planning.memory import WorkBytes, sizes_of
from evolvedirector.records.condition import Condition, Extras, Size, TextStates, join
from evolvedirector.records.part import OnDevice

_CPU = torch.device("cpu")


@runtime_checkable
class HoldsFrozen(Protocol):
    """A codec or text encoder whose layers can be had without reading their weights."""

    frozen: FrozenModel


@runtime_checkable
class ReadsTokens(Protocol):
    """A text encoder with a tokenizer beside its layers."""

    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be predicted.

    Args:
        family: Of the network.
        objective: Of the training.
        network: Assembled on the meta device, with its adapters; a copy is used.
        batch_size: Of one training step on one device.
        size: Of the training images; with buckets, of the largest.
        precision: Lightning's.
        chunk: Images drawn at once.
        drawn: Size of the drawn images.
        guidance_scale: Of them.
        encodes: Whether a training step encodes its images itself.
        encodes_texts: Likewise its texts.
    """

    family: Family
    objective: Objective
    network: nn.Module
    batch_size: int
    size: Size
    precision: str
    chunk: int
    drawn: Size
    guidance_scale: float
    encodes: bool
    encodes_texts: bool = False


def predict_work(work: Work) -> WorkBytes:
    """Run a step, a drawing, text encoders and codec on tensors that have shapes and no memory; trace what they take.

    The kernels are those that torch chooses on a CPU. What cannot run in this way is named with the reason.

    Args:
        work: To predict.
    """
    found: dict[str, int] = {}  # in bytes
    unknown: dict[str, str] = {}
    is_latent = not isinstance(work.family.codec, Pixels)
    attempts: dict[str, Callable[[], int]] = {"train": lambda: _training(work), "network": lambda: _drawing(work)}
    if any(isinstance(part, OnDevice) for part in work.family.text_encoders.values()):  # others are small tables
        attempts["texts"] = lambda: _texts(work.family)
    if is_latent:
        attempts |= {"encode": lambda: _codec(work, decodes=False), "decode": lambda: _codec(work, decodes=True)}
    for name, attempt in attempts.items():
        try:
            found[name] = attempt()
        except Exception as error:  # layers of other packages, which may read values, or know no tensors without memory
            unknown[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    if work.encodes and "train" in found:
        found["train"] = max(found["train"], found.get("encode", 0))
    parts = ("network", "decode") if is_latent else ("network",)
    draw = max((found[name] for name in parts if name in found), default=None)
    cached = {} if work.encodes_texts else dict(work.family.text_encoders)
    cached |= {} if work.encodes else {"codec": work.family.codec}
    away = sum(sizes_of(cached).values())
    return WorkBytes(found.get("train"), draw, found.get("encode"), unknown, found.get("texts"), away)


def _training(work: Work) -> int:
    """Return the peak of a step over weights, optimizer and the gradients that stay from the step before."""
    objective = at_resolution(work.objective, work.family.tokens(work.size))
    _make_tables(objective, work.family.codec.channels)
    with faked(work.network) as (network, tracker):
        trained = [part for part in network.parameters() if part.requires_grad]
        for part in trained:
            part.grad = torch.empty_like(part)
        before = tracker.live_bytes
        shape = (work.batch_size, *latent_shape(work.family.codec, work.size))
        clean, noise = torch.empty(shape), torch.empty(shape)
        times = torch.empty(work.batch_size)
        with autocast_of(work.precision):
            noisy = objective.corrupt(clean, noise, times)
            condition = _condition(work.family, _states(work.family, work.batch_size), work.size, None)
            prediction = work.family.predict(network, noisy, objective.transformer_time(times), condition)
            if not learns_variance(objective):
                prediction = prediction[:, : noisy.shape[1]]
            loss = objective.loss(prediction, clean, noise, times).mean()
            del prediction, condition
        for part in trained:
            part.grad = None
        loss.backward()
        return tracker.peak_bytes - before


def _make_tables(objective: Objective, channels: int) -> None:
    """Let an objective make the tables that it keeps: first made without memory, they would stay so for all."""
    clean, times = torch.zeros(1, channels, 1, 1), torch.zeros(1)
    objective.corrupt(clean, clean, times)
    objective.transformer_time(times)
    prediction = torch.cat([clean, clean], dim=1) if learns_variance(objective) else clean
    objective.loss(prediction, clean, clean, times)


def _drawing(work: Work) -> int:
    """Return the peak of one step of the sampler."""
    family = work.family
    with faked(work.network) as (network, tracker), torch.no_grad():
        network.eval()
        noisy = torch.empty(work.chunk, *latent_shape(family.codec, work.drawn))
        own = family if isinstance(family, GuidesItself) else None
        scale = work.guidance_scale
        guided = scale != 1 if own is None else own.needs_null(scale)
        with autocast_of(work.precision):
            states = _states(family, work.chunk)
            condition = _condition(family, states, work.drawn, scale)
            null = _condition(family, _states(family, work.chunk), work.drawn, scale) if guided else None
            both = condition if null is None else join([condition, null])
            doubled = noisy if null is None else torch.cat([noisy, noisy])
            family.predict(network, doubled, torch.empty(len(doubled)), both)
        return tracker.peak_bytes


def _codec(work: Work, decodes: bool) -> int:
    """Return the peak of encoding a chunk of training images, or of decoding drawn ones."""
    codec = work.family.codec
    with faked(_frozen_of(codec).without_weights()) as (model, tracker):
        empty: Any = copy.copy(codec)
        empty.frozen = empty.frozen.holding(model)
        if decodes:
            empty.decode(torch.empty(work.chunk, *latent_shape(codec, work.drawn)))
        else:
            posterior_of(empty, torch.empty(encode_chunk(work.size), 3, *work.size, dtype=torch.uint8))
        return tracker.peak_bytes


def _texts(family: Family) -> int:
    """Return the peak of encoding a chunk of texts; encoders work one after another, all of full length."""
    holders = [
        (encoder, _frozen_of(encoder)) for encoder in family.text_encoders.values() if isinstance(encoder, OnDevice)
    ]
    for encoder, frozen in holders:
        if isinstance(encoder, ReadsTokens):
            if encoder.tokenizer.component.local_folder() is None:
                raise UserError(f"the tokenizer of {frozen.component.name!r} is not on this machine")
            encoder.tokenizer.load()
    models = nn.ModuleList(frozen.without_weights() for _, frozen in holders)
    with faked(models) as (lent, tracker):
        try:
            for (encoder, frozen), model in zip(holders, cast(nn.ModuleList, lent), strict=True):
                vars(encoder)["frozen"] = frozen.holding(model)
            family.encode_text(["a prompt"] * TEXT_CHUNK)
        finally:
            for encoder, frozen in holders:
                vars(encoder)["frozen"] = frozen
        return tracker.peak_bytes


def _frozen_of(part: object) -> FrozenModel:
    if not isinstance(part, HoldsFrozen):
        raise UserError(f"{type(part).__name__} cannot be had without its weights")
    return part.frozen


def _states(family: Family, count: int) -> TextStates:
    with _standing_in(family):
        return family.encode_text(["a prompt"] * count)


def _condition(family: Family, states: TextStates, size: Size, guidance: float | None) -> Condition:
    return family.condition(states, [size] * states.count, Extras({}, guidance)).to(_CPU, torch.float32)


@contextmanager
def _standing_in(family: Family) -> Iterator[None]:
    """Let text encoders return states of the shape that they describe, with every token real, for a while."""
    encoders = list(family.text_encoders.values())
    for encoder in encoders:
        dtype = torch.bfloat16 if bytes_per_value(encoder) == 2 else torch.float32
        if isinstance(encoder, PooledTextEncoder):
            vars(encoder)["encode_pooled"] = _pooled(encoder, dtype)
        elif isinstance(encoder, TextEncoder):
            vars(encoder)["encode"] = _plain(encoder, dtype)
    try:
        yield
    finally:
        for encoder in encoders:
            vars(encoder).pop("encode_pooled", None)
            vars(encoder).pop("encode", None)


def _plain(encoder: TextEncoder, dtype: torch.dtype) -> Callable[[Sequence[str], int], tuple[Tensor, Tensor]]:
    def encode(texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        states = torch.empty(len(texts), max_tokens, encoder.dimension, dtype=dtype)
        return states, torch.ones(len(texts), max_tokens, dtype=torch.bool)

    return encode


def _pooled(encoder: PooledTextEncoder, dtype: torch.dtype) -> Callable[[Sequence[str]], tuple[Tensor, Tensor]]:
    def encode_pooled(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        states = torch.empty(len(texts), encoder.max_tokens, encoder.dimension, dtype=dtype)
        return states, torch.empty(len(texts), encoder.pooled_dimension, dtype=dtype)

    return encode_pooled
