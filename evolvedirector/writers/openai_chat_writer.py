"""A language model behind an OpenAI-compatible chat endpoint as writer of prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from evolvedirector.errors import UserError
from evolvedirector.records import WriteReply, WriteRequest, digest, seed_of
from evolvedirector.transport.api_key import read_key
from evolvedirector.transport.chat.answer_ladder import MAX_CHAT_BYTES, ChatReply
from evolvedirector.transport.chat.chat_completer import ChatFields
from evolvedirector.transport.chat.errors import error_kind
from evolvedirector.transport.chat.served_models import check_served_model
from evolvedirector.transport.client import Client
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault, without_secrets
from evolvedirector.transport.response import read_error
from evolvedirector.transport.run_concurrently import run_concurrently
from evolvedirector.writers.example_pool import ExamplePool, Words
from evolvedirector.writers.instructions import INSTRUCTIONS_VERSION, instruction_for
from evolvedirector.writers.replies import ROUGE_LIMIT, read_texts, refusal_of
from evolvedirector.writers.rouge import nearest_copy, words_of

_LIST_OF_TEXTS = {
    "type": "json_schema",
    "json_schema": {
        "name": "descriptions",
        "strict": True,
        "schema": {
            "type": "object",  # the portable form: hosted services allow no bare list
            "properties": {"descriptions": {"type": "array", "items": {"type": "string"}}},
            "required": ["descriptions"],
            "additionalProperties": False,
        },
    },
}
_ABOUT_THE_REQUEST = (400, 413, 422)
"""Answers that say something of this request, and would say it again; all other faults are outages, which end."""


@dataclass(slots=True)
class _Job:
    """One write request with the examples of each chat request it may take, drawn before anything is sent."""

    request: WriteRequest
    examples: list[tuple[str, ...]]
    known: list[Words]
    answered: bool = True
    """The model, or the server about this request, had the last word; False after an outage."""


class OpenAIChatWriter:
    """Write prompts with a model behind an OpenAI-compatible chat endpoint: vLLM, SGLang, a gateway, a hosted one.

    Expansion keeps the structure of its parent and changes what it speaks of; mutation writes something unrelated in
    one of four lengths. Texts without a parent are written from a few examples of their skill, drawn from a pool that
    grows with what was written (SELMA, section 3.1). What comes back is data: one list of texts, each checked, near
    copies refused, everything refused counted. The pool lives in this process; requests that were answered before a
    restart are answered by the ledger, so only later draws of examples may differ after one.

    Example:
        ```yaml
        writer:
          class_path: evolvedirector.writers.OpenAIChatWriter
          init_args:
            endpoint: {base_url: "https://api.openai.com/v1", api_key_env: OPENAI_API_KEY}
            model: gpt-4o-mini
        ```

    Args:
        endpoint: Address, name of the variable with the key, and limits.
        model: Name of the model as the server knows it.
        temperature: Of the sampling, 0 to 2.
        max_output_tokens: Longest reply; a list that is cut off is lost.
        texts_per_chat: Texts asked for in one chat request; a larger write request is cut into several.
        extra_chats: Further chat requests per write request where texts were refused or a reply was unreadable.
        examples: Texts by skill that the pool begins with. None: it begins empty.
        examples_per_request: Examples shown for a text without a parent whose request brings none; 0 shows none.
        rouge_limit: ROUGE-L over which a text is a near copy, 0 to 1; 1 refuses none for it.

    Raises:
        UserError: A setting out of its range.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        temperature: float = 1.0,
        max_output_tokens: int = 3072,
        texts_per_chat: int = 10,
        extra_chats: int = 1,
        examples: dict[str, list[str]] | None = None,
        examples_per_request: int = 3,
        rouge_limit: float = ROUGE_LIMIT,
    ) -> None:
        if not model.strip():
            raise UserError("model is empty. Allowed is a name that the server knows. Write `model: gpt-4o-mini`.")
        if not 0.0 <= temperature <= 2.0:
            raise UserError(f"temperature is {temperature}. Allowed is 0 to 2. Write `temperature: 1.0`.")
        if not 0.0 <= rouge_limit <= 1.0:
            raise UserError(f"rouge_limit is {rouge_limit}. Allowed is 0 to 1. Write `rouge_limit: {ROUGE_LIMIT}`.")
        counts = {"max_output_tokens": (max_output_tokens, 1), "texts_per_chat": (texts_per_chat, 1)}
        counts |= {"extra_chats": (extra_chats, 0), "examples_per_request": (examples_per_request, 0)}
        for name, (value, least) in counts.items():
            if value < least:
                raise UserError(f"{name} is {value}. Allowed is {least} or more. Write `{name}: {max(least, 1)}`.")
        self.endpoint = endpoint
        self.model = model
        self.temperature = temperature
        self.max_output_tokens = max_output_tokens
        self.texts_per_chat = texts_per_chat
        self.extra_chats = extra_chats
        self.examples = examples
        self.examples_per_request = examples_per_request
        self.rouge_limit = rouge_limit
        self._pool = ExamplePool(examples)
        self._fields = ChatFields()
        self._has_written = False

    @property
    def fingerprint(self) -> str:
        """Name the model, the instructions and every setting that changes its texts; not the address: it may move."""
        sampling = (self.temperature, self.max_output_tokens, self.texts_per_chat, self.extra_chats)
        shown = (sorted((self.examples or {}).items()), self.examples_per_request, self.rouge_limit)
        return f"openai-chat-writer-{INSTRUCTIONS_VERSION}/{self.model}/{digest(repr((*sampling, *shown)))}"

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        """Yield one reply per request as each finishes; fewer texts than asked where some were refused.

        Args:
            requests: What to write. An expansion without a parent is refused.
        """
        jobs = [self._job(request) for request in requests]
        in_flight = min(self.endpoint.max_in_flight, len(jobs) or 1)
        new: dict[str | None, list[Words]] = {}
        for job, texts, refused in run_concurrently(jobs, self._write, self._client, in_flight):
            request = job.request
            if request.parent is None:
                texts = self._take_in(request.skill, texts, refused, new.setdefault(request.skill, []))
            said = refusal_of(refused, len(texts), request.count)
            yield WriteReply(request.request_id, tuple(texts), refusal=said, answered=job.answered or bool(texts))

    def verify(self) -> None:
        """Check address, key and name of the model without a paid request.

        Raises:
            ValueError: With what is wrong.
        """
        check_served_model(self.endpoint, self.model)

    def _client(self) -> Client:
        return Client(self.endpoint, max_response_bytes=MAX_CHAT_BYTES)

    def _job(self, request: WriteRequest) -> _Job:
        chats = -(-request.count // self.texts_per_chat) + self.extra_chats
        if request.parent is not None:
            return _Job(request, [()] * chats, [])
        seeds = [seed_of("examples", request.seed, number) for number in range(chats)]
        drawn = [self._pool.draw(request.skill, self.examples_per_request, seed) for seed in seeds]
        examples = [request.examples] * chats if request.examples else drawn
        return _Job(request, examples, self._pool.words(request.skill))

    def _take_in(self, skill: str | None, texts: list[str], refused: Counter[str], others: list[Words]) -> list[str]:
        """Refuse copies of what other requests of the same call wrote meanwhile; the rest may serve as examples."""
        taken = []
        for text in texts:
            if nearest_copy(text, others, self.rouge_limit):
                refused["near copy"] += 1
            else:
                taken.append(text)
        others.extend(map(words_of, taken))
        self._pool.add(skill, taken)
        return taken

    async def _write(self, client: Client, job: _Job) -> tuple[_Job, list[str], Counter[str]]:
        """Ask until there are as many texts as wanted, or the chat requests of this job are used up."""
        request, texts = job.request, list[str]()
        refused: Counter[str] = Counter()
        if request.operation == "expansion" and request.parent is None:
            refused["expansion without a parent"] += 1
            return job, texts, refused
        end = client.give_up_at()
        for number, examples in enumerate(job.examples):
            missing = request.count - len(texts)
            if missing <= 0:
                break
            seed = seed_of("chat", request.seed, number)
            part = replace(request, count=min(missing, self.texts_per_chat), seed=seed)
            try:
                reply, cause, job.answered = await self._chat(client, instruction_for(part, examples), seed, end)
                if cause:
                    refused[self._clean(cause)] += 1
                    continue
                known = [*job.known, *map(words_of, texts)]
                accepted, causes = read_texts(reply, part, known, self.rouge_limit)
            except TransportFault as fault:
                refused[fault.reason] += 1
                job.answered = fault.kind == "too_large" or (
                    fault.kind == "rejected" and fault.status in _ABOUT_THE_REQUEST
                )
                break
            except Exception as error:  # one that escapes ends the work of all other requests
                refused[f"writing ended in an error ({type(error).__name__})"] += 1
                break
            texts += accepted
            refused += causes
        return job, texts, refused

    async def _chat(self, client: Client, instruction: str, seed: int, end: float) -> tuple[str, str, bool]:
        """Send one chat request; returns what the model wrote, or why that is nothing to read, and whether it spoke."""
        wanted: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": instruction}],
            "temperature": self.temperature,
            "seed": seed % 2**31,
            "max_tokens": self.max_output_tokens,
            "response_format": _LIST_OF_TEXTS,
        }
        while True:
            body = self._fields.fit(wanted)
            try:
                answer = await client.request_json("POST", "chat/completions", body, give_up_at=end)
                break
            except TransportFault as fault:
                about_a_field = fault.kind == "rejected" and fault.status in (400, 422)
                if not about_a_field or not self._learn(" ".join(read_error(fault.body)), body):
                    raise
        return self._read(answer)

    def _learn(self, complaint: str, sent: dict[str, Any]) -> bool:
        """Send less where the server knows less; the form of the reply is asked for in words as well."""
        if self._fields.learn(complaint, sent):
            return True
        if error_kind(complaint) == "refusal" or ("response_format" not in complaint and self._has_written):
            return False
        return self._fields.drop("response_format", sent)

    def _read(self, answer: object) -> tuple[str, str, bool]:
        try:
            choice = ChatReply.model_validate(answer).choices[0]
        except (ValidationError, RecursionError):
            return "", " ".join(read_error(answer)).strip() or "no chat completion", False
        self._has_written = True
        text = choice.message.text
        if choice.message.refusal or choice.finish_reason == "content_filter":
            return "", f"refused by the model: {choice.message.refusal or 'content filter'}", True
        if choice.finish_reason == "length":
            return "", "cut off; raise max_output_tokens", True
        if self._clean(text, shorten=False) != text:
            return "", "a reply that repeats the key", True
        return text, "", True

    def _clean(self, text: str, shorten: bool = True) -> str:
        """Take the key out of a text of others."""
        try:
            key = read_key(self.endpoint)
        except TransportFault:
            key = ""
        if not shorten:
            return text.replace(key, "") if key else text
        return without_secrets(text, [key])
