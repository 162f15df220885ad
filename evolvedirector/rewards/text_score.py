"""How well the writing in an image is what its prompt asks for, as a reward."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from rapidfuzz.distance import Levenshtein

from evolvedirector.judges.readers.ocr_gate import quoted_text
from evolvedirector.judges.readers.text_reader import TextReader
from evolvedirector.records import ImageAndPrompt, Score, digest
from evolvedirector.records.part import bytes_of, close_parts, verify_parts
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import decode_image

_WORD = re.compile(r"\w+")


def text_likeness(wanted: str, lines: Sequence[str]) -> float:
    """Return 1 - d(wanted, read) / max(|wanted|, |read|) with d the edit distance (Levenshtein), 0 to 1.

    Case, punctuation and line breaks do not count; writing beyond what is wanted does.

    Args:
        wanted: What should be written.
        lines: What was read, in reading order.
    """
    texts = [" ".join(_WORD.findall(text.casefold())) for text in (wanted, " ".join(lines))]
    return Levenshtein.normalized_similarity(*texts)


class TextScore:
    """Score an image by how close what a reader reads in it is to the words that its prompt has in quotation marks.

    The measure is the normalised edit distance by which text rendering is scored (AnyText, Tuo et al. 2023, arXiv
    2311.03054, calls it NED), see `text_likeness`. A prompt that quotes nothing gets no score.

    Args:
        reader: Reads the text; `RapidOCRReader` needs `pip install 'evolvedirector[ocr]'`.
    """

    def __init__(self, reader: TextReader) -> None:
        self.reader = reader

    @property
    def fingerprint(self) -> str:
        """Name the reader."""
        return f"text-score-1/{digest(self.reader.fingerprint)}"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per item; nan for what is no image and where no writing is asked for.

        Args:
            items: Encoded images with their prompts.
        """
        readable = []
        for item in items:
            reason = _why_unread(item)
            if reason:
                yield Score(item.item_id, math.nan, reason)
            else:
                readable.append(item)
        for item, lines in zip(readable, self.reader.read([item.image for item in readable]), strict=True):
            yield Score(item.item_id, text_likeness(quoted_text(item.prompt), lines))

    def verify(self) -> None:
        """Let the reader check that it can work.

        Raises:
            UserError: It cannot.
        """
        verify_parts(self.reader)

    def estimated_bytes(self) -> int:
        """Return what the reader needs on a device, in bytes, as far as it says so."""
        return sum(bytes_of(self.reader))

    def close(self) -> None:
        """Free the reader's memory."""
        close_parts(self.reader)


def _why_unread(item: ImageAndPrompt) -> str:
    """Say why the text of an image is not read; empty where it is."""
    if not _WORD.search(quoted_text(item.prompt)):
        return "its prompt asks for no writing in quotation marks"
    try:
        decode_image(item.image)
    except StoreError as error:
        return f"it is no image that can be read: {error}"
    return ""
