"""A gate before a judge: an image with writing that nobody asked for is not judged by what is written in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evolvedirector.judges.drawn_text import suspicious_text
from evolvedirector.judges.judge import Judge
from evolvedirector.judges.parts import close_parts, price_of, verify_parts
from evolvedirector.judges.text_reader import TextReader
from evolvedirector.records import ImageAndPrompt, Look, OrderedPair, digest


class OCRGate:
    """Read the text in every image first; where it repeats the prompt or speaks to a judge, the look cannot be read.

    Such an image is neither a success nor a failure of the student: covered mass 0, with the reason. The judge is not
    asked about it. `JudgeHealth(overlay_canaries=True)` checks in every round that the gate holds. What counts is told
    in `suspicious_text`.

    Example:
        ```yaml
        judge:
          class_path: evolvedirector.judges.OCRGate
          init_args:
            judge: {class_path: evolvedirector.judges.TransformersJudge, init_args: {model: ...}}
            reader: {class_path: evolvedirector.judges.RapidOCRReader}
        ```

    Args:
        judge: Asked about the other images.
        reader: Reads the text; `RapidOCRReader` needs `pip install 'evolvedirector[ocr]'`.
    """

    def __init__(self, judge: Judge, reader: TextReader) -> None:
        self.judge = judge
        self.reader = reader

    @property
    def fingerprint(self) -> str:
        """Name the judge and the reader."""
        return f"ocr-gate-1/{digest(self.judge.fingerprint, self.reader.fingerprint)}"

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield, per pair in its one order, the judge's look; unreadable where either image has suspicious text.

        Args:
            pairs: Encoded images.
        """
        shut = self._shut([(image, pair.prompt) for pair in pairs for image in (pair.first, pair.second)])
        reasons = {pair.item_id: one or other for pair, one, other in zip(pairs, shut[::2], shut[1::2], strict=True)}
        yield from _shut_looks(reasons)
        if passed := [pair for pair in pairs if not reasons[pair.item_id]]:
            yield from self.judge.look(passed)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield, per item, the judge's look; unreadable where the image has suspicious text.

        Args:
            items: Encoded images with their prompts.
        """
        shut = self._shut([(item.image, item.prompt) for item in items])
        reasons = {item.item_id: reason for item, reason in zip(items, shut, strict=True)}
        yield from _shut_looks(reasons)
        if passed := [item for item in items if not reasons[item.item_id]]:
            yield from self.judge.check(passed)

    def verify(self) -> None:
        """Let judge and reader check that they can work, before anything is spent.

        Raises:
            ValueError: One cannot.
        """
        verify_parts(self.judge, self.reader)

    def price_usd(self) -> float | None:
        """Return what a look of the judge costs in USD; None where it is not known."""
        return price_of(self.judge)

    def close(self) -> None:
        """Free the memory and connections of judge and reader."""
        close_parts(self.judge, self.reader)

    def _shut(self, wanted: Sequence[tuple[bytes, str]]) -> list[str]:
        """Say per image why it must not be judged; empty where it may. Each image is read once."""
        images = list(dict.fromkeys(image for image, _ in wanted))
        lines = dict(zip(images, self.reader.read(images), strict=True)) if images else {}
        return [suspicious_text(lines[image], prompt) for image, prompt in wanted]


def _shut_looks(reasons: dict[str, str]) -> Iterator[Look]:
    return (Look(item_id, 0.5, 0.0, reason) for item_id, reason in reasons.items() if reason)
