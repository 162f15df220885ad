"""What `check` predicts of a student's work is what the allocator of a CPU hands out, as torch's profiler traces it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from evolvedirector.lightning_modules import FlowMatching, PixArt, RandomTextEncoder, TextToImage
from evolvedirector.lightning_modules.assemble import Where, assemble
from evolvedirector.lightning_modules.codecs import Pixels
from evolvedirector.lightning_modules.objectives import DDPM
from evolvedirector.lightning_modules.text_cache import ENCODE_CHUNK
from evolvedirector.planning.memory import StudentBytes, WorkBytes, memory_rows, phases, too_large
from evolvedirector.records import ImageRequest
from tests.lightning_modules.families import test_sd3, test_stable_diffusion, test_whole_trip
from tests.lightning_modules.families.tiny_sd import save_stable_diffusion
from tests.teachers.tiny_pipelines import kl_autoencoder

BATCH, SIDE, CHUNK = 16, 32, 8
BITSANDBYTES = ("ignore:.*bitsandbytes.*",)
WITHIN = 0.15


def traced_peak(work: Callable[[], Any], with_onednn: bool = True) -> int:
    """The most bytes that the CPU's allocator had handed out at once, over those at the start.

    oneDNN keeps copies for itself that depend on the processor: of bfloat16 matrices, and of images in blocks of 16
    channels. Convolutions need it (the kernel without it lays out every window); nothing else does.
    """
    before = torch.backends.mkldnn.enabled
    torch._C._set_mkldnn_enabled(with_onednn)
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            work()
    finally:
        torch._C._set_mkldnn_enabled(before)
    kineto: Any = profiler.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in kineto.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def pixart(**settings: Any) -> TextToImage:
    family = PixArt(RandomTextEncoder(16), SIDE, text_length=8, patch_size=4, layers=3, heads=4, head_dim=16)
    return TextToImage(family, FlowMatching(), SIDE, generation_chunk_size=CHUNK, sampling_steps=2, **settings)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = test_sd3.save(tmp_path_factory.mktemp("sd3"))
    codec = {"shift_factor": 0.06, "scaling_factor": 1.5, "use_quant_conv": False, "use_post_quant_conv": False}
    kl_autoencoder(16, width=32, **codec).save_pretrained(folder / "vae")  # whole blocks of channels, as real ones have
    return folder


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_stable_diffusion(tmp_path_factory.mktemp("sd1"))
    kl_autoencoder(width=32, scaling_factor=1.5).save_pretrained(folder / "vae")
    return folder


def of_sd3(folder: Path) -> TextToImage:
    settings = {"generation_chunk_size": CHUNK, "sampling_steps": 2}
    return TextToImage(test_sd3.family(folder), FlowMatching(shift=3.0), SIDE, **settings)  # type: ignore[arg-type]


def of_sd1(folder: Path) -> TextToImage:
    settings = {"generation_chunk_size": CHUNK, "sampling_steps": 2}
    return TextToImage(test_stable_diffusion.family(folder), DDPM(), SIDE, **settings)  # type: ignore[arg-type]


def measured(module: TextToImage, precision: str, with_onednn: bool = True) -> tuple[int, int]:
    """Peaks of a training step on latents and of a drawing, both with texts that are known."""
    module.configure_model()
    module._log_training = lambda *_: None  # type: ignore[method-assign]
    codec, prompts = module.family.codec, [f"thing {number}" for number in range(BATCH)]
    batch: dict[str, Any] = {"prompt": prompts, "sample_seed": torch.arange(BATCH)}
    if isinstance(codec, Pixels):
        batch["image"] = torch.randint(256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8)
    else:
        latent = torch.randn(BATCH, codec.channels, SIDE // codec.downscaling, SIDE // codec.downscaling)
        batch |= {"latent_mean": latent, "latent_deviation": latent.abs(), "size_px": torch.full((BATCH, 2), SIDE)}
    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")

    def step() -> None:
        with half:
            loss = module.training_step(batch, 0)
        for part in module.parameters():
            part.grad = None
        loss.backward()

    requests = [ImageRequest(str(row), prompts[row], row, SIDE, SIDE) for row in range(CHUNK)]

    def drawing() -> None:
        with half:
            module.generate(requests)

    step()  # gradients of a step before
    drawing()  # texts are encoded
    return traced_peak(step, with_onednn), traced_peak(drawing, with_onednn)


def test_a_transformer_in_pixels() -> None:
    module = pixart()
    predicted = module.work_bytes(BATCH, (SIDE, SIDE), "32-true")
    train, draw = measured(module, "32-true")  # the same one: nothing of the prediction is left in it
    assert predicted.train == pytest.approx(train, rel=WITHIN)
    assert predicted.draw == pytest.approx(draw, rel=WITHIN)
    assert predicted.unknown == {} and predicted.encode is None


@pytest.mark.slow
def test_checkpointed_blocks_in_half_precision() -> None:
    settings: dict[str, Any] = {"compute": {"gradient_checkpointing": True}}
    whole = pixart().work_bytes(BATCH, (SIDE, SIDE), "bf16-mixed")
    predicted = pixart(**settings).work_bytes(BATCH, (SIDE, SIDE), "bf16-mixed")
    train, _ = measured(pixart(**settings), "bf16-mixed", with_onednn=False)
    assert predicted.train == pytest.approx(train, rel=WITHIN)
    assert predicted.train is not None and whole.train is not None and predicted.train < 0.7 * whole.train


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("how", ["nf4", "int8"])
@pytest.mark.filterwarnings(*BITSANDBYTES)
def test_a_lora_beside_a_quantised_base(how: str, precision: str) -> None:
    pytest.importorskip("bitsandbytes")
    trained: dict[str, Any] = {"lora": {"rank": 4}, "base_precision": how}
    wide: dict[str, Any] = {"heads": 8, "head_dim": 32}  # weights of a layer count beside its activations

    def build() -> TextToImage:
        family = PixArt(RandomTextEncoder(16), SIDE, text_length=8, patch_size=4, layers=3, **wide)
        return TextToImage(family, FlowMatching(), SIDE, generation_chunk_size=CHUNK, sampling_steps=2, trained=trained)  # type: ignore[arg-type]

    predicted, module = build().work_bytes(BATCH, (SIDE, SIDE), precision), build()
    where = Where(precision)
    module.transformer, _ = assemble(module.family, 0, module.trained, module.compute, where)
    train, draw = measured(module, precision, with_onednn=precision == "32-true")
    assert predicted.unknown == {}
    assert predicted.train == pytest.approx(train, rel=WITHIN)
    if how == "nf4":  # without gradients int8 products are counted as a GPU makes them
        assert predicted.draw == pytest.approx(draw, rel=WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd3", "sd1"])
def test_networks_in_latent_space_and_their_codec(name: str, request: pytest.FixtureRequest) -> None:
    build = {"sd3": of_sd3, "sd1": of_sd1}[name]
    folder = request.getfixturevalue(name)
    predicted = build(folder).work_bytes(BATCH, (SIDE, SIDE), "32-true")
    train, draw = measured(build(folder), "32-true")
    assert predicted.unknown == {}
    assert predicted.train == pytest.approx(train, rel=WITHIN)
    assert predicted.draw == pytest.approx(draw, rel=WITHIN)
    codec = build(folder).family.codec
    images = torch.rand(8, 3, SIDE, SIDE) * 2 - 1
    codec.encode(images)
    assert predicted.encode == pytest.approx(traced_peak(lambda: codec.encode(images * 1.0)), rel=WITHIN)


@pytest.mark.parametrize(
    "name",
    [
        "sd3",  # CLIP and T5
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("klein base", "qwen_image", "z_image", "sana")),
    ],
)
def test_text_encoders_take_what_is_predicted_from_their_configs(name: str, tmp_path: Path) -> None:
    family = test_whole_trip.CASES[name].student(tmp_path).family
    module = TextToImage(family, FlowMatching(), SIDE, generation_chunk_size=CHUNK)
    predicted = module.work_bytes(BATCH, (SIDE, SIDE), "32-true")
    assert "texts" not in predicted.unknown and "decode" not in predicted.unknown
    encoder = next(iter(family.text_encoders.values()))
    assert encoder.frozen._model is None, "no weights are loaded for it"  # type: ignore[attr-defined]
    texts = [f"thing {number}" for number in range(ENCODE_CHUNK)]
    family.encode_text(texts)  # weights are loaded
    assert predicted.texts == pytest.approx(traced_peak(lambda: family.encode_text(texts)), rel=WITHIN)


def test_encoders_that_are_not_here_are_named_and_the_rest_is_predicted(sd3: Path, tmp_path: Path) -> None:
    shutil.copytree(sd3, tmp_path / "copy")
    module = of_sd3(tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "tokenizer_3")
    found = module.work_bytes(BATCH, (SIDE, SIDE), "32-true")
    assert found.texts is None and found.train and "tokenizer" in found.unknown["texts"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_cuda_device_takes_what_is_predicted(precision: str) -> None:
    numbers: dict[str, Any] = {"text_length": 64, "patch_size": 2, "layers": 6, "heads": 6, "head_dim": 64}
    family = PixArt(RandomTextEncoder(64), 64, **numbers)
    module = TextToImage(family, FlowMatching(), 64, generation_chunk_size=CHUNK, sampling_steps=2)
    predicted = TextToImage(family, FlowMatching(), 64, generation_chunk_size=CHUNK).work_bytes(8, (64, 64), precision)
    module.configure_model()
    module.to("cuda")._log_training = lambda *_: None  # type: ignore[method-assign]
    image = torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8)
    batch = {"prompt": ["a thing"] * 8, "sample_seed": torch.arange(8), "image": image}

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = module.training_step(batch, 0)
        for part in module.parameters():
            part.grad = None
        loss.backward()

    step()
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    assert predicted.train is not None
    # what stays is counted exactly; both together are what `check` prints
    assert held + predicted.train == pytest.approx(torch.cuda.max_memory_allocated(), rel=WITHIN)


def test_a_network_that_reads_values_is_named_and_the_rest_is_predicted(sd1: Path) -> None:
    module = of_sd1(sd1)
    predict = module.family.predict

    def reads(network: Any, noisy: Any, *others: Any) -> Any:
        assert float(noisy.sum()) < 1e9
        return predict(network, noisy, *others)

    module.family.predict = reads  # type: ignore[method-assign]
    found = module.work_bytes(BATCH, (SIDE, SIDE), "32-true")
    assert sorted(found.unknown) == ["network", "train"] and found.train is None and found.encode
    assert "DataDependent" in found.unknown["train"]


def test_phases_say_what_work_takes_and_what_to_write_where_it_is_too_much() -> None:
    listed = phases(StudentBytes(4, 2, 8), "none", {}, {}, {}, work=WorkBytes(100, 50, 7, texts=3))
    expected = [("texts", 17), ("encode", 21), ("train", 114), ("draw", 64)]
    assert [(phase.phase, phase.total) for phase in listed[:4]] == expected
    assert memory_rows(listed)["train"].endswith("+ work 0.0 MiB")
    said = too_large(listed, 60, "none")
    assert said is not None and "gradient_checkpointing: true" in said and "before activations" not in said
