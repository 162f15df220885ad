"""A question about images as chat messages."""

from __future__ import annotations

import base64
from typing import Any, Literal

from evolvedirector.judges.judge_images import judge_png, side_by_side
from evolvedirector.records.questions import LETTERS, Question

ImageLayout = Literal["two_images", "side_by_side"]


def question_messages(question: Question, image_size_px: int, layout: ImageLayout) -> list[dict[str, Any]]:
    """Put a question into one user message; images travel inside it as data, never as addresses.

    Every image is brought to one size and codec first, so that its format cannot give its maker away.

    Args:
        question: Text and images.
        image_size_px: Side of each image as the model sees it.
        layout: How two images are shown: each for itself with its letter before it, or as one picture.

    Raises:
        StoreError: An image is refused or cannot be decoded.
    """
    parts: list[dict[str, Any]] = []
    if len(question.images) == 2 and layout == "side_by_side":
        parts.append(_image_part(side_by_side(*question.images, image_size_px)))
    else:
        for position, image in enumerate(question.images):
            if len(question.images) > 1 and question.answers == LETTERS:
                parts.append({"type": "text", "text": f"{LETTERS[position]}:"})
            parts.append(_image_part(judge_png(image, image_size_px)))
    parts.append({"type": "text", "text": question.text})
    return [{"role": "user", "content": parts}]


def _image_part(png: bytes) -> dict[str, Any]:
    data = base64.b64encode(png).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
