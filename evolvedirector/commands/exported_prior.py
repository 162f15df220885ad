"""What `evolvedirector export` writes of a prior: its network, what builds it again, and how to draw with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from torch import nn

from evolvedirector.commands.exported_files import student_text
from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import ImagePrior, KandinskyDecoder
from evolvedirector.lightning_modules.families.family import Layout
from evolvedirector.models.clip_embedder import ClipEmbedder
from evolvedirector.models.clip_towers import SUBFOLDERS
from evolvedirector.models.exported_student import NETWORK, STUDENT
from evolvedirector.models.model_files import find_model
from evolvedirector.store.paths import hub_name


def check_prior_form(layout: Layout | None, merged: bool) -> None:
    """Refuse forms of export that are about a LoRA.

    Args:
        layout: Of a LoRA's file. None: not asked for.
        merged: Whether a LoRA is to be fused into its base.

    Raises:
        UserError: One is asked for.
    """
    if merged or layout:
        given = "--merged" if merged else f"--layout {layout}"
        raise UserError(
            f"{given} is about a LoRA, but a prior is trained whole. It is exported as its network with {STUDENT}. "
            f"Leave {given} out."
        )


def write_prior(module: ImagePrior, network: nn.Module, model: Namespace, folder: Path) -> str:
    """Write the network in the layout of diffusers, and what builds the prior around it.

    Args:
        module: The prior.
        network: Plain, with the weights that are exported.
        model: The `model` part of the run's config.
        folder: Is there, and empty.

    Returns:
        Python that uses it.
    """
    saved: Any = network
    saved.save_pretrained(folder / NETWORK, safe_serialization=True)
    (folder / STUDENT).write_text(student_text(model), encoding="utf-8")
    return usage_of_prior(module)


def usage_of_prior(module: ImagePrior) -> str:
    """Return Python that uses an exported prior: the thin pipeline where there is one for its decoder.

    Args:
        module: The prior.
    """
    load = [f'prior = EclipsePrior.from_pretrained("{NETWORK}")']
    draws = "# With its decoder: evolvedirector generate THIS_FOLDER --prompts ...\n" if module.decoder else ""
    own = "from evolvedirector.lightning_modules.priors.prior_transformer import EclipsePrior"
    embedder, decoder = module.embedder, module.decoder
    if module.objective.reads_time or module.network.reads_edges or not isinstance(embedder, ClipEmbedder):
        return "\n".join((f"{draws}{own}", "", *load))  # no stock encoder or decoder reads its space in one call
    text = f'"{hub_name(embedder.model)}"'
    revision = {"revision": embedder.revision}
    inside = find_model(embedder.model, embedder.revision, SUBFOLDERS["text"]).subfolder or None
    encoder = _written(revision | {"subfolder": inside})
    words = _written(revision | {"subfolder": "tokenizer" if inside else None})
    width = f"projection_dim={module.network.embedding_dim}"  # a half of a CLIP often says another one
    load += [
        f"text_encoder = CLIPTextModelWithProjection.from_pretrained({text}{encoder}, {width})",
        f"tokenizer = CLIPTokenizer.from_pretrained({text}{words})",
    ]
    classes = ["CLIPTextModelWithProjection", "CLIPTokenizer"]
    if isinstance(decoder, KandinskyDecoder) and decoder.image_encoder is not None:
        pipeline, classes = "EclipseKandinskyPipeline", [*classes, "CLIPVisionModelWithProjection"]
        place = decoder.image_encoder
        options = {"revision": place.revision, "subfolder": place.subfolder}
        vision = f'"{hub_name(place.name)}"{_written(options)}'
        load += [
            f"image_encoder = CLIPVisionModelWithProjection.from_pretrained({vision})",
            f"pipeline = {pipeline}.from_pretrained(",
            f'    "{hub_name(decoder.model)}"{_written({"revision": decoder.revision})},',
            "    prior=prior, text_encoder=text_encoder, tokenizer=tokenizer, image_encoder=image_encoder,",
            ")",
            f'image = pipeline("a prompt", height={module.image_size_px}, width={module.image_size_px}).images[0]',
        ]
    else:
        pipeline = "EclipsePriorPipeline"
        load += [
            f"pipeline = {pipeline}(prior, text_encoder, tokenizer)",
            'embeddings = pipeline("a prompt").image_embeds  # raw, for a decoder of this space',
        ]
    imports = [
        f"from transformers import {', '.join(sorted(classes))}",
        "",
        own,
        f"from evolvedirector.models.{_file(pipeline)} import {pipeline}",
    ]
    return "\n".join((draws + imports[0], *imports[1:], "", *load))


def settings_of_prior(module: ImagePrior) -> dict[str, str]:
    """Name what decides what the weights mean: loss, embedder, decoder.

    Args:
        module: The prior.
    """
    losses = "; ".join(f"{name} {value}" for name, value in module.loss_settings().items())
    decoder = "none" if module.decoder is None else type(module.decoder).__name__
    space = f"{type(module.embedder).__name__}, width {module.network.embedding_dim}"
    return {"Loss": losses, "Embeddings": space, "Drawn by": decoder}


def _written(options: Mapping[str, str | None]) -> str:
    return "".join(f', {name}="{value}"' for name, value in options.items() if value is not None)


def _file(name: str) -> str:
    """Return the module of one of the two pipelines."""
    return {"EclipsePriorPipeline": "eclipse_prior_pipeline"}.get(name, "eclipse_kandinsky_pipeline")
