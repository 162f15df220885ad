"""The student as its own teacher: exports in our own form, stock pipelines, and runs that are exported first."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import FlowMatching, TextToImage
from evolvedirector.models.part_files import built_part
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.records.part import OnDevice, Verifiable
from evolvedirector.teachers import DiffusersTeacher, SelfTeacher, Teacher
from evolvedirector.teachers.local import run_export
from tests.lightning_modules.tiny_student import SIDE, family, student_tree
from tests.teachers.tiny_pipelines import save_tiny
from tests.tiny_hub import VARIABLE

PIXART = {"use_resolution_binning": False, "clean_caption": False}
STUDENT: dict[str, Any] = student_tree()


def module() -> TextToImage:
    student = TextToImage(
        family(), FlowMatching(), SIDE, sampling_steps=2, generation_chunk_size=4, guidance_scale=1.5, seed=3
    )
    student.configure_model()
    return student


def export(folder: Path, student: TextToImage) -> Path:
    """Write a student as `evolvedirector export` writes one without stock pipeline."""
    network: Any = student.transformer
    network.save_pretrained(folder / "transformer")
    (folder / "student.yaml").write_text(yaml.safe_dump({"model": STUDENT}))
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TextToImage]:
    student = module()
    return export(tmp_path_factory.mktemp("own"), student), student


def requests(count: int, width_px: int = SIDE, height_px: int = SIDE) -> list[ImageRequest]:
    return [ImageRequest(f"r{n}", f"prompt {n}", 7 * n, width_px, height_px) for n in range(count)]


def pixels(reply: ImageReply) -> np.ndarray:
    assert reply.image is not None, reply.reason
    return np.asarray(Image.open(io.BytesIO(reply.image)))


def drawn(teacher: SelfTeacher, asked: Sequence[ImageRequest]) -> dict[str, np.ndarray]:
    return {reply.request_id: pixels(reply) for reply in teacher.generate(asked)}


# --- our own form -----------------------------------------------------------------------------------------------------


def test_its_images_are_the_students_own_to_the_bit_in_any_company(own: tuple[Path, TextToImage]) -> None:
    folder, student = own
    teacher, asked = SelfTeacher(str(folder)), [*requests(5), *requests(2, 16)[1:]]
    assert isinstance(teacher, Teacher) and isinstance(teacher, Verifiable) and isinstance(teacher, OnDevice)
    teacher.verify()
    asked[-1] = ImageRequest("wide", "a wide one", 5, 16, SIDE)
    state = torch.random.get_rng_state()
    images = drawn(teacher, asked)
    assert torch.equal(state, torch.random.get_rng_state()), "training would notice the round"
    for request, image in zip(asked, student.generate(asked), strict=True):
        assert np.array_equal(images[request.request_id], image.permute(1, 2, 0).numpy()), request
    alone = drawn(SelfTeacher(str(folder)), asked[3:4])
    assert np.array_equal(alone["r3"], images["r3"])
    assert not np.array_equal(images["r3"], images["r2"])


def test_how_it_draws_can_be_set_and_is_part_of_its_name(own: tuple[Path, TextToImage]) -> None:
    folder, student = own
    plain = SelfTeacher(str(folder))
    others = [{"num_inference_steps": 3}, {"guidance_scale": 1.0}, {"batch_size": 2}, {"dtype": "bfloat16"}]
    named = {SelfTeacher(str(folder), **other).fingerprint for other in others}
    assert len(named | {plain.fingerprint}) == 5 and str(folder) not in plain.fingerprint
    student.sampling_steps = 3
    try:
        (expected,) = student.generate(requests(1))
    finally:
        student.sampling_steps = 2
    found = drawn(SelfTeacher(str(folder), num_inference_steps=3), requests(1))
    assert np.array_equal(found["r0"], expected.permute(1, 2, 0).numpy())
    assert not np.array_equal(found["r0"], drawn(plain, requests(1))["r0"])
    (half,) = SelfTeacher(str(folder), dtype="bfloat16").generate(requests(1))
    assert pixels(half).shape == (SIDE, SIDE, 3)


def test_its_name_follows_the_weights_not_the_place(own: tuple[Path, TextToImage], tmp_path: Path) -> None:
    folder, _ = own
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    assert SelfTeacher(str(copy)).fingerprint == SelfTeacher(str(folder)).fingerprint
    other = module()
    with torch.no_grad():
        next(other.transformer.parameters()).add_(1e-3)  # type: ignore[union-attr]
    assert SelfTeacher(str(export(tmp_path / "other", other))).fingerprint != SelfTeacher(str(folder)).fingerprint


def test_it_costs_nothing_takes_what_its_files_take_and_lets_go(own: tuple[Path, TextToImage]) -> None:
    folder, student = own
    teacher = SelfTeacher(str(folder))
    weights = sum(p.numel() * 4 for p in student.transformer.parameters())  # type: ignore[union-attr]
    assert teacher.price_usd() == 0.0 and weights <= (teacher.estimated_bytes() or 0) < 1.3 * weights + 2**16
    teacher.close()
    first = drawn(teacher, requests(1))
    drawer: Any = teacher._drawer
    assert drawer._student is not None
    teacher.close()
    assert drawer._student is None
    assert np.array_equal(drawn(teacher, requests(1))["r0"], first["r0"])


def test_a_size_that_it_cannot_draw_is_a_failure_that_counts_for_nothing(own: tuple[Path, TextToImage]) -> None:
    replies = {r.request_id: r for r in SelfTeacher(str(own[0])).generate([*requests(1), *requests(2, 9, 9)[1:]])}
    assert replies["r0"].status == "image" and replies["r1"].status == "failure" and not replies["r1"].sent
    assert "multiples" in replies["r1"].reason


def test_a_damaged_export_is_one_sentence_before_anything_is_drawn(
    own: tuple[Path, TextToImage], tmp_path: Path
) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(own[0], tmp_path / name))

    weights = next(copy("cut").glob("transformer/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-40])
    shutil.rmtree(copy("none") / "transformer")
    for name, old, new in (
        ("other numbers", "layers: 2", "layers: 3"),
        ("no class", "TextToImage", "Nobody"),
        ("no student", "evolvedirector.lightning_modules.TextToImage", "evolvedirector.lightning_modules.FlowMatching"),
    ):
        path = copy(name) / "student.yaml"
        path.write_text(path.read_text().replace(old, new))
    for name, said in (
        ("cut", "is damaged"),
        ("none", "no safetensors file"),
        ("other numbers", "None there and"),
        ("no class", "Nobody"),
        ("no student", "no student that can be built"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            SelfTeacher(str(tmp_path / name)).verify()
        assert "\n" not in str(caught.value), name


# --- stock pipelines --------------------------------------------------------------------------------------------------


def test_a_stock_pipeline_draws_as_a_local_teacher_by_folder_or_hub_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny("pixart", tmp_path)
    settings: dict[str, Any] = {"num_inference_steps": 2, "extra": PIXART, "device": "cpu", "dtype": "float32"}
    teacher = SelfTeacher(str(folder), batch_size=2, **settings)
    teacher.verify()
    images = drawn(teacher, requests(3, 32, 32))
    for reply in DiffusersTeacher(str(folder), batch_size=2, **settings).generate(requests(3, 32, 32)):
        assert np.array_equal(images[reply.request_id], pixels(reply))
    assert teacher.estimated_bytes() and teacher.price_usd() == 0.0
    hub = tmp_path / "hub" / "owner"
    hub.mkdir(parents=True)
    (hub / "model").symlink_to(folder)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "hub"))
    named = SelfTeacher("owner/model", revision="main", batch_size=2, **settings)
    assert np.array_equal(drawn(named, requests(1, 32, 32))["r0"], images["r0"])


def test_what_is_no_source_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "pytorch_lora_weights.safetensors").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("model: {}")
    for source, said in (
        (tmp_path / "nowhere", "there is no such folder"),
        (tmp_path / "lora", "a LoRA alone"),
        (tmp_path / "empty", "neither an export nor a run"),
        (tmp_path / "run", "`folder` is not set"),
    ):
        with pytest.raises(UserError, match=said):
            SelfTeacher(str(source)).verify()
    for wrong in ({"source": " "}, {"batch_size": 0}, {"dtype": "float8"}, {"num_inference_steps": 0}):
        with pytest.raises(UserError):
            SelfTeacher(**{"source": "runs/base", **wrong})  # type: ignore[arg-type]


def test_further_arguments_are_for_pipelines_alone(own: tuple[Path, TextToImage]) -> None:
    with pytest.raises(UserError, match="Leave `extra` out"):
        SelfTeacher(str(own[0]), extra={"clean_caption": False}).verify()


def test_it_can_be_written_in_yaml(own: tuple[Path, TextToImage]) -> None:
    described = {
        "class_path": "evolvedirector.teachers.SelfTeacher",
        "init_args": {"source": str(own[0]), "export_options": ["--trainer.accelerator=cpu"]},
    }
    assert isinstance(built_part(described, Teacher, "teacher"), SelfTeacher)


# --- runs -------------------------------------------------------------------------------------------------------------


class FakeExport:
    """Stands for `python -m evolvedirector export`: copies an export, slowly, or fails."""

    def __init__(self, folder: Path, fails: str = "") -> None:
        self.folder, self.fails, self.calls = folder, fails, list[list[str]]()
        self.environments: list[dict[str, str]] = []

    def __call__(self, command: list[str], env: dict[str, str], **options: Any) -> Any:
        self.calls.append(command[command.index("export") + 1 :])
        self.environments.append(env)
        if self.fails:
            return SimpleNamespace(returncode=2, stderr=self.fails)
        shutil.copytree(self.folder, self.calls[-1][1])
        return SimpleNamespace(returncode=0, stderr="")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run" / "checkpoints" / "a").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("model: {init_args: {trained: null}}")
    (tmp_path / "run" / "checkpoints" / "a" / "state.ckpt").write_bytes(b"")
    return tmp_path / "run"


def test_a_run_is_exported_once_whoever_asks_first(
    own: tuple[Path, TextToImage], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeExport(own[0])
    monkeypatch.setattr(subprocess, "run", fake)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "1")
    folder = tmp_path / "new" / "self"
    teachers = [SelfTeacher(str(run), str(folder), export_options=["--trainer.accelerator=cpu"]) for _ in range(3)]
    assert teachers[0].estimated_bytes() is None and not fake.calls, "asking for its size exports nothing"
    threads = [threading.Thread(target=teacher.verify) for teacher in teachers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fake.calls) == 1
    assert fake.calls[0][2:] == [
        "--samples", "0", "--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.accelerator=cpu"
    ]  # fmt: skip
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & fake.environments[0].keys()
    assert {teacher.fingerprint for teacher in teachers} == {SelfTeacher(str(own[0])).fingerprint}
    assert [path.name for path in folder.parent.iterdir() if "tmp" in path.name] == []
    again = SelfTeacher(str(run), str(folder))
    assert again.estimated_bytes() and len(drawn(again, requests(2))) == 2 and len(fake.calls) == 1
    with pytest.raises(UserError, match="not the export of"):
        SelfTeacher(str(run / "checkpoints" / "a"), str(folder)).verify()
    (folder / run_export.NOTE).unlink()
    with pytest.raises(UserError, match="something else"):
        SelfTeacher(str(run), str(folder)).verify()


def test_the_export_of_a_lora_is_fused_and_a_checkpoint_is_a_source(
    own: tuple[Path, TextToImage], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeExport(own[0])
    monkeypatch.setattr(subprocess, "run", fake)
    (run / "config.yaml").write_text("model: {init_args: {trained: {lora: {rank: 4}}}}")
    checkpoint = run / "checkpoints" / "a" / "state.ckpt"
    SelfTeacher(str(checkpoint), str(tmp_path / "self")).verify()
    assert fake.calls[0][0] == str(checkpoint) and "--merged" in fake.calls[0]
    assert json.loads((tmp_path / "self" / run_export.NOTE).read_text()) == {"source": str(checkpoint)}


def test_an_export_that_fails_is_one_sentence_and_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", FakeExport(run, fails="No finished checkpoint\nlies in run."))
    with pytest.raises(UserError, match="No finished checkpoint lies in run"):
        SelfTeacher(str(run), str(tmp_path / "self")).verify()
    assert not (tmp_path / "self").exists()
    (run / "config.yaml").write_text("[")
    with pytest.raises(UserError, match="cannot be read"):
        SelfTeacher(str(run), str(tmp_path / "self")).verify()


@pytest.mark.slow
def test_a_real_run_is_exported_and_draws_what_it_draws(tmp_path: Path) -> None:
    from tests.commands.test_generate import STUDENT as TRAINED
    from tests.commands.test_generate import finished, student

    trained = finished(tmp_path, TRAINED)
    teacher = SelfTeacher(str(trained), str(tmp_path / "self"), export_options=["--trainer.accelerator=cpu"])
    teacher.verify()
    images = drawn(teacher, requests(3))
    for request, image in zip(requests(3), student(trained, averaged=True).generate(requests(3)), strict=True):
        assert np.array_equal(images[request.request_id], image.permute(1, 2, 0).numpy())
