"""A vision-language model behind an OpenAI-compatible chat endpoint as judge: vLLM, SGLang, a gateway, a hosted one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.judges.chat_messages import ImageLayout, question_messages
from evolvedirector.judges.judge_images import check_size
from evolvedirector.judges.questions.judge_questions import (
    PAIR_QUESTION,
    SIDE_BY_SIDE_QUESTION,
    look_of_answer,
    pair_question,
)
from evolvedirector.records import ImageAndPrompt, Look, OrderedPair, digest
from evolvedirector.records.questions import CHECK_QUESTION, Answer, Question, check_question
from evolvedirector.store.errors import StoreError
from evolvedirector.transport.api_key import read_key
from evolvedirector.transport.chat.answer_ladder import (
    MAX_CHAT_BYTES,
    RUNGS,
    LadderMemory,
    ReplyRead,
    Rung,
    read_reply,
    rung_fields,
    unreadable,
)
from evolvedirector.transport.chat.chat_completer import ChatFields
from evolvedirector.transport.chat.errors import error_kind
from evolvedirector.transport.chat.served_models import check_served_model
from evolvedirector.transport.client import Client
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault, without_secrets
from evolvedirector.transport.response import Response, read_error
from evolvedirector.transport.run_concurrently import run_concurrently

_ABOUT_THE_REQUEST = (400, 422)
"""Another form of the same question may be taken; a 404, say, is about the address or the model."""


class OpenAIVisionJudge:
    """Judge images by a model behind an OpenAI-compatible chat endpoint.

    Each question has a closed set of answers, and its answer is read by the best means the server has: token
    probabilities, else a choice it is held to, else JSON, else plain text (`answer_ladder`). Each look carries the one
    that was used. What the server cannot do is learned once per process. Every failure is an unreadable look with its
    reason; answers are kept by the ledger under the content of the question, so a resumed run asks nothing twice.

    Whether a model takes images cannot always be known before the first look, and no paid request is made to find
    out: `verify` reads the list of models only. A model that refuses images refuses the first look, without charge,
    and every later one fails at once with that reason.

    Example:
        ```yaml
        judge:
          class_path: evolvedirector.judges.OpenAIVisionJudge
          init_args:
            endpoint: {base_url: "http://localhost:8000/v1"}
            model: Qwen/Qwen3-VL-8B-Instruct
        ```

    Args:
        endpoint: Address, name of the variable with the key, and limits.
        model: Name of the model as the server knows it.
        image_size_px: Side of the square that each image is fitted into before it is sent.
        image_layout: How the two images of a pair are shown: as two images, or as one picture side by side for models
            that take one only.
        check_template: Question about one image with `{prompt}`, answered by yes or no.
        pair_template: Question about two images with `{prompt}`, answered by A or B. None: one that fits the layout.
        first_rung: Best way of reading to try. `choice` or lower suits models that think before they answer.
        max_answer_tokens: Longest reply where no token probabilities are read; a reply that is cut off is unreadable.
        cost_usd_per_look: Price of a look in USD, booked unless the budget names another (`price_per_look_usd`); None
            where it is not known. A look is one request once the server is known, up to four before.

    Raises:
        ValueError: A setting out of its range, or a template without `{prompt}`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        image_size_px: int = 512,
        image_layout: ImageLayout = "two_images",
        check_template: str = CHECK_QUESTION,
        pair_template: str | None = None,
        first_rung: Rung = "logprobs",
        max_answer_tokens: int = 64,
        cost_usd_per_look: float | None = None,
    ) -> None:
        side_by_side = image_layout == "side_by_side"
        pair_template = pair_template or (SIDE_BY_SIDE_QUESTION if side_by_side else PAIR_QUESTION)
        _check_settings(model, first_rung, max_answer_tokens, cost_usd_per_look, (check_template, pair_template))
        check_size(image_size_px)
        self.endpoint = endpoint
        self.model = model
        self.image_size_px = image_size_px
        self.image_layout: ImageLayout = image_layout
        self.check_template = check_template
        self.pair_template = pair_template
        self.first_rung: Rung = first_rung
        self.max_answer_tokens = max_answer_tokens
        self.cost_usd_per_look = cost_usd_per_look
        self._memory = LadderMemory(first_rung)
        self._fields = ChatFields()

    @property
    def fingerprint(self) -> str:
        """Name the model and every setting that changes its answers; not the address, which a server may change.

        What was learned about the server is no part of it: which rung answered is kept with each look.
        """
        settings = (self.image_size_px, self.image_layout, self.first_rung, self.max_answer_tokens)
        return f"openai-vision-1/{self.model}/{digest(repr(settings), self.check_template, self.pair_template)}"

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield, per item, the probability that the image shows the prompt.

        Args:
            items: Encoded images with their prompts.
        """
        yield from map(look_of_answer, self.answer([check_question(item, self.check_template) for item in items]))

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield, per pair in its one order, the probability that the first image fits better.

        Args:
            pairs: Encoded images in the order in which they are shown.
        """
        yield from map(look_of_answer, self.answer([pair_question(pair, self.pair_template) for pair in pairs]))

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Yield one answer per question as each comes back.

        Args:
            questions: With a closed set of answers each.
        """
        in_flight = min(self.endpoint.max_in_flight, len(questions) or 1)
        # decoding, resizing and encoding a pair takes longer than many servers need to look at it
        with ThreadPoolExecutor(min(in_flight, os.cpu_count() or 1), "evolvedirector-images") as threads:
            ask = partial(self._ask, threads, asyncio.Lock())
            yield from run_concurrently(questions, ask, self._client, in_flight)

    @property
    def requests_in_flight(self) -> int:
        """Return how many questions a round should hand over at once, so that all slots stay busy."""
        return self.endpoint.requests_in_flight

    def price_usd(self) -> float | None:
        """Return the price of a look; None where it is not known."""
        return self.cost_usd_per_look

    def verify(self) -> None:
        """Check address, key and name of the model without a paid request.

        Raises:
            ValueError: With what is wrong.
        """
        check_served_model(self.endpoint, self.model, needs_images=True)

    def models(self) -> frozenset[str]:
        """Name the model, so that it is known again under other questions and settings."""
        return frozenset({self.fingerprint, f"model {self.model}"})

    def close(self) -> None:
        """Do nothing: connections live no longer than the questions of one call."""

    def _client(self) -> Client:
        return Client(self.endpoint, max_response_bytes=MAX_CHAT_BYTES)

    async def _ask(
        self, threads: ThreadPoolExecutor, first: asyncio.Lock, client: Client, question: Question
    ) -> Answer:
        """Climb, one question at a time until the server is known: only the first may take several requests."""
        try:
            if not self._memory.is_known():
                async with first:
                    if not self._memory.is_known():
                        return self._told(await self._climb(threads, client, question))
            return self._told(await self._climb(threads, client, question))
        except Exception as error:  # one that escapes ends the work of all other questions
            return unreadable(question, f"asking ended in an error ({type(error).__name__})")

    def _told(self, answer: Answer) -> Answer:
        return replace(answer, reason=self._clean(answer.reason)) if answer.reason else answer

    async def _climb(self, threads: ThreadPoolExecutor, client: Client, question: Question) -> Answer:
        """Go down the ladder until a reply can be read, within one deadline."""
        shown = 1 if self.image_layout == "side_by_side" else len(question.images)
        if reason := self._memory.closed(shown):
            return unreadable(question, reason)
        try:
            messages = await asyncio.get_running_loop().run_in_executor(
                threads, question_messages, question, self.image_size_px, self.image_layout
            )
        except StoreError as error:
            return unreadable(question, str(error))
        self._memory.note_attempt()
        end = client.give_up_at()
        refused: list[Rung] = []
        reading = ReplyRead(None)
        for rung in self._memory.rungs():
            try:
                reading = await self._reply(client, question, messages, rung, end)
            except TransportFault as fault:
                answered = reading.error is not None or reading.reason != ""  # an earlier rung was heard, and billed
                sent = answered or fault.maybe_paid or fault.kind not in _NOTHING_HEARD
                return replace(unreadable(question, fault.reason), sent=sent, cut_off=sent and fault.kind in _OUTAGES)
            if reading.answer is not None:
                self._memory.learn(rung, reading.obeyed, shown, refused)
                return reading.answer
            if reading.error == "image":
                self._memory.close(shown, _cannot_show(reading.reason, shown))
                return unreadable(question, self._memory.closed(shown) or reading.reason)
            if reading.error == "refusal" or (reading.error == "other" and self._memory.has_worked(rung)):
                break
            if reading.error is not None:
                refused.append(rung)
            elif not reading.obeyed:
                self._memory.note_ignored(rung)
        return unreadable(question, reading.reason)

    async def _reply(
        self, client: Client, question: Question, messages: list[dict[str, Any]], rung: Rung, end: float
    ) -> ReplyRead:
        """Ask in the form of one rung, again where the server only wants a field to be named differently."""
        wishes = rung_fields(rung, question.answers, self.max_answer_tokens)
        wanted = {"model": self.model, "messages": messages, "temperature": 0.0, **wishes}
        while True:
            body = self._fields.fit(wanted)
            try:
                response = await client.request(
                    "POST", "chat/completions", body, give_up_at=end, accept=_refuses_the_subject
                )
                return read_reply(response.json(), rung, question)
            except TransportFault as fault:
                complaint = " ".join(read_error(fault.body)).strip()
                kind = error_kind(complaint)
                if kind == "other" and fault.status not in _ABOUT_THE_REQUEST:
                    raise
                if fault.kind != "rejected" and kind != "image":
                    raise
                if not self._fields.learn(complaint, body):
                    return ReplyRead(None, fault.reason, False, kind)

    def _clean(self, reason: str) -> str:
        try:
            return without_secrets(reason, [read_key(self.endpoint)])
        except TransportFault:
            return without_secrets(reason)


_NOTHING_HEARD = ("denied", "unreachable", "busy")
"""Faults after which nothing was read or billed: the question may be asked again when the service is back."""
_OUTAGES = (*_NOTHING_HEARD, "ambiguous", "deadline")
"""Faults that say nothing of the question: one that was sent counts, and may be asked again."""


def _refuses_the_subject(response: Response) -> bool:
    """A gateway that moderates may say so with a 403, which is otherwise a key without permission."""
    return response.status == 403 and error_kind(" ".join(response.error()[:2])) == "refusal"


def _cannot_show(reason: str, images: int) -> str:
    advice = "Write `image_layout: side_by_side` if it takes one image only, else" if images > 1 else "Write"
    return f"the model cannot be shown images: {reason.rstrip('.')}. {advice} the name of a vision-language model"


def _check_settings(model: str, rung: str, tokens: int, cost_usd: float | None, templates: Sequence[str]) -> None:
    if not model.strip():
        raise UserError("model is empty. Allowed is a name that the server knows. Write `model: Qwen3-VL-8B-Instruct`.")
    if rung not in RUNGS:
        raise UserError(f"first_rung is {rung!r}. Allowed: {', '.join(RUNGS)}. Write `first_rung: logprobs`.")
    if tokens < 1:
        raise UserError(f"max_answer_tokens is {tokens}. Allowed is 1 or more. Write `max_answer_tokens: 64`.")
    if cost_usd is not None and not cost_usd >= 0.0:
        raise UserError(
            f"cost_usd_per_look is {cost_usd}. Allowed is 0 or more, or null. Write 0 for a server of yours."
        )
    for template in templates:
        if "{prompt}" not in template:
            raise UserError(
                f"The question {template[:60]!r} does not name the prompt. Allowed is a text with `{{prompt}}`, or "
                "every prompt is judged alike. Write `{prompt}` where it belongs."
            )
