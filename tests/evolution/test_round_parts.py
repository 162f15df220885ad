"""The size in which an image of a prompt is asked for."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from evolvedirector.evolution.round_parts import RoundParts
from evolvedirector.records import Prompt


def parts(**changes: Any) -> RoundParts:
    nobody: Any = SimpleNamespace(fingerprint="nobody")
    return RoundParts(nobody, nobody, nobody, {}, nobody, nobody, nobody, nobody, 512, **changes)


def test_a_prompt_is_drawn_in_its_own_size_else_in_its_bucket_else_as_a_square() -> None:
    prompts = [Prompt.create(f"thing {number}") for number in range(40)]
    assert {parts().size_of(prompt) for prompt in prompts} == {(512, 512)}
    sizes = ((704, 352), (512, 512), (352, 704))
    drawn = {prompt.id: parts(buckets=sizes).size_of(prompt) for prompt in prompts}
    assert set(drawn.values()) == set(sizes)
    again = parts(buckets=sizes)
    assert all(again.size_of(replace(prompt, skill="other")) == drawn[prompt.id] for prompt in prompts)
    own = replace(prompts[0], width_px=96, height_px=64)
    assert parts(buckets=sizes).size_of(own) == parts().size_of(own) == (96, 64)
