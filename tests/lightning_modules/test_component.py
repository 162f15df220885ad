"""Pretrained components: what is missing is told before anything is loaded or paid for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from evolvedirector.lightning_modules import component
from evolvedirector.lightning_modules.component import Component, needs_revision


def folder(tmp_path: Path, *files: str) -> Component:
    for name in files:
        (tmp_path / name).write_text("{}")
    return Component("the T5 text encoder", str(tmp_path))


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    part = folder(tmp_path, "config.json", "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has only \.bin files.*save_pretrained\(FOLDER\)"):
        part.verify_weights()
    folder(tmp_path, "model.safetensors").verify_weights()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    part = folder(tmp_path, "config.json", "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"lacks model-2\.safetensors"):
        part.verify_weights()


def test_a_sentencepiece_tokenizer_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = folder(tmp_path, "config.json", "spiece.model")
    monkeypatch.setattr(component, "_SPIECE_NEEDS", {"sentencepiece": "no_such_module_here", "protobuf": "json"})
    with pytest.raises(ValueError, match=r"Run: pip install sentencepiece$"):
        part.verify_tokenizer()
    monkeypatch.setattr(component, "_SPIECE_NEEDS", {"protobuf": "no_such_package_here.protobuf"})
    with pytest.raises(ValueError, match="pip install protobuf"):
        part.verify_tokenizer()
    monkeypatch.setattr(component, "_SPIECE_NEEDS", {"sentencepiece": "json"})
    part.verify_tokenizer()
    (tmp_path / "spiece.model").unlink()
    with pytest.raises(ValueError, match="Write tokenizer_subfolder"):
        part.verify_tokenizer()
    folder(tmp_path, "tokenizer.json").verify_tokenizer()


def on_hub(monkeypatch: pytest.MonkeyPatch, *files: str) -> None:
    class Hub:
        def model_info(self, name: str, revision: str | None, timeout: float) -> SimpleNamespace:
            if name != "a/b":
                raise ConnectionError("no such name")
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)


def test_what_the_hub_would_send_counts_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    on_hub(monkeypatch, "enc/config.json", "enc/model.safetensors", "config.json", "pytorch_model.bin")
    Component("the encoder", "a/b", "c" * 40, "enc").verify_weights()
    with pytest.raises(ValueError, match=r"repository 'a/b' of the encoder has only \.bin files"):
        Component("the encoder", "a/b", "c" * 40).verify_weights()
    with pytest.raises(ValueError, match=r"nor can the hub be asked for it \(ConnectionError\)"):
        Component("the encoder", "x/y", "c" * 40).verify_weights()
    assert Component("the encoder", "a/b", "c" * 40, "enc").weight_bytes("float32") == 0


def test_other_weights_in_a_folder_have_another_name(tmp_path: Path) -> None:
    before = folder(tmp_path, "config.json", "model.safetensors").content_digest()
    (tmp_path / "model.safetensors").write_text("[]")
    assert Component("it", str(tmp_path)).content_digest() != before != ""
    assert Component("it", "a/b", "c" * 40).content_digest() == ""


def test_a_repository_needs_a_revision(tmp_path: Path) -> None:
    needs_revision("It", str(tmp_path), None)
    needs_revision("It", "a/b", "c" * 40)
    with pytest.raises(ValueError, match="Write revision"):
        needs_revision("It", "a/b", None)


@pytest.mark.parametrize("name", ["runs/expert-base/export", "./export", "~/export"])
def test_a_folder_that_another_command_makes_is_told_so(name: str) -> None:
    for revision in (None, "c" * 40):
        with pytest.raises(ValueError, match=r"which is not there\..*names the command that does"):
            needs_revision("It", name, revision)
