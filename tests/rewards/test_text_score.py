"""Writing is scored by its edit distance to what the prompt has in quotation marks."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence

import pytest
from PIL import Image, ImageDraw, ImageFont

from evolvedirector.judges.readers.rapid_ocr_reader import RapidOCRReader
from evolvedirector.records import ImageAndPrompt
from evolvedirector.rewards import Reward, TextScore
from evolvedirector.rewards.text_score import text_likeness
from tests.toys import flat_png


class Reader:
    """Reads what it is told to; remembers how many images it was given."""

    fingerprint = "reader"
    closed = False

    def __init__(self, *lines: str) -> None:
        self.lines, self.asked = lines, 0

    def read(self, images: Sequence[bytes]) -> Iterator[tuple[str, ...]]:
        for _ in images:
            self.asked += 1
            yield self.lines

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("wanted", "lines", "value"),
    [
        ("OPEN", ["open"], 1.0),
        ("OPEN", [" Open! "], 1.0),
        ("stay calm", ["STAY", "CALM"], 1.0),
        ("stay calm", ["calm"], 1 - 5 / 9),
        ("open", ["opun"], 0.75),
        ("open", [], 0.0),
        ("open", ["open all night"], 1 - 10 / 14),
        ("ÖFFNET", ["öffnet"], 1.0),
    ],
)
def test_likeness_is_one_less_the_share_of_letters_to_change(wanted: str, lines: list[str], value: float) -> None:
    assert text_likeness(wanted, lines) == pytest.approx(value)


def test_every_kind_of_quotation_is_wanted_and_a_prompt_without_one_is_not_scored() -> None:
    reader = Reader("open", "late")
    reward = TextScore(reader)
    prompts = [
        'a sign that says "Open late"',
        "a shop “open” and ‘x’ with 'late'",
        "a sign",
        'a sign ""',
        "it's a dog's",
    ]
    items = [ImageAndPrompt(prompt, flat_png(0), prompt) for prompt in prompts]
    broken = ImageAndPrompt("broken", b"no image", 'a sign "open"')
    found = {score.item_id: score for score in reward.score([*items, broken])}
    assert [found[prompt].value for prompt in prompts[:2]] == [1.0, 1.0]
    for prompt in prompts[2:]:
        assert math.isnan(found[prompt].value) and "asks for no writing in quotation marks" in found[prompt].reason
    assert math.isnan(found["broken"].value) and "no image that can be read" in found["broken"].reason
    assert reader.asked == 2 and isinstance(reward, Reward) and list(reward.score([])) == []
    reward.close()
    assert reader.closed


def test_the_reader_is_part_of_the_name() -> None:
    assert TextScore(RapidOCRReader(0.4)).fingerprint != TextScore(RapidOCRReader(0.5)).fingerprint


def test_what_a_real_reader_reads_scores_higher_the_fewer_letters_are_wrong() -> None:
    pytest.importorskip("rapidocr_onnxruntime", exc_type=ImportError)

    def sign(text: str) -> bytes:
        picture = Image.new("RGB", (256, 96), "white")
        ImageDraw.Draw(picture).text((20, 20), text, "black", font=ImageFont.load_default(48))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue()

    items = [ImageAndPrompt(text, sign(text), 'a sign that says "BAKERY"') for text in ("BAKERY", "BAKRRY", "MOON")]
    right, nearly, wrong = (score.value for score in TextScore(RapidOCRReader()).score(items))
    assert right == 1.0 > nearly > wrong
