"""What is trained: a LoRA beside a frozen base, in any precision, saved without the base and bound to it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from evolvedirector.callbacks.ema import EMA
from evolvedirector.experts import LoRA, Trained
from evolvedirector.experts.lora import activate, base_digest, inject, is_adapter
from evolvedirector.lightning_modules import Compute, FlowMatching, RandomTextEncoder, TextToImage
from evolvedirector.models.quantised import is_quantised
from evolvedirector.records import ImageRequest
from tests.lightning_modules.tiny_student import SIDE, Awake, Batches, family

FOUR = LoRA(4)


def student(lora: LoRA | None = FOUR, base_precision: Any = "float32", **settings: Any) -> TextToImage:
    settings.setdefault("optimizer", partial(torch.optim.AdamW, lr=1e-2))
    settings = {"sampling_steps": 2, "generation_chunk_size": 2, "guidance_scale": 1.5} | settings
    trained = Trained(lora, base_precision)
    return TextToImage(
        settings.pop("family", None) or family(), FlowMatching(prediction="x0"), SIDE, trained=trained, **settings
    )


def fit(module: TextToImage, steps: int, resume: Path | None = None, **settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_steps=steps, enable_model_summary=False, **(quiet | settings))
    trainer.fit(module, Batches(), ckpt_path=resume, weights_only=True)
    return trainer


def drawn(module: TextToImage) -> torch.Tensor:
    return module.generate([ImageRequest("r", "a", 0, SIDE, SIDE)])[0]


def weights(module: TextToImage, adapters: bool) -> dict[str, torch.Tensor]:
    module.configure_model()
    found = {name: part.detach().clone() for name, part in module.named_parameters() if is_adapter(name) == adapters}
    return {name.replace(".base_layer", ""): part for name, part in found.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextToImage, Path]:
    """A LoRA after three steps with an average, and its checkpoint."""
    module, folder = student(), tmp_path_factory.mktemp("trained")
    trainer = fit(module, 3, callbacks=[EMA(0.5)])
    trainer.save_checkpoint(folder / "lora.ckpt")
    return module, folder / "lora.ckpt"


@pytest.mark.parametrize("dora", [False, True])
def test_an_untrained_adapter_changes_nothing(dora: bool) -> None:
    assert torch.equal(drawn(student(LoRA(4, dora=dora))), drawn(student(None)))


def test_only_the_adapter_is_trained(trained: tuple[TextToImage, Path]) -> None:
    module, _ = trained
    assert (drawn(module) != drawn(student(None))).any()
    before, after = weights(student(None), adapters=False), weights(module, adapters=False)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    fresh, learned = weights(student(), adapters=True), weights(module, adapters=True)
    assert len(learned) == 2 * 2 * 2 * 4  # two blocks of two attentions of four layers
    assert all((fresh[name] != learned[name]).any() for name in learned)
    optimizer = module.trainer.optimizers[0]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(learned)


def test_the_seed_of_an_adapter_names_its_beginning() -> None:
    one, two, other = (weights(student(LoRA(4, seed=seed)), adapters=True) for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any((one[name] != other[name]).any() for name in one)


def test_alpha_over_rank_scales_the_adapter() -> None:
    network = family().build()
    inject(network, {"default": LoRA(4, alpha=2.0, targets=["attn1.to_q"])}, "default", ())
    layer: Any = network.get_submodule("transformer_blocks.0.attn1.to_q")
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        up.normal_()
        x = torch.randn(3, 32)
        assert torch.allclose(layer(x), layer.base_layer(x) + 0.5 * x @ down.T @ up.T, atol=1e-5)
    adapted = {name.partition(".lora_")[0] for name, _ in network.named_parameters() if is_adapter(name)}
    assert adapted == {f"transformer_blocks.{number}.attn1.to_q" for number in (0, 1)}


def test_of_several_adapters_one_works_and_is_trained() -> None:
    network = family().build()
    inject(network, {"colours": LoRA(2), "counts": LoRA(4)}, "colours", family().lora_targets())

    def trains() -> set[str]:
        return {name.split(".")[-2] for name, part in network.named_parameters() if part.requires_grad}

    assert trains() == {"colours"}
    activate(network, "counts")
    assert trains() == {"counts"}


def test_a_checkpoint_holds_the_adapter_its_settings_and_the_name_of_the_base(
    trained: tuple[TextToImage, Path],
) -> None:
    module, path = trained
    saved = torch.load(path, weights_only=True)
    learned = weights(module, adapters=True)
    assert saved["state_dict"].keys() == learned.keys()
    (average,) = saved["ema"].values()
    assert average["weights"].keys() == learned.keys()
    said = saved["text_to_image"]["trained"]
    assert said["adapters"]["default"]["rank"] == 4 and said["base_precision"] == "float32"
    assert said["base_digest"] == base_digest(family_of_seed(0)) != base_digest(family_of_seed(1))


def family_of_seed(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return family().build()


def test_resume_equals_uninterrupted(trained: tuple[TextToImage, Path]) -> None:
    _, path = trained
    whole, again = student(), student()
    averages = [EMA(0.5), EMA(0.5)]
    fit(whole, 6, callbacks=[averages[0]])
    fit(again, 6, path, callbacks=[averages[1]])
    for one, two in zip(*(weights(module, adapters=True).values() for module in (whole, again)), strict=True):
        assert torch.equal(one, two)
    for module, average in zip((whole, again), averages, strict=True):
        with average.averaged(module):
            images = drawn(module)
        assert (images != drawn(module)).any() or module is whole
    assert all(torch.equal(averages[0]._average[name], value) for name, value in averages[1]._average.items())


def test_a_checkpoint_is_evaluated_beside_its_base_only(trained: tuple[TextToImage, Path]) -> None:
    module, path = trained
    saved = torch.load(path, weights_only=True)

    def read(other: TextToImage) -> TextToImage:
        other.on_load_checkpoint(saved)
        other.load_state_dict(saved["state_dict"])
        return other

    assert torch.equal(drawn(read(student())), drawn(module))
    assert read(student(base_precision="int8")).trained.base_precision == "int8"  # to draw: cheaper, and close
    with pytest.raises(ValueError, match=r"random weights of seed 1 \(\w+\).*beside random weights of seed 0 \(\w+\)"):
        read(student(seed=1))
    with pytest.raises(ValueError, match=r"rank of the LoRA is 8, but the checkpoint's has 4.*Write rank: 4"):
        read(student(LoRA(8)))
    with pytest.raises(ValueError, match=r"targets of the LoRA is \[to_q\], but .*\[to_k, to_out.0, to_q, to_v\]"):
        read(student(LoRA(4, targets=["to_q"])))
    with pytest.raises(ValueError, match=r"trains the whole network, but the checkpoint holds a LoRA.*rank: 4"):
        read(student(None))
    with pytest.raises(ValueError, match=r"base_precision is int8, .* base in float32"):
        fit(student(base_precision="int8"), 4, path)
    whole = student(None)
    whole.configure_model()
    saved = {"state_dict": whole.state_dict(), "text_to_image": {}}
    with pytest.raises(ValueError, match=r"trains a LoRA, but the checkpoint holds the whole network.*trained: null"):
        read(student())


def test_a_state_dict_that_lacks_a_part_of_the_adapter_is_refused() -> None:
    module = student()
    module.configure_model()
    state = module.state_dict()
    state.pop(next(iter(state)))
    with pytest.raises(RuntimeError, match=r"Missing key.*lora_A"):
        module.load_state_dict(state)


@pytest.mark.parametrize(("precision", "tolerance"), [("nf4", 0.35), ("int8", 0.05)])
def test_a_quantised_base_is_close_and_passes_gradients(precision: Any, tolerance: float) -> None:
    module, plain = student(LoRA(4, dora=precision == "nf4"), precision), student(None)
    for one in (module, plain):
        one.configure_model()
    assert is_quantised(module.transformer)  # type: ignore[arg-type]
    made = family()
    condition = made.condition(made.encode_text(["a"]), [(SIDE, SIDE)], None)  # type: ignore[list-item, arg-type]
    inputs = (torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0]))
    found, wanted = (made.predict(one.transformer, *inputs, condition) for one in (module, plain))  # type: ignore[arg-type]
    distance = (found - wanted).norm() / wanted.norm()
    assert 0 < distance < tolerance
    trainer = fit(module, 2)
    assert drawn(module).shape == (3, SIDE, SIDE)  # drawing between steps leaves the base as it is
    assert all(is_adapter(name) for name in module.state_dict())
    assert all((part != 0).any() for name, part in weights(module, adapters=True).items() if "lora_B" in name)
    assert {part.dtype for group in trainer.optimizers[0].param_groups for part in group["params"]} == {torch.float32}


def test_a_bfloat16_base_computes_what_autocast_does() -> None:
    def learned(precision: Any) -> dict[str, torch.Tensor]:
        module = student(base_precision=precision)
        fit(module, 2, precision="bf16-mixed")
        return weights(module, adapters=True)

    plain, half = learned("float32"), learned("bfloat16")
    assert all(torch.equal(plain[name], half[name]) for name in plain)
    with pytest.raises(ValueError, match=r"base_precision is bfloat16, but trainer\.precision is 32-true"):
        fit(student(base_precision="bfloat16"), 1)
    assert drawn(student(base_precision="bfloat16")).shape == (3, SIDE, SIDE)  # without a trainer, too


def test_gradient_checkpointing_is_set_for_any_family() -> None:
    plain, saving = student(), student(compute=Compute(gradient_checkpointing=True))
    for module in (plain, saving):
        fit(module, 2)
    for one, two in zip(*(weights(module, adapters=True).values() for module in (plain, saving)), strict=True):
        assert torch.allclose(one, two, atol=1e-6)
    assert saving.transformer.is_gradient_checkpointing  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method. is deprecated:DeprecationWarning")  # of torch, by torch
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_blocks_learn_the_same() -> None:
    plain, compiled = student(), student(compute=Compute(compile_blocks=True, gradient_checkpointing=True))
    for module in (plain, compiled):
        fit(module, 3)
    assert all(block._compiled_call_impl is not None for block in compiled.family.blocks(compiled.transformer))  # type: ignore[arg-type]
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for one, two in zip(*(weights(module, adapters=True).values() for module in (plain, compiled)), strict=True):
        assert torch.allclose(one, two, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Trained(None, "nf4"), r"base_precision is nf4, but the whole network is trained.*lora: \{rank: 16\}"),
        (lambda: Trained(LoRA(), "fp8"), r"base_precision is 'fp8'. Allowed: float32, bfloat16, nf4, int8"),  # type: ignore[arg-type]
        (lambda: Trained(LoRA(dora=True), "int8"), r"dora is true and base_precision int8.*base_precision: nf4"),
        (lambda: LoRA(0), r"rank of a LoRA is 0"),
        (lambda: LoRA(targets="to_q"), r"targets of a LoRA is 'to_q'.*Write targets: \["),
        (
            lambda: student(LoRA(4, targets=["to_q", "to_x"])).configure_model(),
            r"target 'to_x' matches no linear layer of PixArtTransformer2DModel.*proj, .*to_q, to_k, to_v, to_out\.0",
        ),
        (
            lambda: student(compute=Compute(attention_backend="flash")).configure_model(),
            r"'flash', but the attentions of PixArtTransformer2DModel take no backend.*Write attention_backend: null",
        ),
        (
            lambda: student(compute=Compute(attention_backend="flush")).configure_model(),
            r"'flush', which diffusers does not know. Allowed: .*_native_cudnn",
        ),
    ],
)
def test_what_cannot_be_trained_is_said_at_once(wrong: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrong()


def test_trained_weights_in_half_precision_warn() -> None:
    class Half(Awake):
        def build(self) -> nn.Module:
            return super().build().bfloat16()

    numbers: Any = {"text_length": 4, "patch_size": 4, "layers": 1, "heads": 2, "head_dim": 16}
    with pytest.warns(UserWarning, match=r"trained weights are in half precision .*1/256"):
        student(None, family=Half(RandomTextEncoder(16), SIDE, **numbers)).configure_model()


def test_settings_may_be_plain_mappings() -> None:
    made = TextToImage(
        family(),
        FlowMatching(),
        SIDE,
        trained={"lora": {"rank": 2}, "base_precision": "nf4"},  # type: ignore[arg-type]
        compute={"compile_blocks": True},  # type: ignore[arg-type]
    )
    assert made.trained == Trained(LoRA(2), "nf4") and made.compute.compile_blocks


def test_a_network_that_is_only_counted_takes_no_memory() -> None:
    module = student(LoRA(4), "nf4")
    with torch.device("meta"):
        module.configure_model()
    parts = list(module.parameters())
    assert all(part.is_meta for part in parts)
    plain = sum(part.numel() * 4 for part in weights(student(None), adapters=False).values())
    assert sum(part.numel() * part.itemsize for part in parts if not part.requires_grad) < 0.5 * plain
