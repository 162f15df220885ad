"""`evolvedirector merge`: files of any layout become one that stock diffusers draws with, or a whole pipeline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from torch import Tensor

from evolvedirector.cli import main
from evolvedirector.commands.merge import what_is_left_out
from evolvedirector.commands.part_files import build_part
from evolvedirector.experts import Expert, LoRA
from evolvedirector.experts.expert_files import read_expert, write_expert
from evolvedirector.experts.lora import base_digest
from evolvedirector.lightning_modules.families.family import Layout
from evolvedirector.models.exported_student import exported_student
from tests.commands.test_generate import STUDENT
from tests.experts.toy_experts import expert, update
from tests.lightning_modules.families import tiny_flux1

# at this width the reader of diffusers does not split `linear1` of single blocks (tests of the family)
LAYERS = [f"transformer_blocks.{n}.attn.{part}" for n in (0, 1) for part in ("to_q", "to_v", "to_out.0")]
LAYOUTS: list[Layout] = ["diffusers", "comfyui", "kohya"]
ROUNDING, LOUD = 1e-5, 1e-2  # of the range 0...1 of an image
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


def test_what_an_expert_stands_on_is_told_where_it_is_not_merged() -> None:
    first, second = expert("first"), expert("second")
    top = replace(expert("top"), provenance={"stage": {"on_top_of": {"first": 0.5, "second": 0.5}}})
    assert "top was trained on top of 0.5 first + 0.5 second. Its file" in what_is_left_out(top, [top, first])
    assert not what_is_left_out(top, [top, first, second]) and not what_is_left_out(first, [top, first])


class Files(NamedTuple):
    """A pipeline, two experts of it in our own layout, and what their mean draws."""

    base: Path
    experts: list[str]
    pipeline: Any
    image: Tensor


def random_expert(name: str, network: Any, base: str, layers: list[str], rank: int) -> Expert:
    draws = torch.Generator().manual_seed(rank)
    factors = {}
    for layer in layers:
        rows, columns = network.get_submodule(layer).weight.shape
        factors[layer] = (
            torch.randn(rank, columns, generator=draws) / columns**0.5,
            torch.randn(rows, rank, generator=draws),
        )
    return Expert(name, LoRA(rank, 2.0 * rank), factors, base, base_digest(network))


def drawn(pipeline: Any) -> Tensor:
    call = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np", "guidance_scale": 3.5}
    call |= {"max_sequence_length": tiny_flux1.T5_LENGTH, "generator": torch.Generator().manual_seed(7)}
    return torch.tensor(pipeline(prompt="a red circle", **call).images[0])


def loaded(folder: Path) -> Any:
    from diffusers import FluxPipeline

    pipeline: Any = FluxPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("flux1")
    pipeline = loaded(base := tiny_flux1.save(folder / "base"))
    for name, rank in (("count", 2), ("colour", 3)):
        made = random_expert(name, pipeline.transformer, str(base), LAYERS, rank)
        write_expert(made, folder / f"{name}.safetensors")
    experts = [str(folder / f"{name}.safetensors") for name in ("count", "colour")]
    out = folder / "fused"
    assert main(["merge", *experts, "--fused", str(base), "-o", str(out)]) == 0
    told = json.loads((out / "merge.json").read_text())
    assert [each["name"] for each in told["experts"]] == ["count", "colour"]
    return Files(base, experts, pipeline, drawn(loaded(out)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_merge_in_each_layout_draws_in_stock_diffusers_what_the_fused_pipeline_draws(
    layout: Layout, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "both.safetensors"
    assert main(["merge", *files.experts, "--layout", layout, "-o", str(out)]) == 0
    assert "dW = sum_i w_i s_i B_i A_i\nRank 5, relative error 0." in capsys.readouterr().out
    base = drawn(files.pipeline)
    files.pipeline.load_lora_weights(out.parent, weight_name=out.name)
    image = drawn(files.pipeline)
    files.pipeline.unload_lora_weights()
    assert (image - files.image).abs().max() < ROUNDING < LOUD < (image - base).abs().max()
    assert torch.equal(drawn(files.pipeline), base)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_each_layout_is_read_for_a_merge(layout: Layout, files: Files, tmp_path: Path) -> None:
    """Without our header, too: then --base says what network the names are of."""
    from safetensors.torch import load_file, save_file

    for name in ("ours", layout):
        assert main(["merge", *files.experts, "--layout", name, "-o", str(tmp_path / f"{name}.safetensors")]) == 0
    save_file(load_file(tmp_path / f"{layout}.safetensors"), tmp_path / "theirs.safetensors", {"format": "pt"})
    parts = [files.experts[0], str(tmp_path / "theirs.safetensors")]
    again = str(tmp_path / "again.safetensors")
    assert main(["merge", *parts, "-o", again]) == 2
    assert main(["merge", *parts, "--base", str(files.base), "--weights", "0", "1", "-o", again]) == 0
    found, wanted = read_expert(Path(again)), read_expert(tmp_path / "ours.safetensors")
    assert found.factors.keys() == wanted.factors.keys()
    torch.testing.assert_close(update(found), update(wanted))


def test_a_student_in_our_own_form_takes_a_merge_in(tmp_path: Path) -> None:
    module = build_part(STUDENT, LightningModule, "model", "student")
    module.configure_model()
    (folder := tmp_path / "student").mkdir()
    (folder / "student.yaml").write_text(yaml.safe_dump({"model": STUDENT}))
    module.transformer.save_pretrained(folder / "transformer")
    layer = "transformer_blocks.0.attn1.to_q"
    for rank in (1, 2):
        made = random_expert(f"e{rank}", module.transformer, "student", [layer], rank)
        write_expert(made, tmp_path / f"e{rank}.safetensors")
    names = [str(tmp_path / f"e{rank}.safetensors") for rank in (1, 2)]
    assert main(["merge", *names, "-o", str(tmp_path / "both.safetensors")]) == 0
    assert main(["merge", *names, "--fused", str(folder), "-o", str(tmp_path / "fused")]) == 0
    found, plain = exported_student(tmp_path / "fused").transformer, module.transformer
    assert found is not None
    change = found.get_submodule(layer).weight - plain.get_submodule(layer).weight
    torch.testing.assert_close(change, read_expert(tmp_path / "both.safetensors").update(layer))


def test_every_method_is_there(tmp_path: Path) -> None:
    files = toys(tmp_path)
    for method, words in (
        ("factor_mean", []),
        ("svd", ["--rank", "3"]),
        ("task_arithmetic", ["--scale", "0.5"]),
        ("ties", ["--rank", "3", "--density", "0.2"]),
        ("dare_linear", ["--rank", "3", "--density", "0.5", "--seed", "4"]),
        ("dare_ties", ["--rank", "3", "--density", "0.5", "--scale", "0.5"]),
    ):
        out = tmp_path / f"{method}.safetensors"
        assert main(["merge", *files, "--method", method, *words, "--weights", "1", "0.5", "-o", str(out)]) == 0
        told = read_expert(out).provenance
        assert told["merge"]["method"] == method and told["merge"]["weights"] == [1.0, 0.5]
        given = dict(zip((word[2:] for word in words[::2]), map(float, words[1::2]), strict=True))
        assert {key: told["merge"][key] for key in given if key != "rank"} | {"rank": 3.0} == given | {"rank": 3.0}
        assert [len(each["provenance"]["file"]["sha256"]) for each in told["experts"]] == [64, 64]


def toys(folder: Path) -> list[str]:
    for name in ("one", "two"):
        write_expert(expert(name), folder / f"{name}.safetensors")
    return [str(folder / f"{name}.safetensors") for name in ("one", "two")]


REFUSED: dict[str, tuple[str, list[str]]] = {
    "one file": ("There is one expert to merge", []),
    "twice the same": ("Two experts are called 'one'", ["one.safetensors"]),
    "no file": ("There is no file", ["three.safetensors"]),
    "a folder": ("is no .safetensors file", ["."]),
    "names": ("There are 1 names for 2 experts", ["two.safetensors", "--names", "a"]),
    "weights": ("There are 3 weights for 2 experts", ["two.safetensors", "--weights", "1", "2", "3"]),
    "no rank": ("--method svd needs --rank", ["two.safetensors", "--method", "svd"]),
    "no density": ("needs --density", ["two.safetensors", "--method", "ties", "--rank", "2"]),
    "no scale": ("needs --scale", ["two.safetensors", "--method", "task_arithmetic"]),
    "scales alone": (
        "--scales needs --validation, --reward, --run",
        ["two.safetensors", "--method", "task_arithmetic", "--scales", "0.5", "1"],
    ),
    "nothing to choose": ("--run is given, and there is nothing to choose", ["two.safetensors", "--run", "runs/mine"]),
    "not read": ("--density is 0.2, but --method product_mean does not", ["two.safetensors", "--density", "0.2"]),
    "dtype": ("--dtype is bfloat16, but a LoRA", ["two.safetensors", "--dtype", "bfloat16"]),
    "layout and fused": ("Leave the other out", ["two.safetensors", "--fused", "x", "--layout", "kohya"]),
    "no such base": ("there is no such folder", ["two.safetensors", "--fused", "./none"]),
    "a layout without its base": ("model is 'org/base'", ["two.safetensors", "--layout", "diffusers"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if case == "a layout without its base":
        monkeypatch.setattr("evolvedirector.commands.merge_base.find_pipeline", missing)
    toys(tmp_path)
    match, words = REFUSED[case]
    out = "out" if "--fused" in words else "out.safetensors"
    before = sorted(tmp_path.iterdir())
    assert main(["merge", "one.safetensors", *words, "-o", out]) == 2
    assert match in " ".join(capsys.readouterr().err.split())
    assert sorted(tmp_path.iterdir()) == before


def missing(model: str, revision: str | None) -> None:
    from evolvedirector.errors import UserError

    raise UserError(f"model is '{model}'")


def test_what_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = toys(tmp_path)
    before = Path(files[0]).read_bytes()
    assert main(["merge", *files, "-o", files[0]]) == 2
    assert main(["merge", *files, "-o", str(tmp_path / "out.pt")]) == 2
    (tmp_path / "both.json").write_text("mine")
    assert main(["merge", *files, "-o", str(tmp_path / "both.safetensors")]) == 2
    assert (tmp_path / "both.json").read_text() == "mine"
    assert "is there. Allowed is a new file" in " ".join(capsys.readouterr().err.split())
    assert Path(files[0]).read_bytes() == before


def test_another_base_is_refused_and_nothing_is_left(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = loaded(files.base)
    with torch.no_grad():
        other.transformer.proj_out.weight += 1
    other.save_pretrained(tmp_path / "other")
    assert main(["merge", *files.experts, "--fused", str(tmp_path / "other"), "-o", str(tmp_path / "out")]) == 2
    assert "whose weights are others" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_pipeline_that_loads_no_lora_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.teachers.tiny_pipelines import pixart

    (pipeline := pixart(tmp_path / "words")).save_pretrained(base := tmp_path / "pixart")
    layer = "transformer_blocks.0.attn1.to_q"
    for rank in (1, 2):
        made = random_expert(f"e{rank}", pipeline.transformer, str(base), [layer], rank)
        write_expert(made, tmp_path / f"e{rank}.safetensors")
    names = [str(tmp_path / f"e{rank}.safetensors") for rank in (1, 2)]
    for layout, match in (("diffusers", "loads no LoRA in diffusers"), ("kohya", "no published kohya names")):
        assert main(["merge", *names, "--layout", layout, "-o", str(tmp_path / "out.safetensors")]) == 2
        assert match in " ".join(capsys.readouterr().err.split())
    assert main(["merge", *names, "--fused", str(base), "--dtype", "bfloat16", "-o", str(tmp_path / "fused")]) == 0
    assert not (tmp_path / "out.safetensors").exists() and (tmp_path / "fused" / "transformer").is_dir()
