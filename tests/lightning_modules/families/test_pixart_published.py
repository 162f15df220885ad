"""PixArt-alpha at 1024 px, PixArt-Sigma and Edgen on tiny whole pipelines: the published loss, the stock images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import Autoencoder, DDPMEpsilon, PixArt, T5Encoder, TextToImage
from evolvedirector.lightning_modules.draws import draw
from evolvedirector.lightning_modules.families.edgen import QKNormPixArtTransformer2DModel
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Size
from tests.lightning_modules.objectives.test_variational_bound import bits_by_hand
from tests.teachers.tiny_pipelines import kl_autoencoder, t5_text, word_tokenizer

PROMPT = " A Red circle left of a blue star\n"  # the stock pipeline puts it in lower case and strips it
TOKENS = 12
NUMBERS: dict[str, Any] = {"sample_size": 128, "layers": 2, "heads": 2, "head_dim": 12, "out_channels": 8}
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Version(NamedTuple):
    """What tells the published networks apart."""

    family: dict[str, Any]
    pipeline: Any
    sized: bool


VERSIONS = {
    "alpha": Version({}, PixArtAlphaPipeline, True),
    "sigma": Version({"version": "sigma"}, PixArtSigmaPipeline, False),
    "edgen": Version({"qk_norm": True}, PixArtAlphaPipeline, True),
}
Saved = Callable[[str], Path]


def tokenizer() -> Any:
    made = word_tokenizer(TOKENS)
    end = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])  # as T5's: an empty text has one token
    made.backend_tokenizer.post_processor = end
    return made


def save(folder: Path, name: str) -> Path:
    """Write the stock pipeline that a version starts from."""
    name = "alpha" if name == "edgen" else name
    torch.manual_seed(0)
    network = PixArtTransformer2DModel(
        **{"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "cross_attention_dim": 24},
        **{"sample_size": 128, "caption_channels": 32, "use_additional_conditions": VERSIONS[name].sized},
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    parts = (tokenizer(), t5_text(), kl_autoencoder(scaling_factor=0.5), network, DPMSolverMultistepScheduler())
    VERSIONS[name].pipeline(*parts).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Whole stock pipelines, as published ones lie on a hub; Edgen starts from that of PixArt-alpha."""
    folder = tmp_path_factory.mktemp("pixart")
    for name in ("alpha", "sigma"):
        save(folder / name, name)
    return lambda name: folder / ("alpha" if name == "edgen" else name)


def student(saved: Saved, name: str, **changes: Any) -> TextToImage:
    folder = str(saved(name))
    encoder = T5Encoder(folder, None, 32, "float32", "text_encoder", "tokenizer")
    codec = Autoencoder(folder, downscaling=2, subfolder="vae")
    start = {"pretrained": folder, "pretrained_subfolder": "transformer", "text_length": TOKENS}
    module = TextToImage(
        PixArt(encoder, codec=codec, **(NUMBERS | start | VERSIONS[name].family | changes)),
        DDPMEpsilon(variational_weight=0.001),
        256,
        guidance_scale=4.5,
        sampling_steps=3,
        generation_chunk_size=1,
        condition_dropout=0.0,
    )
    module.configure_model()
    return module


def stock(saved: Saved, name: str) -> Any:
    """Load the stock pipeline; Edgen's network is asked through our class, on the weights of PixArt-alpha."""
    pipeline = VERSIONS[name].pipeline.from_pretrained(saved(name))
    if name == "edgen":
        ours = QKNormPixArtTransformer2DModel(**NUMBERS_OF_EDGEN)
        ours.load_state_dict(pipeline.transformer.state_dict())  # type: ignore[attr-defined]
        pipeline.transformer = ours.eval()  # type: ignore[attr-defined]
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


NUMBERS_OF_EDGEN: dict[str, Any] = {
    **{"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "cross_attention_dim": 24},
    **{"sample_size": 128, "caption_channels": 32, "use_additional_conditions": True},
}


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("size", [Size(32, 32), Size(24, 40)])
@pytest.mark.in_turn("pixart")
def test_one_training_loss_is_that_of_the_published_objective(saved: Saved, name: str, size: Size) -> None:
    module = student(saved, name)
    module._log_training = lambda *_: None  # type: ignore[method-assign]
    image = torch.randint(256, (2, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    seeds = torch.tensor([5, 9])
    batch: dict[str, Any] = {"image": image, "prompt": [PROMPT, "two stars"], "sample_seed": seeds}
    batch["original_size_px"] = torch.tensor([[60, 90], [48, 80]])
    found = float(module.training_step(batch, 0).detach())

    # by hand, on the stock parts: z = s (m + d n), z_t = sqrt(a) z + sqrt(1 - a) e, loss = |e' - e|^2 + bits
    parts = stock(saved, name)
    draws = draw(seeds, DDPMEpsilon(), 0.0, (4, size.height_px // 2, size.width_px // 2), latent=True)
    assert draws.latent_noise is not None
    with torch.no_grad():
        posterior = parts.vae.encode(image.float() / 127.5 - 1).latent_dist
        clean = (posterior.mean + posterior.std * draws.latent_noise) * 0.5
        states, mask, _, _ = parts.encode_prompt(
            [PROMPT, "two stars"], do_classifier_free_guidance=False, max_sequence_length=TOKENS, clean_caption=False
        )
        alpha = (1 - torch.linspace(0.0001, 0.02, 1000)).cumprod(0)[draws.time.long()].view(-1, 1, 1, 1)
        sizes = {
            "resolution": batch["original_size_px"].float(),
            "aspect_ratio": torch.full((2, 1), size.height_px / size.width_px),
        }
        prediction = parts.transformer(
            alpha.sqrt() * clean + (1 - alpha).sqrt() * draws.noise,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            timestep=draws.time,
            added_cond_kwargs=sizes if VERSIONS[name].sized else {"resolution": None, "aspect_ratio": None},
        ).sample
    square = float((prediction[:, :4] - draws.noise).square().mean())
    bits = [bits_by_hand(prediction[row], clean[row], draws.noise[row], int(draws.time[row])) for row in range(2)]
    assert found == pytest.approx(square + sum(bits) / 2, rel=1e-4)


def pixels(images: Any) -> Tensor:
    return torch.from_numpy((images[0] * 255).round()).permute(2, 0, 1).int()


def call(size: Size) -> dict[str, Any]:
    """Say how the stock pipeline is asked for one image."""
    return {
        **{"prompt": PROMPT, "num_inference_steps": 3, "guidance_scale": 4.5},
        **{"height": size.height_px, "width": size.width_px, "use_resolution_binning": False},
        **{"output_type": "np", "max_sequence_length": TOKENS, "clean_caption": False},
    }


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("size", [Size(32, 32), Size(24, 40)])
@pytest.mark.in_turn("pixart")
def test_one_drawn_image_is_that_of_the_stock_pipeline(saved: Saved, name: str, size: Size) -> None:
    module = student(saved, name)
    (ours,) = module.generate([ImageRequest("r", PROMPT, 7, size.width_px, size.height_px)])
    pipeline = stock(saved, name)
    theirs = pixels(pipeline(**call(size), generator=torch.Generator().manual_seed(7)).images)
    assert ours.shape == theirs.shape and int((ours.int() - theirs).abs().max()) == 0
    assert ours.unique().numel() > 20  # not a flat picture
    assert module.transformer is not None
    own = module.family.pipeline(module.transformer.eval(), DPMSolverMultistepScheduler())
    assert type(own) is VERSIONS[name].pipeline


def test_a_network_that_embeds_sizes_elsewhere_has_no_stock_pipeline(saved: Saved) -> None:
    module = student(saved, "alpha", pretrained=None, sample_size=128, use_additional_conditions=True)
    module.family.sample_size = 64  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="sample_size 64"):
        module.family.pipeline(module.transformer, None)  # type: ignore[arg-type]


def test_a_stock_class_does_not_take_the_network_for_its_own(saved: Saved, tmp_path: Path) -> None:
    network: Any = student(saved, "edgen").transformer
    network.save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match="qk_layer_norm"):
        PixArtTransformer2DModel.from_pretrained(tmp_path)
