import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvedirector.evolution.candidates import accept_texts, refusal_cause
from evolvedirector.records import MAX_PROMPT_CHARACTERS, Prompt, WriteReply, WriteRequest, prompt_id_of


def request(name: str = "w", count: int = 2, skill: str | None = "tone") -> WriteRequest:
    return WriteRequest(name, "expansion", None, skill, count, 0)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "empty"),
        (" . ", "empty"),
        ("x" * (MAX_PROMPT_CHARACTERS + 1), "too long"),
        ("a fox\x00", "control characters"),
        ("a fox\x1b[31m", "control characters"),
        ("The  red  FOX.", "duplicate"),
        ("a held out fox", "held out"),
        ("a blue fox", None),
        ("狐 🦊 ثعلب", None),
    ],
)
def test_what_may_become_a_prompt(text: str, cause: str | None) -> None:
    known, held_out = {prompt_id_of("a red fox")}, {prompt_id_of("held out fox")}
    assert refusal_cause(text, known, held_out) == cause


@given(st.text(max_size=50))
def test_any_text_is_accepted_or_refused_never_an_error(text: str) -> None:
    assert refusal_cause(text, set(), set()) in (None, "empty", "control characters")


def test_a_child_joins_the_lineage_of_its_parent_and_takes_the_skill_of_the_reply() -> None:
    parent = Prompt.create("a fox")
    reply = WriteReply("w", ("a bear", "two bears"), ("animal", "counting"))
    written = accept_texts([(request(), parent)], {"w": reply}, set(), set())
    assert [(p.text, p.skill, p.parent_id, p.lineage_id, p.origin) for p in written.prompts] == [
        ("a bear", "animal", parent.id, parent.id, "expansion"),
        ("two bears", "counting", parent.id, parent.id, "expansion"),
    ]


def test_too_many_too_few_and_doubled_texts_are_counted() -> None:
    replies = {
        "a": WriteReply("a", ("a bear", "The bear", "a cat")),  # the third was not asked for
        "b": WriteReply("b", ("A BEAR.",)),
        "c": WriteReply("c", refusal="no"),
    }
    requests = [(request(name), None) for name in "abcd"]
    written = accept_texts(requests, replies, set(), set())
    assert [p.text for p in written.prompts] == ["a bear"]
    assert written.refused == {"duplicate": 2, "writer": 1 + 2 + 2}


def test_arrival_order_decides_nothing() -> None:
    requests = [(request("a", 1), None), (request("b", 1, "other"), None)]
    replies = {"a": WriteReply("a", ("a bear",)), "b": WriteReply("b", ("the bear",))}
    forwards = accept_texts(requests, replies, set(), set())
    backwards = accept_texts(requests, dict(reversed(replies.items())), set(), set())
    assert forwards.prompts == backwards.prompts
    assert forwards.prompts[0].skill == "tone"
