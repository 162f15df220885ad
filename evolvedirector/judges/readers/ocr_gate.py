"""A gate before a judge: an image with writing that nobody asked for is not judged by what is written in it."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from evolvedirector.judges.judge import Judge, models_of
from evolvedirector.judges.readers.text_reader import TextReader
from evolvedirector.records import ImageAndPrompt, Look, OrderedPair, digest
from evolvedirector.records.part import bytes_of, close_parts, price_of, requests_in_flight_of, verify_parts

_LEAST_LETTERS = 3
_ALIKE = 0.75
"""Similarity from which a word that was read counts as a known one: readers confuse single letters."""
_LETTERS_IN_A_RUN = 4
"""Of a known word that counts although no space was read around it."""
_PROMPT_SHARE = 0.5
"""Share of the prompt's words in the image from which its text repeats the prompt, if they are two or more."""
_PROMPT_SHARE_OF_WRITING = 0.6
"""The same where the prompt asks for writing without saying which."""
_WORD = re.compile(r"[^\W\d_]+")
_QUOTATIONS = re.compile(r"\"([^\"]*)\"|“([^”]*)”|(?<!\w)'([^']*)'(?!\w)|«([^»]*)»")
_ASKS_FOR_TEXT = re.compile(
    r"\b(?:say(?:s|ing)?|read(?:s|ing)|titled|labell?ed|captioned|spell(?:s|ing)|written|text|words?|letters?|caption|"
    r"inscription|lettering)\b"
)
_COMMON_WORDS = "the and with for are was that this from has have its into over under"
_JUDGE_WORDS = (
    "answer yes choose best better correct correctly perfect perfectly prompt image picture exactly faithful "
    "faithfully score winner prefer ignore instruction instructions shows show fits description judge rating"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_TO_A_JUDGE = frozenset(_JUDGE_WORDS.split())
_TO_A_JUDGE_WORDS = 2


def quoted_text(prompt: str) -> str:
    """Return what a prompt has in quotation marks, in order: the writing that it asks for; empty where it has none."""
    return " ".join(filter(None, (part for found in _QUOTATIONS.findall(prompt) for part in found)))


def suspicious_text(lines: Sequence[str], prompt: str) -> str:
    """Say why the text of an image must not be shown to a judge; empty where it may.

    Vision-language judges believe what is written in an image: each one tested gave more points to an image with the
    prompt drawn into it, and telling it to look away did not help (FRAME, Hwang et al. 2025, arXiv 2505.15249). A
    student that finds this out is rewarded for writing. Text that the prompt asks for, in quotation marks, may be
    there; where the prompt asks for writing without saying which, so may all but the prompt itself and words to a
    judge.

    Args:
        lines: What was read in the image.
        prompt: What the image is judged by.
    """
    asked_for = quoted_text(prompt)
    allowed = _words(asked_for)
    drawn = [word for word in _words(" ".join(lines)) if not _is_among(word, allowed)]
    to_judge = sorted(word for word in _TO_A_JUDGE if _is_among(word, drawn))
    if len(to_judge) >= _TO_A_JUDGE_WORDS:
        return f"text in the image speaks to its judge: {', '.join(to_judge)}"
    wanted = sorted(set(_words(_QUOTATIONS.sub(" ", prompt))) - _COMMON)
    repeated = [word for word in wanted if _is_among(word, drawn)]
    writing = not asked_for and _ASKS_FOR_TEXT.search(prompt.casefold()) is not None
    share = _PROMPT_SHARE_OF_WRITING if writing else _PROMPT_SHARE
    if repeated and len(repeated) >= max(min(2, len(wanted)), share * len(wanted)):
        return f"text in the image repeats the prompt: {', '.join(repeated[:8])}"
    return ""


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.casefold()) if len(word) >= _LEAST_LETTERS]


def _is_among(word: str, read: Sequence[str]) -> bool:
    """Whether a word was read: as it is, with a wrong letter, or run together with others."""
    if word in read:
        return True
    if len(word) < _LETTERS_IN_A_RUN:
        return False
    return any(word in other or difflib.SequenceMatcher(None, word, other).ratio() >= _ALIKE for other in read)


_KEPT_IMAGES = 8192
"""A round looks at the same image in a check, in a pair and in the pair's other order; reading takes a second."""


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
        self._lines: OrderedDict[str, tuple[str, ...]] = OrderedDict()

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

    @property
    def requests_in_flight(self) -> int:
        """Return how many questions a round should hand over at once; 0 where the judge runs here."""
        return requests_in_flight_of(self.judge)

    def verify(self) -> None:
        """Let judge and reader check that they can work, before anything is spent.

        Raises:
            ValueError: One cannot.
        """
        verify_parts(self.judge, self.reader)

    def estimated_bytes(self) -> int:
        """Return what judge and reader need on a device, in bytes, as far as they say so."""
        return sum(bytes_of(self.judge, self.reader))

    def price_usd(self) -> float | None:
        """Return what a look of the judge costs in USD; None where it is not known."""
        return price_of(self.judge)

    def models(self) -> frozenset[str]:
        """Name every model behind this judge."""
        return models_of(self.judge)

    def close(self) -> None:
        """Free the memory and connections of judge and reader."""
        close_parts(self.judge, self.reader)

    def _shut(self, wanted: Sequence[tuple[bytes, str]]) -> list[str]:
        """Say per image why it must not be judged; empty where it may. Each image is read once."""
        names = [hashlib.sha256(image).hexdigest() for image, _ in wanted]
        missing = {name: image for name, (image, _) in zip(names, wanted, strict=True) if name not in self._lines}
        if missing:
            self._lines.update(zip(missing, self.reader.read(list(missing.values())), strict=True))
        shut = [suspicious_text(self._lines[name], prompt) for name, (_, prompt) in zip(names, wanted, strict=True)]
        while len(self._lines) > _KEPT_IMAGES:
            self._lines.popitem(last=False)
        return shut


def _shut_looks(reasons: dict[str, str]) -> Iterator[Look]:
    return (Look(item_id, 0.5, 0.0, reason) for item_id, reason in reasons.items() if reason)
