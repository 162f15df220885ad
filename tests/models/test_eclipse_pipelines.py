"""The thin pipelines are a prior and the stock decoder by hand, and take nothing that means nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.priors.prior_transformer import EclipsePrior
from evolvedirector.models.eclipse_kandinsky_pipeline import EclipseKandinskyPipeline
from evolvedirector.models.eclipse_prior_pipeline import EclipsePriorPipeline
from tests.lightning_modules.decoders.tiny_decoders import WIDTH, clip_vision, kandinsky_decoder
from tests.lightning_modules.families.tiny_sd import awake
from tests.teachers.tiny_pipelines import clip_text, clip_tokenizer

NUMBERS = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1}


def tiny_prior(**options: Any) -> EclipsePrior:
    network = EclipsePrior(**NUMBERS, embedding_dim=WIDTH, **options).eval()
    awake(network)
    return network


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = kandinsky_decoder()
        found = {
            **{"prior": tiny_prior(), "text_encoder": clip_text(WIDTH, projected=True).eval()},
            **{"tokenizer": clip_tokenizer(tmp_path_factory.mktemp("words")), "image_encoder": clip_vision().eval()},
        }
    return found | {"unet": decoder.unet.eval(), "scheduler": decoder.scheduler, "movq": decoder.movq.eval()}


def first_half(parts: dict[str, Any]) -> EclipsePriorPipeline:
    return EclipsePriorPipeline(
        **{name: parts[name] for name in ("prior", "text_encoder", "tokenizer", "image_encoder")}
    )


def whole(parts: dict[str, Any]) -> EclipseKandinskyPipeline:
    pipeline = EclipseKandinskyPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_it_equals_a_prior_and_the_stock_decoder_by_hand(parts: dict[str, Any]) -> None:
    from diffusers import KandinskyV22Pipeline

    prompts = ["a red circle", "two stars"]
    with torch.no_grad():
        tokens = parts["tokenizer"](prompts, padding="max_length", max_length=77, return_tensors="pt")
        texts = parts["text_encoder"](tokens.input_ids, attention_mask=tokens.attention_mask)
        generator = torch.Generator().manual_seed(5)
        noise = torch.randn(2, WIDTH, generator=generator)
        embeddings = parts["prior"](noise, texts.text_embeds, texts.last_hidden_state, tokens.attention_mask.bool())
        zeros = parts["image_encoder"](torch.zeros(1, 3, 16, 16)).image_embeds.repeat(2, 1)
    stock = KandinskyV22Pipeline(parts["unet"], parts["scheduler"], parts["movq"])
    stock.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 3, "guidance_scale": 7.5}
    wanted = stock(embeddings, zeros, generator=generator, **settings).images
    drawn = whole(parts)(
        prompts, height=16, width=16, decoder_steps=3, generator=torch.Generator().manual_seed(5)
    ).images
    for image, by_hand in zip(drawn, wanted, strict=True):
        assert np.asarray(image).std() > 5
        assert np.array_equal(np.asarray(image), np.asarray(by_hand))


def test_the_first_half_gives_raw_embeddings_to_any_decoder_of_the_space(parts: dict[str, Any]) -> None:
    pipeline, again = first_half(parts), torch.Generator()
    found = pipeline("a red circle", num_images_per_prompt=2, generator=again.manual_seed(1))
    assert found.image_embeds.shape == (2, WIDTH) and found.image_embeds.abs().max() > 0
    assert not torch.equal(found.image_embeds[0], found.image_embeds[1]), "of other noise"
    with torch.no_grad():
        zero = parts["image_encoder"](torch.zeros(1, 3, 16, 16)).image_embeds
    assert torch.equal(found.negative_image_embeds, zero.repeat(2, 1))
    away = pipeline("a red circle", "two stars", generator=again.manual_seed(1)).negative_image_embeds
    pipeline("a red circle", generator=again.manual_seed(1))
    assert torch.equal(away, pipeline("two stars", generator=again).image_embeds), "the prior's answer to it"
    bare = EclipsePriorPipeline(parts["prior"], parts["text_encoder"], parts["tokenizer"])
    assert bare("a red circle").negative_image_embeds is None


@pytest.mark.parametrize("given", [[], ["a", "b"], ["a", "b", "c"]])
def test_negative_prompts_are_one_or_one_per_prompt(parts: dict[str, Any], given: list[str]) -> None:
    with pytest.raises(UserError, match=f"{len(given)} negative prompts for 1 prompt"):
        first_half(parts)("a red circle", given, num_images_per_prompt=2)


@pytest.mark.parametrize("name", ["num_inference_steps", "guidance_scale", "latents", "prior_guidance_scale", "colour"])
def test_arguments_that_mean_nothing_are_refused(parts: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError, match=f"{name}.*Leave {name} out"):
        first_half(parts)("a red circle", **{name: 4})
    with pytest.raises(UserError, match=name):
        whole(parts)("a red circle", **{name: 4})


def test_priors_of_other_kinds_and_spaces_are_refused(parts: dict[str, Any]) -> None:
    from diffusers import PriorTransformer

    for other, words in (
        (PriorTransformer(**NUMBERS, embedding_dim=WIDTH), "PriorTransformer that is sampled in steps"),
        (tiny_prior(reads_time=True), "sampled in steps"),
        (tiny_prior(reads_edges=True), "reads_edges"),
    ):
        with pytest.raises(UserError, match=words):
            first_half(parts | {"prior": other})
    with pytest.raises(UserError, match="width 24, but the decoder reads 32"):
        whole(parts | {"prior": EclipsePrior(**NUMBERS, embedding_dim=24)})


def test_it_is_saved_and_loaded_as_diffusers_does(parts: dict[str, Any], tmp_path: Path) -> None:
    whole(parts).save_pretrained(tmp_path)
    loaded = EclipseKandinskyPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"height": 16, "width": 16, "decoder_steps": 2, "output_type": "np"}
    first, second = (
        pipeline("a red circle", generator=torch.Generator().manual_seed(2), **options).images
        for pipeline in (whole(parts), loaded)
    )
    assert np.abs(first - second).max() < 1.5 / 255  # mapped weights are not aligned, and take other kernels


def test_stock_prior_pipelines_do_not_take_our_prior_silently(parts: dict[str, Any], tmp_path: Path) -> None:
    from diffusers import KandinskyV22PriorPipeline, PriorTransformer, UnCLIPScheduler

    parts["prior"].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="prd_of_eclipse"):
        PriorTransformer.from_pretrained(tmp_path)
    names = ("prior", "text_encoder", "tokenizer", "image_encoder")
    stock = KandinskyV22PriorPipeline(
        **{name: parts[name] for name in names},
        scheduler=UnCLIPScheduler(prediction_type="sample"),
        image_processor=None,
    )
    stock.set_progress_bar_config(disable=True)
    with pytest.raises(TypeError, match="proj_embedding"):
        stock("a red circle")
