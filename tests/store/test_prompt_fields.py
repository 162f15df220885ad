"""Texts and skills of prompts as people write them."""

from evolvedirector.store.prompt_fields import checked_prompt, decoded_text


def test_a_prompt_keeps_its_signs_and_loses_only_white_space() -> None:
    family = "a family \U0001f468\u200d\U0001f469\u200d\U0001f467, [red] <b> $x"
    assert checked_prompt(f"\ufeff {family}\x85\n", " [red] \t skill ").text == family
    assert checked_prompt(family, " [red] \t skill ").skill == "[red] skill"
    assert decoded_text(b"\xef\xbb\xbfcaf\xc3\xa9") == "caf\xe9"
