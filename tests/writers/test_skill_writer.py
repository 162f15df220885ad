"""Skills filled to the number asked for, over language models, grammars and kills."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.errors import UserError
from evolvedirector.models.part_files import built_part
from evolvedirector.records import Prompt, WriteReply, WriteRequest, prompt_id_of
from evolvedirector.worlds.shapes import HeldOutPrompts, MiniatureWriter
from evolvedirector.worlds.shapes.grammar import parse
from evolvedirector.writers import OpenAIChatWriter, PromptWriter, SkillWriter
from evolvedirector.writers.rouge import rouge_l, words_of
from tests.chat_server import chat_server, completion

MINIATURE = ["single_object", "two_objects", "counting", "colours", "position", "colour_binding"]


class Wordy:
    """Writes word after word of a vocabulary that ends, copies among them; remembers what it was asked."""

    fingerprint = "wordy"

    def __init__(self, size: int = 10**6, copies: bool = False, dies_at: int | None = None) -> None:
        self.size, self.copies, self.dies_at = size, copies, dies_at
        self.asked: list[WriteRequest] = []
        self.closed = 0

    def texts(self, request: WriteRequest) -> list[str]:
        start = request.seed % self.size
        found = [
            f"thing{(start + n) % self.size} of {request.skill} number{(start + n) % self.size}"
            for n in range(request.count)
        ]
        return [text for one in found for text in ((one, f"The {one}.") if self.copies else (one,))]

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        for request in requests:
            if self.dies_at == len(self.asked):
                raise KeyboardInterrupt
            self.asked.append(request)
            yield WriteReply(request.request_id, tuple(self.texts(request)))

    def close(self) -> None:
        self.closed += 1


def skill_files(folder: Path, *names: str, seeds: Sequence[str] = ("a seed of its own",)) -> list[str]:
    folder.mkdir(exist_ok=True)
    for name in names:
        content = {"name": name, "seeds": [f"{seed} for {name}" for seed in seeds], "rules": ["Be short."]}
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    return [str(folder / f"{name}.yaml") for name in names]


def asked_for(skill: str | None, count: int, name: str = "", **more: Any) -> WriteRequest:
    return WriteRequest(name or f"{skill} {count}", "mutation", None, skill, count, 0, **more)


@pytest.fixture
def make(tmp_path: Path):
    def made(writer: Any, *names: str, folder: str = "kept", **options: Any) -> SkillWriter:
        files = skill_files(tmp_path / "skills", *(names or ("tools",)))
        return SkillWriter(writer, files, tmp_path / folder, **options)

    return made


def test_each_skill_gets_exactly_as_many_and_further_ones_are_kept_for_later(make) -> None:
    inner = Wordy()
    writer = make(inner, "tools", "birds", texts_per_request=20)
    assert isinstance(writer, PromptWriter)
    writer.verify()
    replies = {reply.request_id: reply for reply in writer.write([asked_for("tools", 33), asked_for("birds", 7)])}
    tools, birds = replies["tools 33"].texts, replies["birds 7"].texts
    assert len({prompt_id_of(text) for text in tools}) == 33 and len(set(birds)) == 7
    assert not replies["tools 33"].refusal and all("of tools" in text for text in tools)
    assert [request.count for request in inner.asked] == [20] * 3
    assert all(request.rules == ("Be short.",) for request in inner.asked)
    # what the dataset has is no news; what was kept beside it is there without a further question
    (more,) = writer.write([asked_for("tools", 7, known=tools)])
    assert len(more.texts) == 7 and not set(more.texts) & set(tools) and len(inner.asked) == 3
    (again,) = writer.write([asked_for("tools", 33)])
    assert again.texts == tools and len(inner.asked) == 3


def test_two_requests_of_one_call_share_no_text(make) -> None:
    replies = list(make(Wordy()).write([asked_for("tools", 5, "a"), asked_for("tools", 6, "b")]))
    assert [len(reply.texts) for reply in replies] == [5, 6]
    assert len({text for reply in replies for text in reply.texts}) == 11


def test_examples_are_three_of_the_seeds_and_everything_kept_so_far(make, tmp_path: Path) -> None:
    inner = Wordy()
    writer = make(inner)
    (reply,) = writer.write([asked_for("tools", 200)])
    seeds = {"a seed of its own for tools"}
    assert set(inner.asked[0].examples) == seeds, "there is nothing else to show yet"
    for number, request in enumerate(inner.asked[1:], 1):
        assert len(request.examples) == 3 and set(request.examples) <= seeds | set(reply.texts[: 20 * number])
    shown = {text for request in inner.asked for text in request.examples}
    assert len(shown & set(reply.texts)) > 10, "the pool grows"


def test_copies_are_refused_by_their_words_unless_a_grammar_writes(make) -> None:
    class Copying(Wordy):
        def texts(self, request: WriteRequest) -> list[str]:
            one = f"a red fox under an old bridge in the snow {request.seed % 1000}"
            return [one, one.replace("red", "brown"), f"word{request.seed} alone"]

    inner = Copying()
    (reply,) = make(inner, patience=2).write([asked_for("tools", 6)])
    words = [words_of(text) for text in reply.texts]
    assert len(words) == 6 and max(rouge_l(a, b) for n, a in enumerate(words) for b in words[:n]) <= 0.8
    (alike,) = make(Copying(), folder="other", rouge_limit=1.0).write([asked_for("tools", 6)])
    assert sum("fox" in text for text in alike.texts) == 4
    (equal,) = make(Wordy(copies=True), folder="third", rouge_limit=1.0).write([asked_for("tools", 30)])
    assert len({prompt_id_of(text) for text in equal.texts}) == 30, "an article and a full stop are no difference"


def test_a_writer_that_has_no_more_is_a_stated_shortfall_that_is_not_asked_again(make) -> None:
    inner = Wordy(size=24)
    writer = make(inner, rouge_limit=1.0, patience=3)
    (reply,) = writer.write([asked_for("tools", 100)])
    assert len(reply.texts) == 24 and reply.answered
    assert "24 of 100 prompts of tools" in reply.refusal and "3 answers in a row (duplicate 60)" in reply.refusal
    asked = len(inner.asked)
    (again,) = make(inner, rouge_limit=1.0, patience=3).write([asked_for("tools", 100)])
    assert again == reply and len(inner.asked) == asked
    (rest,) = writer.write([asked_for("tools", 4, known=reply.texts)])
    assert rest.texts == () and "0 of 4" in rest.refusal and len(inner.asked) == asked
    inner.fingerprint = "another model"
    list(writer.write([asked_for("tools", 100)]))
    assert len(inner.asked) == asked + 3, "another writer may have more"


def test_held_out_prompts_are_neither_written_nor_shown(make, tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("a seed of its own for tools\n" + "".join(f"Thing{n} of tools number{n}.\n" for n in range(20)))
    inner = Wordy(size=30)
    writer = make(inner, held_out=str(held_out), rouge_limit=1.0)
    with pytest.raises(UserError, match="All 1 seeds of the skill 'tools' are held out"):
        writer.verify()
    (reply,) = writer.write([asked_for("tools", 30)])
    assert len(reply.texts) == 10 and "held out" in reply.refusal
    assert not any("a seed" in text for request in inner.asked for text in request.examples)
    plain = make(Wordy(size=30), rouge_limit=1.0, folder="plain")
    assert writer.fingerprint != plain.fingerprint
    # held out later: what was kept before is not handed out either
    list(plain.write([asked_for("tools", 30)]))
    (later,) = make(Wordy(size=30), rouge_limit=1.0, folder="plain", held_out=str(held_out)).write(
        [asked_for("tools", 30)]
    )
    assert len(later.texts) == 10


def test_a_kill_between_requests_asks_nothing_twice(make) -> None:
    whole = Wordy()
    (expected,) = make(whole, folder="whole").write([asked_for("tools", 90)])
    asked: list[WriteRequest] = []
    for _ in range(10):
        inner = Wordy(dies_at=1)
        try:
            (reply,) = make(inner).write([asked_for("tools", 90)])
        except KeyboardInterrupt:
            continue
        finally:
            asked += inner.asked
        break
    assert reply == expected and asked == whole.asked, "each request once, with the same examples"


def test_a_file_cut_at_any_byte_loses_its_last_answer_alone(make, tmp_path: Path) -> None:
    (expected,) = make(Wordy(), texts_per_request=2).write([asked_for("tools", 6)])
    path = tmp_path / "kept" / "tools.jsonl"
    content = path.read_bytes()
    start = content.rstrip(b"\n").rfind(b"\n") + 1
    for length in range(start, len(content)):
        path.write_bytes(content[:length])
        inner = Wordy()
        (reply,) = make(inner, texts_per_request=2).write([asked_for("tools", 6)])
        assert reply == expected and path.read_bytes() == content, length
        assert len(inner.asked) == (1 if length < len(content) - 1 else 0), length


def test_a_damaged_line_is_one_sentence_before_anything_is_asked(make, tmp_path: Path) -> None:
    make_it = make(Wordy())
    list(make_it.write([asked_for("tools", 40)]))
    path = tmp_path / "kept" / "tools.jsonl"
    content = path.read_bytes()
    for wrong in (b"nonsense\n", b"[]\n", b'{"writer": "w", "texts": [1], "refused": {}}\n', b"\xff\n"):
        path.write_bytes(wrong + content)
        with pytest.raises(UserError, match="Line 1 of"):
            make_it.verify()
        with pytest.raises(UserError, match="Remove that line"):
            list(make_it.write([asked_for("tools", 1)]))


def test_two_processes_that_share_a_folder_share_its_prompts(make) -> None:
    writers, replies = [make(Wordy(), "tools", "birds") for _ in range(4)], list[list[WriteReply]]()
    requests = [asked_for("tools", 30), asked_for("birds", 30)]
    threads = [threading.Thread(target=lambda w=w: replies.append(list(w.write(requests)))) for w in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(replies) == 4 and all(sorted(map(str, r)) == sorted(map(str, replies[0])) for r in replies)
    assert sum(len(writer.writer.asked) for writer in writers) == 4, "two answers of 20 for each skill"


def test_an_outage_keeps_what_is_there_and_is_no_end(make) -> None:
    class Gone(Wordy):
        def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
            for request in requests:
                if len(self.asked) >= 2:
                    yield WriteReply(request.request_id, refusal="no answer from the server", answered=False)
                else:
                    yield from super().write([request])

    (reply,) = make(Gone()).write([asked_for("tools", 100)])
    assert len(reply.texts) == 40 and reply.answered and "40 of 100 prompts of tools: no answer" in reply.refusal
    nothing = Gone()
    nothing.asked = [asked_for("x", 1)] * 2
    (empty,) = make(nothing, folder="other").write([asked_for("tools", 5)])
    assert not empty.answered and not empty.texts
    (rest,) = make(Wordy()).write([asked_for("tools", 100)])
    assert len(rest.texts) == 100 and rest.texts[:40] == reply.texts

    class Silent(Wordy):
        def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
            return iter(())

    (silent,) = make(Silent(), folder="third").write([asked_for("tools", 5)])
    assert not silent.answered and "no reply" in silent.refusal


def test_what_it_does_not_write_itself_is_refused_or_passed_on(make) -> None:
    inner = Wordy()
    writer = make(inner)
    unknown, none = writer.write([asked_for("birds", 3), asked_for(None, 3)])
    assert "'birds' is no skill of this writer (tools)" in unknown.refusal and none.refusal and not inner.asked
    (child,) = writer.write([WriteRequest("e", "expansion", "a hammer", "tools", 2, 0)])
    assert len(child.texts) == 2 and inner.asked[0].parent == "a hammer" and inner.asked[0].rules == ("Be short.",)
    writer.close()
    assert inner.closed == 1 and writer.price_usd() == 0.0 and writer.estimated_bytes() == 0
    assert writer.requests_in_flight == 0


def test_texts_of_another_skill_and_broken_ones_are_refused(make) -> None:
    class Confused(Wordy):
        def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
            for request in requests:
                yield WriteReply(
                    request.request_id, ("a hammer", "see www.example.com", "a wren"), ("tools", "tools", "birds")
                )

    (reply,) = make(Confused(), patience=1).write([asked_for("tools", 5)])
    assert reply.texts == ("a hammer",) and "another skill 1" in reply.refusal and "web address 1" in reply.refusal


@pytest.mark.parametrize(
    "wrong", [{"texts_per_request": 0}, {"examples_per_request": -1}, {"patience": 0}, {"rouge_limit": 1.1}]
)
def test_settings_out_of_range_are_refused(make, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        make(Wordy(), **wrong)


def test_a_skill_without_seeds_is_refused_before_a_run(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("name: empty\nseeds: []\n")
    with pytest.raises(UserError, match="has no seeds"):
        SkillWriter(Wordy(), [str(tmp_path / "empty.yaml")], tmp_path / "kept")


def test_a_grammar_fills_its_skills_as_far_as_it_reaches(tmp_path: Path) -> None:
    files = [f"configs/prompts/selma_miniature/{name}.yaml" for name in MINIATURE]
    held_out = HeldOutPrompts(per_skill=24)
    writer = SkillWriter(
        MiniatureWriter(held_out=held_out), files, tmp_path / "kept", held_out=held_out, rouge_limit=1.0
    )
    writer.verify()
    replies = {r.request_id: r for r in writer.write([asked_for(name, 60, name) for name in MINIATURE])}
    assert len(replies["position"].texts) == len(replies["two_objects"].texts) == 60
    assert "of 60 prompts of single_object" in replies["single_object"].refusal
    assert len(replies["single_object"].texts) == 12 - 2 - 2, "two are held out, and two of its other words are seeds"
    assert not any(held_out.holds(parse(text)) for reply in replies.values() for text in reply.texts)


def test_a_language_model_behind_an_endpoint_is_told_rules_and_examples(make) -> None:
    numbers = iter(range(1000))
    words = ("owl", "tram", "kettle", "lemon", "violin", "ladder", "harbour", "comet", "beetle", "lantern", "saddle")

    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        texts = [
            f"{words[(n := next(numbers)) % 11]} {words[n // 11 % 11]} beside {words[n * 7 % 11]} {n}"
            for _ in range(20)
        ]
        return completion(json.dumps({"descriptions": texts}))

    with chat_server(reply, ("writer",)) as server:
        writer = make(OpenAIChatWriter(server.endpoint(), "writer", texts_per_chat=20))
        writer.verify()
        (written,) = writer.write([asked_for("tools", 25)])
    assert len(written.texts) == 25
    first, last = server.texts()[0], server.texts()[-1]
    assert (
        "Write 20 new descriptions" in first and "- Be short." in first and '- "a seed of its own for tools"' in first
    )
    assert sum(f'- "{text}"' in last for text in written.texts) >= 2, "what was kept is shown"


def test_it_can_be_written_in_yaml(tmp_path: Path) -> None:
    described = {
        "class_path": "evolvedirector.writers.SkillWriter",
        "init_args": {
            "writer": {"class_path": "evolvedirector.worlds.shapes.MiniatureWriter"},
            "skills": skill_files(tmp_path / "skills", "tools"),
            "folder": str(tmp_path / "kept"),
            "held_out": {"class_path": "evolvedirector.worlds.shapes.HeldOutPrompts"},
        },
    }
    assert isinstance(built_part(described, PromptWriter, "writer"), SkillWriter)


def test_prompts_are_made_of_what_it_writes(make) -> None:
    (reply,) = make(Wordy()).write([asked_for("tools", 3)])
    assert {Prompt.create(text, skill="tools").id for text in reply.texts} == set(map(prompt_id_of, reply.texts))
