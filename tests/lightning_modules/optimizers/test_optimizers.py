"""Each optimizer of configs/optimizer trains, draws, saves and resumes exactly; names decide what Muon takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

from evolvedirector.callbacks import RunCheckpoint, WrittenSettings
from evolvedirector.callbacks.checkpoint import latest_committed
from evolvedirector.callbacks.ema import EMA
from evolvedirector.experts import LoRA, Trained
from evolvedirector.lightning_modules import FlowMatching, Muon, TextToImage
from evolvedirector.lightning_modules.optimizers.factory import fused, make_optimizer
from evolvedirector.records import ImageRequest
from tests.lightning_modules.tiny_student import SIDE, Batches, family

CONFIGS = Path(__file__).parents[3] / "configs" / "optimizer"
NAMES = [path.stem for path in sorted(CONFIGS.glob("*.yaml"))]


def optimizer_of(name: str) -> Any:
    """Read what a config says of the optimizer, as the command line does."""
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    parser.add_argument("--config", action="config")
    student = CONFIGS.parent / "model" / "tiny.yaml"
    encoder = "--model.family.text_encoder=evolvedirector.lightning_modules.RandomTextEncoder"
    parsed = parser.parse_args([f"--config={student}", encoder, f"--config={CONFIGS / f'{name}.yaml'}"])
    module: Any = parser.instantiate_classes(parsed).model
    return module.make_optimizer


def student(optimizer: Any, lora: LoRA | None = None) -> TextToImage:
    return TextToImage(
        family(layers=1),
        FlowMatching(prediction="x0"),
        SIDE,
        optimizer=optimizer,
        sampling_steps=1,
        generation_chunk_size=1,
        guidance_scale=1.0,
        trained=Trained(lora),
    )


def fit(module: TextToImage, folder: Path, steps: int, resume: Path | None = None) -> EMA:
    average = EMA(0.5)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        default_root_dir=folder,
        callbacks=[WrittenSettings(), average, RunCheckpoint(every_n_train_steps=3, keep_last=9)],
        gradient_clip_val=1.0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Batches(), ckpt_path=resume, weights_only=True)
    return average


def drawn(module: TextToImage) -> torch.Tensor:
    return module.generate([ImageRequest("r", "a", 0, SIDE, SIDE)])[0]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("adamw8bit", "came", "prodigy", "schedule_free")))
        for name in NAMES
    ],
)
@pytest.mark.filterwarnings("ignore:.*AdamW8bit.*")
def test_each_optimizer_trains_and_resumes_exactly(name: str, tmp_path: Path) -> None:
    make = optimizer_of(name)
    whole, again = student(make), student(make)
    averages = [fit(whole, tmp_path / "whole", 6)]
    before = student(make)
    before.configure_model()
    assert any((one != two).any() for one, two in zip(whole.parameters(), before.parameters(), strict=True))
    assert all(part.isfinite().all() for part in whole.parameters())
    resume = tmp_path / "whole" / "checkpoints" / "step-00000003" / "state.ckpt"
    assert latest_committed(tmp_path / "whole") != resume
    averages.append(fit(again, tmp_path / "again", 6, resume))
    mine, theirs = whole.state_dict(), again.state_dict()
    assert all(torch.equal(mine[part], theirs[part]) for part in mine)
    one, two = (average._average for average in averages)
    assert all(torch.equal(one[part], two[part]) for part in one)
    assert torch.equal(drawn(whole), drawn(again))


def test_without_a_schedule_the_average_is_drawn_saved_and_averaged(tmp_path: Path) -> None:
    module = student(optimizer_of("schedule_free"))
    average = fit(module, tmp_path, 4)
    (optimizer,) = module.trainer.optimizers
    optimizer.train()  # type: ignore[attr-defined]
    trained = {name: part.detach().clone() for name, part in module.named_parameters()}
    optimizer.eval()  # type: ignore[attr-defined]
    evaluated = {name: part.detach().clone() for name, part in module.named_parameters()}
    assert any((trained[name] != evaluated[name]).any() for name in trained)
    optimizer.train()  # type: ignore[attr-defined]
    held = {name: part.detach().clone() for name, part in module.named_parameters()}
    with average.averaged(module):  # what is swapped in must not be switched once more
        inside = {name: part.detach().clone() for name, part in module.named_parameters()}
        drawn(module)
        assert all(torch.equal(inside[name], part) for name, part in module.named_parameters())
    assert all(torch.allclose(held[name], part, atol=1e-6) for name, part in module.named_parameters())
    saved = torch.load(latest_committed(tmp_path), weights_only=True)  # type: ignore[arg-type]
    assert all(torch.allclose(saved["state_dict"][name], evaluated[name], atol=1e-6) for name in evaluated)
    assert saved["optimizer_states"][0]["param_groups"][0]["train_mode"] is False


def test_muon_takes_the_matrices_inside_the_blocks() -> None:
    module = student(None)
    module.configure_model()
    named = list(module.named_parameters())
    optimizer = Muon().from_named(named)
    names = {id(part): name for name, part in named}
    matrices, others = ({names[id(part)] for part in group["params"]} for group in optimizer.param_groups)
    assert matrices | others == set(names.values()) and not matrices & others
    block = "transformer.transformer_blocks.0"
    layers = [
        f"{attention}.{layer}" for attention in ("attn1", "attn2") for layer in ("to_q", "to_k", "to_v", "to_out.0")
    ]
    assert matrices == {f"{block}.{layer}.weight" for layer in (*layers, "ff.net.0.proj", "ff.net.2")}
    assert f"{block}.scale_shift_table" in others  # of two dimensions, and no matrix
    for _, part in named:
        part.grad = torch.ones_like(part)
    optimizer.step()
    kept = sum(value.nbytes for of in optimizer.state.values() for name, value in of.items() if name != "step")
    assert kept == pytest.approx(optimizer.bytes_per_value() * sum(part.numel() for _, part in named))
    with pytest.raises(ValueError, match="Muon finds no matrix among 1 trained parameters"):
        Muon().from_named([("bias", nn.Parameter(torch.zeros(3)))])


def test_muon_steps_as_torch_does_both() -> None:
    torch.manual_seed(0)
    pairs = [(nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(5))) for _ in range(2)]
    pairs[1] = tuple(nn.Parameter(part.detach().clone()) for part in pairs[0])  # type: ignore[assignment]
    ours = Muon(lr=0.1, weight_decay=0.2).from_named([("blocks.0.weight", pairs[0][0]), ("bias", pairs[0][1])])
    theirs = [
        torch.optim.Muon([pairs[1][0]], 0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([pairs[1][1]], 0.1, (0.9, 0.95), weight_decay=0.2),
    ]
    for step in range(3):
        for one, two in zip(*pairs, strict=True):
            one.grad = two.grad = torch.full_like(one, 0.1 * step + 0.1) * torch.arange(one.numel()).view_as(one)
        ours.step()
        for optimizer in theirs:
            optimizer.step()
        ours.load_state_dict(ours.state_dict())  # and goes on from what a checkpoint holds
    assert all(torch.equal(one, two) for one, two in zip(*pairs, strict=True))


def test_a_lora_trains_with_muon(tmp_path: Path) -> None:
    module = student(Muon(lr=1e-2), LoRA(2))
    fit(module, tmp_path, 2)
    assert len(module.trainer.optimizers[0].param_groups) == 1  # matrices alone
    assert all((part != 0).any() for name, part in module.named_parameters() if "lora_B" in name)


def test_adamw_is_fused_unless_something_else_is_written() -> None:
    def optimizer(**settings: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW([{"params": [nn.Parameter(torch.ones(3))], "lr": 0.5}], 0.1, **settings)

    made = fused(optimizer(weight_decay=0.3))
    assert type(made) is torch.optim.AdamW and made.defaults["fused"] is True
    (group,) = made.param_groups
    assert (group["fused"], group["lr"], group["weight_decay"]) == (True, 0.5, 0.3)
    for written in ({"fused": False}, {"foreach": True}):
        kept = optimizer(**written)
        assert fused(kept) is kept
    other = torch.optim.SGD([nn.Parameter(torch.ones(3))], 0.1)
    assert fused(other) is other
    on_cpu = make_optimizer(torch.optim.AdamW, [("weight", nn.Parameter(torch.ones(3)))], "32-true")
    assert on_cpu.param_groups[0]["fused"] is None  # as torch chooses: measured runs stay what they were
