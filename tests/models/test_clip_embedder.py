"""A CLIP as a joint embedding gives what stock transformers gives, whole or split, whatever stands beside a text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoTokenizer

from evolvedirector.errors import UserError
from evolvedirector.models.clip_embedder import ClipEmbedder
from evolvedirector.models.embedder import Embedder
from evolvedirector.models.part_files import built_part
from evolvedirector.models.subject_words import subject_tokens
from evolvedirector.records.part import Closable, OnDevice, Verifiable
from evolvedirector.records.prompt_subjects import NamedSubject
from tests.models.tiny_split_clips import split, stock, whole
from tests.rewards.tiny_clips import IMAGES, PROMPTS


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole(tmp_path_factory.mktemp("clips") / "clip")


@pytest.fixture(scope="module")
def pipeline(clip: Path) -> Path:
    return split(clip, clip.parent / "pipeline")


def test_it_gives_what_stock_transformers_gives(clip: Path) -> None:
    text, vision = stock(clip)
    words = AutoTokenizer.from_pretrained(clip)(PROMPTS, padding="max_length", max_length=64, return_tensors="pt")
    pixels = AutoImageProcessor.from_pretrained(clip, backend="pil")(images=list(IMAGES), return_tensors="pt")
    with torch.no_grad():
        said, shown = text(**{n: words[n] for n in ("input_ids", "attention_mask")}), vision(**pixels)
    embedder = ClipEmbedder(str(clip), batch_size=len(PROMPTS))
    found = embedder.embed_texts(PROMPTS)
    torch.testing.assert_close(found.states.values, said.last_hidden_state, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.pooled, said.text_embeds, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(embedder.embed_images(list(IMAGES)), shown.image_embeds, atol=1e-6, rtol=1e-5)
    assert torch.equal(found.states.mask, words["attention_mask"].bool()) and found.cut == (False, False)
    assert (embedder.embedding_dim, embedder.text_width, embedder.max_tokens) == (8, 32, 64)
    assert not torch.allclose(found.pooled.norm(dim=1), torch.ones(2), atol=0.05)  # raw, not normalised


def test_what_stands_beside_a_text_or_an_image_changes_nothing(clip: Path) -> None:
    embedder = ClipEmbedder(str(clip), batch_size=8)
    texts = [f"{number} things {'yes ' * (number % 9)}" for number in range(19)]
    together, turned = embedder.embed_texts(texts), embedder.embed_texts(texts[::-1])
    alone = [embedder.embed_texts([text]) for text in texts[:2]]
    assert torch.equal(together.pooled, turned.pooled.flip(0))
    assert torch.equal(together.states.values, turned.states.values.flip(0))
    assert torch.equal(together.pooled[:2], torch.cat([each.pooled for each in alone]))
    images = [*IMAGES, *IMAGES.transpose(2, 3)]  # of two sizes
    assert torch.equal(embedder.embed_images(images)[1:2], embedder.embed_images(images[1:2]))


def test_a_long_text_is_cut_and_says_so(clip: Path) -> None:
    embedder = ClipEmbedder(str(clip))
    found = embedder.embed_texts(["a", "x" * 64, "x" * 65])  # one token for each letter
    assert found.cut == (False, False, True) and found.states.mask.sum(1).tolist() == [1, 64, 64]
    assert torch.equal(found.pooled[1], found.pooled[2])


def test_it_says_which_characters_its_tokens_stand_for(clip: Path) -> None:
    embedder, text = ClipEmbedder(str(clip)), "a red circle"
    states = embedder.embed_texts([text]).states
    found = subject_tokens(text, [NamedSubject("Circle")], embedder.token_spans(text))
    assert found.shape == (1, states.mask.shape[1]) and not (found[0] & ~states.mask[0]).any()
    pieces = embedder._tokenizer.convert_ids_to_tokens(embedder._tokenizer(text)["input_ids"])
    assert "".join(pieces[place] for place in found[0].nonzero().flatten().tolist()) == "circle"
    with pytest.raises(UserError, match="stands behind the 64 tokens"):
        subject_tokens(long := f"{'x' * 64} cat", [NamedSubject("cat")], embedder.token_spans(long))


def test_the_command_that_builds_it_names_what_differs(clip: Path) -> None:
    embedder = ClipEmbedder(str(clip), image_model="other", projection_dim=8, batch_size=3, device="cpu")
    assert embedder.embed_options() == ["--model", str(clip), "--image-model", "other", "--projection-dim", "8"]


def test_nothing_is_embedded_as_nothing(clip: Path) -> None:
    embedder = ClipEmbedder(str(clip))
    assert embedder.embed_texts([]).pooled.shape == (0, 8) and embedder.embed_images([]).shape == (0, 8)


def test_a_pipelines_folders_give_the_same(clip: Path, pipeline: Path) -> None:
    one, other = ClipEmbedder(str(clip)), ClipEmbedder(str(pipeline))
    other.verify()
    assert torch.equal(one.embed_texts(PROMPTS).pooled, other.embed_texts(PROMPTS).pooled)
    assert torch.equal(one.embed_images(list(IMAGES)), other.embed_images(list(IMAGES)))
    assert other.embedding_dim == 8 and other.fingerprint != one.fingerprint


def test_each_half_may_lie_elsewhere(clip: Path, pipeline: Path, tmp_path: Path) -> None:
    """As Karlo's text encoder and OpenAI's image encoder do; the processor is found by its other name, too."""
    shutil.copytree(pipeline, tmp_path / "karlo")
    (tmp_path / "karlo" / "image_processor").rename(tmp_path / "karlo" / "feature_extractor")
    mixed = ClipEmbedder(str(clip), image_model=str(tmp_path / "karlo"))
    mixed.verify()
    assert torch.equal(mixed.embed_images(list(IMAGES)), ClipEmbedder(str(clip)).embed_images(list(IMAGES)))


def test_it_is_known_before_it_is_loaded_and_lets_go(clip: Path) -> None:
    embedder = ClipEmbedder(str(clip))
    for kind in (Embedder, Verifiable, OnDevice, Closable):
        assert isinstance(embedder, kind)
    embedder.verify()
    weights = sum(value.nbytes for value in load_file(clip / "model.safetensors").values())
    assert embedder.estimated_bytes() == weights and not embedder._loaded
    before = embedder.embed_texts(PROMPTS).pooled
    embedder.close()
    assert not embedder._loaded and torch.equal(embedder.embed_texts(PROMPTS).pooled, before)


def test_a_yaml_can_name_it(clip: Path) -> None:
    content = {"class_path": "evolvedirector.models.clip_embedder.ClipEmbedder", "init_args": {"model": str(clip)}}
    assert isinstance(built_part(content, Embedder, "embedder"), ClipEmbedder)


def test_the_fingerprint_is_that_of_weights_and_precision(clip: Path, tmp_path: Path) -> None:
    name = ClipEmbedder(str(clip)).fingerprint
    assert name == ClipEmbedder(str(clip), device="cpu", batch_size=3).fingerprint and str(clip.parent) not in name
    assert name != ClipEmbedder(str(clip), dtype="bfloat16").fingerprint
    shutil.copytree(clip, tmp_path / "clip")
    assert ClipEmbedder(str(tmp_path / "clip")).fingerprint == name
    changed(tmp_path / "clip", lambda weights: {n: value + 1 for n, value in weights.items()})
    assert ClipEmbedder(str(tmp_path / "clip")).fingerprint != name


def changed(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def test_what_cannot_be_used_is_one_sentence(clip: Path, pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch_size is 0"):
        ClipEmbedder(str(clip), batch_size=0)
    with pytest.raises(UserError, match="does not exist"):
        ClipEmbedder(str(tmp_path / "nowhere")).verify()
    with pytest.raises(UserError, match=r"other shapes .* projection_dim 5"):
        ClipEmbedder(str(clip), projection_dim=5).embed_texts(PROMPTS)
    other = shutil.copytree(clip, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "projection_dim": 6}))
    with pytest.raises(UserError, match=r"8 values, the images of .* 6"):
        ClipEmbedder(str(clip), image_model=str(other)).verify()
    (other / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
    with pytest.raises(UserError, match="is a siglip, no CLIP"):
        ClipEmbedder(str(other)).verify()
    (other / "config.json").write_text(json.dumps(config))
    changed(other, lambda weights: {n: v for n, v in weights.items() if n != "text_projection.weight"})
    with pytest.raises(UserError, match=r"lacks 1 of its weights, text_projection\.weight"):
        ClipEmbedder(str(other)).embed_texts(PROMPTS)
    changed(other, lambda weights: {n: v * torch.nan if "visual" in n else v for n, v in weights.items()})
    with pytest.raises(UserError, match=r"embedding of images .* not finite"):
        ClipEmbedder(str(other)).embed_images(list(IMAGES))
    shutil.copytree(pipeline, tmp_path / "pipeline")
    (tmp_path / "pipeline" / "text_encoder" / "model.safetensors").rename(tmp_path / "pipeline" / "pytorch_model.bin")
    with pytest.raises(UserError, match="no complete safetensors weights"):
        ClipEmbedder(str(tmp_path / "pipeline")).verify()
