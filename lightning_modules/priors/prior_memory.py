"""Predict what a prior's work takes on a device: its own step, run on tensors without memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from evolvedirector.lightning_modules.faked import autocast_of, faked
from evolvedirector.lightning_modules.priors.prior_condition import PriorCondition
from evolvedirector.lightning_modules.priors.prior_network import PriorNetwork
from evolvedirector.lightning_modules.priors.prior_objective import PriorDraws, PriorObjective, draw_for_prior
from evolvedirector.models.embedding_decoder import EmbeddingDecoder
from evolvedirector.planning.memory import WorkBytes


@runtime_checkable
class PredictsDecoding(Protocol):
    """A decoder that can say what drawing takes, before its weights are there."""

    def decoding_bytes(self, height_px: int, width_px: int) -> int:
        """Predict the peak over its weights, for images of this size."""
        ...


@dataclass(frozen=True, slots=True)
class PriorWork:
    """What is to be predicted.

    Args:
        network: On the meta device; a copy is used.
        numbers: Of the network.
        objective: Of the training.
        decoder: Draws. None: nothing does.
        batch_size: Of one training step on one device; texts count with all tokens that the network reads.
        precision: Lightning's.
        chunk: Embeddings predicted at once.
        side_px: Of drawn images.
    """

    network: nn.Module
    numbers: PriorNetwork
    objective: PriorObjective
    decoder: EmbeddingDecoder | None
    batch_size: int
    precision: str
    chunk: int
    side_px: int


def predict_prior_work(work: PriorWork) -> WorkBytes:
    """Trace a training step, a pass of drawing and the decoder; what cannot be traced is named with the reason.

    Args:
        work: To predict.
    """
    found: dict[str, int] = {}  # in bytes
    unknown: dict[str, str] = {}
    attempts: dict[str, Callable[[], int]] = {"train": lambda: _training(work), "network": lambda: _drawing(work)}
    decoder = work.decoder
    if isinstance(decoder, PredictsDecoding):
        attempts["decode"] = lambda: decoder.decoding_bytes(work.side_px, work.side_px)
    elif decoder is not None:
        unknown["decode"] = f"{type(decoder).__name__} does not say what drawing takes"
    for name, attempt in attempts.items():
        try:
            found[name] = attempt()
        except Exception as error:  # layers of other packages, or configs that are not on this machine
            unknown[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    draw = max((found[name] for name in ("network", "decode") if name in found), default=None)
    return WorkBytes(found.get("train"), draw if decoder is not None else None, None, unknown)


def _training(work: PriorWork) -> int:
    """Return the peak of a step over weights, optimizer and the gradients that stay from the step before."""
    _make_tables(work)
    with faked(work.network) as (network, tracker):
        trained = [part for part in network.parameters() if part.requires_grad]
        for part in trained:
            part.grad = torch.empty_like(part)
        before = tracker.live_bytes
        seeds = torch.zeros(work.batch_size, dtype=torch.int64)
        condition, target = _condition(work, work.batch_size), torch.empty(work.batch_size, work.numbers.embedding_dim)
        draws = draw_for_prior(seeds, work.objective, work.numbers.embedding_dim)
        prompts = [str(number) for number in range(work.batch_size)]
        with autocast_of(work.precision):
            predict = _predict_with(network, seeds if work.numbers.dropout else None)
            loss = work.objective.losses(predict, target, condition, draws, prompts).total.mean()
        for part in trained:
            part.grad = None
        loss.backward()
        return tracker.peak_bytes - before


def _make_tables(work: PriorWork) -> None:
    """Let an objective make the tables that it keeps: first made without memory, they would stay so for all."""
    width = work.numbers.embedding_dim
    condition = PriorCondition(torch.ones(1, width), torch.ones(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))
    draws = PriorDraws(torch.zeros(1, dtype=torch.bool), torch.zeros(1), torch.ones(1, width))
    work.objective.losses(lambda noise, _, __: noise, torch.ones(1, width), condition, draws, [""])


def _drawing(work: PriorWork) -> int:
    """Return the peak of one pass of the network."""
    with faked(work.network) as (network, tracker), torch.no_grad():
        network.eval()
        rows = work.chunk * (2 if work.objective.guides else 1)
        time = torch.empty(rows) if work.objective.reads_time else None
        with autocast_of(work.precision):
            noise = torch.empty(rows, work.numbers.embedding_dim)
            _predict_with(network, None)(noise, time, _condition(work, rows))
        return tracker.peak_bytes


def _condition(work: PriorWork, rows: int) -> PriorCondition:
    numbers = work.numbers
    pooled = torch.empty(rows, numbers.embedding_dim)
    states = torch.empty(rows, numbers.text_length, numbers.text_width)
    mask = torch.ones(rows, numbers.text_length, dtype=torch.bool)
    edges = torch.empty(rows, numbers.embedding_dim) if numbers.reads_edges else None
    return PriorCondition(pooled, states, mask, edges)


def _predict_with(network: nn.Module, seeds: Tensor | None) -> Any:
    def predict(noise: Tensor, time: Tensor | None, condition: PriorCondition) -> Tensor:
        given = (condition.text_embedding, condition.text_states, condition.text_mask, time, condition.edge_embedding)
        found: Tensor = network(noise, *given, False, seeds)
        return found

    return predict
