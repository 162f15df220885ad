"""A prompt cannot end the quotation it stands in."""

import pytest

from evolvedirector.records.questions import quoted


@pytest.mark.parametrize("sign", ['"', "\u201c", "\u201d"])
def test_no_sign_that_ends_a_quotation_stays(sign: str) -> None:
    assert quoted(f"a {sign}red{sign} circle") == "a 'red' circle"


def test_a_prompt_is_one_line() -> None:
    assert quoted("a red\ncircle\x00\tand\u2028more ") == "a red circle and more"
