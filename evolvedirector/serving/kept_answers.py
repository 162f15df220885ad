"""Answers by idempotency key: a call that is repeated after a cut connection is not drawn twice."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from evolvedirector.records import digest
from evolvedirector.serving.images_protocol import Answer, CallRefused

MAX_KEY_CHARACTERS = 255


@dataclass
class _Kept:
    body: str
    answer: Future[Answer]


class KeptAnswers:
    """Keep the newest answers, drawn or still being drawn, within a bound of memory.

    Args:
        max_answers: Answers that are kept at most.
        max_bytes: Bytes that they take together at most.
    """

    def __init__(self, max_answers: int = 1024, max_bytes: int = 256 * 2**20) -> None:
        self._max_answers, self._max_bytes = max_answers, max_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()
        self.replayed = 0
        """Calls that were answered without drawing."""

    def get(self, key: str, body: bytes, draw: Callable[[], Future[Answer]]) -> Future[Answer]:
        """Return the answer of an earlier call with this key, or draw and keep it; failures are not kept.

        Args:
            key: What the client calls its call.
            body: The call as it was sent.
            draw: Begins to draw.

        Raises:
            CallRefused: The key is unusable or belongs to another call, or `draw` turned the call away.
        """
        if not 0 < len(key) <= MAX_KEY_CHARACTERS:
            message = f"The Idempotency-Key has 1 to {MAX_KEY_CHARACTERS} characters."
            raise CallRefused(400, "invalid_idempotency_key", message)
        told = digest(body, length=32)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                if kept.body != told:
                    message = "The Idempotency-Key belongs to a call with another body. Send a new key."
                    raise CallRefused(422, "idempotency_key_reused", message)
                self.replayed += 1
                return kept.answer
            answer = draw()
            self._kept[key] = _Kept(told, answer)
        answer.add_done_callback(lambda finished: self._finished(key, finished))
        return answer

    def _finished(self, key: str, finished: Future[Answer]) -> None:
        with self._lock:
            if finished.result().status >= 500:
                self._kept.pop(key, None)
            sizes = {k: len(kept.answer.result().body) for k, kept in self._kept.items() if kept.answer.done()}
            count, total = len(sizes), sum(sizes.values())
            for oldest, size in sizes.items():
                if count <= self._max_answers and total <= self._max_bytes:
                    break
                del self._kept[oldest]
                count, total = count - 1, total - size
