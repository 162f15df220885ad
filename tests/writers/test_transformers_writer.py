"""The writer on tiny random models, which write nonsense, and on one that writes what it was taught."""

from __future__ import annotations

import gc
import json
import pickle
import weakref
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from evolvedirector.models.seeded_sampling import SeededSampling, sample_next
from evolvedirector.models.text_model import TextModel, Written
from evolvedirector.records import WriteReply, WriteRequest
from evolvedirector.writers import PromptWriter, TransformersWriter
from tests.judges.tiny_vlms import TEXT, tokenizer

CHAT = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"


def request(name: str, seed: int = 0, count: int = 2, parent: str | None = "a red cat", **more: Any) -> WriteRequest:
    operation = more.pop("operation", "expansion" if parent is not None else "mutation")
    return WriteRequest(name, operation, parent, more.pop("skill", None), count, seed)


REQUESTS = [request("one", 1), request("two", 2, parent=None), request("three", 3, parent="a dog on a very long bench")]


def save_words(folder: Path, chat: bool = True) -> Any:
    words = tokenizer()
    words.chat_template = CHAT if chat else None
    words.save_pretrained(folder)
    return words


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    words = save_words(folder)
    torch.manual_seed(0)
    config = LlamaConfig(**TEXT, vocab_size=len(words), eos_token_id=words.eos_token_id, pad_token_id=0)
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data *= 20.0  # random models of small weights say nearly the same after everything
    model.save_pretrained(folder)
    return folder


@pytest.fixture()
def writer(llama_folder: Path) -> TransformersWriter:
    return TransformersWriter(str(llama_folder), max_new_tokens=12)


def speaks(monkeypatch: pytest.MonkeyPatch, *replies: str) -> list[str]:
    """Let a model without weights reply so, in turn; returns the list of what it was told, to be read afterwards."""
    told: list[str] = []
    left = list(replies)

    def write(self: TextModel, instructions: list[str], *_: Any) -> list[Any]:
        told.extend(instructions)
        return [Written(left.pop(0)) for _ in instructions]

    monkeypatch.setattr(TextModel, "__init__", lambda self, *_: None)
    monkeypatch.setattr(TextModel, "write", write)
    return told


def test_it_is_a_writer(writer: TransformersWriter) -> None:
    assert isinstance(writer, PromptWriter)


def test_nonsense_is_a_refusal_and_never_an_error(writer: TransformersWriter) -> None:
    replies = list(writer.write(REQUESTS))
    assert [reply.request_id for reply in replies] == ["one", "two", "three"]
    assert all(reply.texts == () and reply.refusal for reply in replies)
    assert any("cut off; raise max_new_tokens" in reply.refusal for reply in replies)


def test_what_is_written_follows_from_the_seed_alone(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: dict[int, str] = {}
    real = TextModel.write

    def write(self: TextModel, instructions: list[str], seeds: list[int], *rest: Any) -> list[Any]:
        written = real(self, instructions, seeds, *rest)
        heard.update({seed: one.text for seed, one in zip(seeds, written, strict=True)})
        return written

    monkeypatch.setattr(TextModel, "write", write)
    writer = TransformersWriter(str(llama_folder), max_new_tokens=12, keep_loaded=True)
    texts = []
    for batch_size, order in ((8, 1), (1, 1), (2, -1)):
        heard.clear()
        writer.batch_size = batch_size
        list(writer.write(REQUESTS[::order]))
        texts.append(dict(heard))
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0].values())) == len(REQUESTS)
    heard.clear()
    list(writer.write([request("one", seed) for seed in range(4)]))
    assert len(set(heard.values())) == 4  # the same instruction, other seeds


def test_a_model_that_writes_a_list_is_read(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = speaks(monkeypatch, 'Sure:\n["a blue cat", "a red cat", "two green dogs"]')
    (reply,) = TransformersWriter(str(llama_folder), keep_loaded=True).write([request("one", count=3)])
    assert reply.texts == ("a blue cat", "two green dogs")
    assert reply.refusal == "refused: equal to the parent 1"
    assert "a red cat" in told[0]
    assert "3 new descriptions" in told[0]


def test_a_large_request_is_cut_and_its_pieces_do_not_repeat_each_other(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = '["a blue cat", "two green dogs"]', '["two green dogs", "a lake at night"]'
    told = speaks(monkeypatch, first, again, '["an old violin"]')
    writer = TransformersWriter(str(llama_folder), texts_per_reply=2, batch_size=2, keep_loaded=True)
    (reply,) = writer.write([request("one", count=5)])
    assert reply.texts == ("a blue cat", "two green dogs", "a lake at night", "an old violin")
    assert "near copy 1" in reply.refusal
    assert ["1 new" in text for text in told] == [False, False, True]


def test_examples_come_from_a_pool_that_grows(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = speaks(monkeypatch, '["five copper kettles"]', '["nine tin drums"]', '["five copper kettles"]')
    known = {"counting": ["three wooden boats"]}
    writer = TransformersWriter(str(llama_folder), examples=known, keep_loaded=True)
    asked = request("one", count=1, parent=None, skill="counting")
    assert [reply.texts for reply in writer.write([asked])] == [("five copper kettles",)]
    assert [reply.texts for reply in writer.write([asked])] == [("nine tin drums",)]
    assert "three wooden boats" in told[0]
    assert "five copper kettles" not in told[0]
    assert "five copper kettles" in told[1]
    (copy,) = writer.write([asked])
    assert (copy.texts, copy.refusal) == ((), "refused: near copy 1")


def test_an_expansion_of_nothing_and_nothing_asked_for(writer: TransformersWriter) -> None:
    orphan = WriteRequest("orphan", "expansion", None, None, 3, 0)
    nothing = request("nothing", count=0)
    replies = list(writer.write([orphan, nothing]))
    assert replies[0] == WriteReply("orphan", refusal="refused: expansion without a parent 1")
    assert replies[1] == WriteReply("nothing")


def test_memory_is_free_when_all_is_answered_unless_it_is_kept(llama_folder: Path) -> None:
    writer = TransformersWriter(str(llama_folder), max_new_tokens=2)
    replies = writer.write(REQUESTS[:1])
    next(replies)
    assert writer._text.is_loaded
    weights = weakref.ref(next(writer._text.get().model.parameters()))
    assert next(replies, None) is None
    gc.collect()
    assert weights() is None
    kept = TransformersWriter(str(llama_folder), max_new_tokens=2, keep_loaded=True)
    list(kept.write(REQUESTS[:1]))
    assert kept._text.is_loaded
    kept.close()
    assert not kept._text.is_loaded
    assert kept.estimated_bytes() == 4 * sum(
        p.numel() for p in LlamaForCausalLM.from_pretrained(llama_folder).parameters()
    )


@pytest.mark.slow
def test_no_memory_is_an_error_at_first_and_a_refusal_later(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TransformersWriter(str(llama_folder), keep_loaded=True)
    speaks(monkeypatch, "nothing", "nothing", "nothing")
    works = TextModel.write

    def full(*_: Any) -> list[Any]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TextModel, "write", full)
    with pytest.raises(ValueError, match="Write a batch_size under 8"):
        list(writer.write(REQUESTS))
    monkeypatch.setattr(TextModel, "write", works)
    assert all(reply.answered for reply in writer.write(REQUESTS))
    monkeypatch.setattr(TextModel, "write", full)
    replies = list(writer.write(REQUESTS))
    assert replies and all("out of memory" in reply.refusal and not reply.answered for reply in replies)


def test_verify_says_what_is_wrong_without_loading(llama_folder: Path, tmp_path: Path) -> None:
    writer = TransformersWriter(str(llama_folder), max_new_tokens=100)
    writer.verify()
    assert not writer._text.is_loaded
    with pytest.raises(ValueError, match="do not fit the 2048 tokens"):
        TransformersWriter(str(llama_folder), max_new_tokens=2000).verify()
    with pytest.raises(ValueError, match="does not exist"):
        TransformersWriter("./nowhere/at/all").verify()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot write prompts"):
        TransformersWriter(str(tmp_path)).verify()


def test_a_parent_that_is_too_long_for_the_model_is_a_refusal_of_its_own(tmp_path: Path) -> None:
    """GPT-2 has learned positions: one token too many is an error inside of it."""
    words = save_words(tmp_path, chat=False)
    words.pad_token = None
    words.save_pretrained(tmp_path)
    torch.manual_seed(0)
    shape: dict[str, Any] = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 512}
    GPT2LMHeadModel(GPT2Config(**shape, vocab_size=len(words), eos_token_id=2, bos_token_id=1)).save_pretrained(
        tmp_path
    )
    writer = TransformersWriter(str(tmp_path), max_new_tokens=8)
    long, short = writer.write([request("long", parent="x" * 1900), request("short")])
    assert "leaves no room for 8 more in 512" in long.refusal
    assert "no room" not in short.refusal


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"temperature": 3.0}, "temperature is 3.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"rouge_limit": 2.0}, "rouge_limit is 2.0"),
        ({"examples_per_request": -1}, "examples_per_request is -1"),
    ],
)
def test_settings_that_nobody_could_mean_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TransformersWriter("model", **settings)


def test_it_can_be_written_in_a_config(llama_folder: Path) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--writer", type=PromptWriter)
    chosen = {"class_path": "evolvedirector.writers.TransformersWriter", "init_args": {"model": str(llama_folder)}}
    config = parser.parse_object({"writer": chosen})
    again = parser.parse_string(parser.dump(config))
    assert isinstance(parser.instantiate_classes(again).writer, TransformersWriter)


def test_it_travels_to_another_process_before_it_is_loaded(writer: TransformersWriter) -> None:
    assert pickle.loads(pickle.dumps(writer)).model == writer.model


def test_sampling_has_the_shares_of_the_softmax_and_no_token_out_of_the_nucleus() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(10_000, 1)[:, [2, 0, 3, 1]]
    uniforms = (torch.arange(10_000) + 0.5) / 10_000
    shares = sample_next(logits, uniforms, 1.0).bincount(minlength=4) / 10_000
    assert shares.tolist() == pytest.approx([0.15, 0.5, 0.05, 0.3], abs=1e-3)
    nucleus = sample_next(logits, uniforms, 1.0, top_p=0.7).bincount(minlength=4) / 10_000
    assert nucleus.tolist() == pytest.approx([0.0, 0.625, 0.0, 0.375], abs=1e-3)
    cold = sample_next(logits, uniforms, 0.5).bincount(minlength=4) / 10_000
    assert cold[1] == pytest.approx(0.25 / (0.25 + 0.09 + 0.0225 + 0.0025), abs=1e-3)
    assert set(sample_next(logits, uniforms, 0.0).tolist()) == {1}
    assert sample_next(logits[:2], torch.tensor([0.0, 1.0 - 1e-12]), 1.0).tolist() == [1, 2]


def test_every_row_draws_from_its_own_seed() -> None:
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(3, 1, dtype=torch.long)

    def chosen(seeds: list[int], rows: list[int]) -> list[list[int]]:
        sampling = SeededSampling(seeds, 1.0, 1.0)
        return [sampling(ids[rows], scores[rows]).argmax(-1).tolist() for _ in range(4)]

    together, alone = chosen([7, 8, 9], [0, 1, 2]), chosen([8], [1])
    assert [step[1] for step in together] == [step[0] for step in alone]
    assert chosen([7, 7], [0, 0])[0][0] == chosen([7, 7], [0, 0])[0][1]


@pytest.mark.slow
def test_four_bit_weights_write_too(llama_folder: Path, rows_of_any_length: None) -> None:
    replies = list(TransformersWriter(str(llama_folder), quantisation="nf4", max_new_tokens=4).write(REQUESTS))
    assert all(reply.refusal for reply in replies)
