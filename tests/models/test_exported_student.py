"""Exports of networks with parts that their own class does not know: all weights come back, from the folder alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from evolvedirector.commands.exported_files import write_whole
from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import FlowMatching, SubjectToImage
from evolvedirector.models.exported_student import check_export, described_student, exported_student
from tests.lightning_modules.subjects.tiny_subject import SIDE, family, picture, png, request
from tests.lightning_modules.tiny_student import student_tree

_PLACE = "evolvedirector.lightning_modules"


def tree(pretrained: Path | None) -> dict[str, Any]:
    plain = student_tree()["init_args"]
    inner = plain["family"]
    if pretrained is not None:
        inner["init_args"]["pretrained"] = str(pretrained)
    features = {"class_path": f"{_PLACE}.RawPatches", "init_args": {"image_size_px": 8, "patch_px": 4}}
    numbers = {"family": inner, "features": features, "width": 16, "layers": 1, "heads": 2}
    wrapped = {"class_path": f"{_PLACE}.SubjectFamily", "init_args": numbers}
    return {"class_path": f"{_PLACE}.SubjectToImage", "init_args": {**plain, "family": wrapped}}


@pytest.mark.parametrize("starts_pretrained", [False, True])
def test_a_network_with_added_parts_is_exported_and_loaded_whole(tmp_path: Path, starts_pretrained: bool) -> None:
    module = SubjectToImage(
        family(), FlowMatching(), SIDE, sampling_steps=2, generation_chunk_size=4, guidance_scale=1.5
    )
    network: Any = module.student().network
    base = tmp_path / "base"
    network.save_pretrained(base)
    out = tmp_path / "out"
    out.mkdir()
    model: Any = SimpleNamespace(as_dict=lambda: tree(base if starts_pretrained else None))
    usage = write_whole(module, network, model, out)
    assert "exported_student" in usage
    shutil.rmtree(base)  # what it began with is not needed any more
    asked = request(reference=png(picture(2)[0]))
    check_export(out)
    loaded = exported_student(out)
    assert torch.equal(loaded.generate([asked])[0], module.generate([asked])[0])
    described = yaml.safe_load((out / "student.yaml").read_text())["model"]
    assert described["class_path"] == f"{_PLACE}.SubjectToImage"


@pytest.mark.parametrize("broken", ["a family", ["PixArt"], {"class_path": f"{_PLACE}.PixArt", "init_args": 3}])
def test_a_description_of_another_form_is_one_sentence(tmp_path: Path, broken: Any) -> None:
    described = tree(None)
    described["init_args"]["family"]["init_args"]["family"] = broken
    (tmp_path / "student.yaml").write_text(yaml.safe_dump({"model": described}))
    with pytest.raises(UserError, match="describes no student that can be built"):
        described_student(tmp_path)
