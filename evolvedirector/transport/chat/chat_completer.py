"""A language model behind an OpenAI-compatible chat endpoint that replies to instructions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from evolvedirector.records import digest
from evolvedirector.transport.chat.answer_ladder import ChatReply
from evolvedirector.transport.chat.served_models import check_served_model
from evolvedirector.transport.client import Client
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.response import read_error
from evolvedirector.transport.run_concurrently import run_concurrently

_DROPPABLE = ("temperature", "seed", "top_p")
"""Without these a reply differs a little; without any other field it would be another question."""


class ChatFields:
    """Fit chat requests to one server: newer models want another name for the length, or no temperature, or no seed.

    Used from several tasks at once: what is learned is only ever added.
    """

    def __init__(self) -> None:
        self._unknown: set[str] = set()

    def fit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request as this server takes it.

        Args:
            body: The request with every wish.
        """
        fitted = {name: value for name, value in body.items() if name not in self._unknown}
        if "max_tokens" in self._unknown and "max_tokens" in body:
            fitted["max_completion_tokens"] = body["max_tokens"]
        return fitted

    def learn(self, complaint: str, sent: Mapping[str, Any]) -> bool:
        """Take a field out that a server complains about.

        Args:
            complaint: Code and words of its error.
            sent: The request as it was sent.

        Returns:
            Whether the same wish is now sent differently, so that asking again makes sense.
        """
        if "max_tokens" in sent and "max_completion_tokens" in complaint:
            self._unknown.add("max_tokens")
            return True
        named = {name for name in _DROPPABLE if name in sent and name in complaint}
        self._unknown |= named
        return bool(named)

    def drop(self, name: str, sent: Mapping[str, Any]) -> bool:
        """Leave a field out from now on.

        Args:
            name: Of the field.
            sent: The request as it was sent.

        Returns:
            Whether it had been sent.
        """
        self._unknown.add(name)
        return name in sent


MAX_REPLY_BYTES = 2**20


class ChatCompleter:
    """Let a chat model reply, at temperature 0: what `ModelQuestions` asks for the questions about a prompt.

    An outage, a refusal and a reply that was cut off are all an empty reply.

    Args:
        endpoint: Address, name of the variable with the key, and limits.
        model: Name of the model as the server knows it.
        max_output_tokens: Longest reply, in tokens.
        cost_usd_per_reply: Price of a reply in USD, for planning; None where it is not known.

    Raises:
        ValueError: No name, a length below 1 or a negative price.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        max_output_tokens: int = 1024,
        cost_usd_per_reply: float | None = None,
    ) -> None:
        if not model.strip():
            raise ValueError("model is empty. Allowed: a name that the server knows. Write `model: gpt-4o-mini`, say.")
        if max_output_tokens < 1:
            raise ValueError(f"max_output_tokens is {max_output_tokens}. Allowed: 1 or more. Write 1024, say.")
        if cost_usd_per_reply is not None and not cost_usd_per_reply >= 0.0:
            raise ValueError(f"cost_usd_per_reply is {cost_usd_per_reply}. Allowed: 0 or more, or null. Write 0.")
        self.endpoint = endpoint
        self.model = model
        self.max_output_tokens = max_output_tokens
        self.cost_usd_per_reply = cost_usd_per_reply
        self._fields = ChatFields()

    @property
    def fingerprint(self) -> str:
        """Name the model and the length; not the address, which a server may change."""
        return f"chat-completer-1/{digest(self.model, self.max_output_tokens)}"

    def complete(self, instructions: Sequence[str]) -> Iterator[str]:
        """Yield one reply per instruction, in order; an empty one where there is none.

        Args:
            instructions: What to reply to.
        """
        in_flight = min(self.endpoint.max_in_flight, len(instructions) or 1)
        replies = dict(run_concurrently(list(enumerate(instructions)), self._reply, self._client, in_flight))
        yield from (replies.get(place, "") for place in range(len(instructions)))

    @property
    def requests_in_flight(self) -> int:
        """Return how many instructions should be handed over at once, so that all slots stay busy."""
        return self.endpoint.requests_in_flight

    def price_usd(self) -> float | None:
        """Return the price of a reply; None where it is not known."""
        return self.cost_usd_per_reply

    def verify(self) -> None:
        """Check address, key and name of the model without a paid request.

        Raises:
            ValueError: With what is wrong.
        """
        check_served_model(self.endpoint, self.model)

    def close(self) -> None:
        """Do nothing: connections live no longer than the instructions of one call."""

    def _client(self) -> Client:
        return Client(self.endpoint, max_response_bytes=MAX_REPLY_BYTES)

    async def _reply(self, client: Client, asked: tuple[int, str]) -> tuple[int, str]:
        place, instruction = asked
        wanted: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": instruction}],
            "temperature": 0.0,
            "max_tokens": self.max_output_tokens,
        }
        end = client.give_up_at()
        while True:
            body = self._fields.fit(wanted)
            try:
                return place, _text_of(await client.request_json("POST", "chat/completions", body, give_up_at=end))
            except TransportFault as fault:
                complaint = " ".join(read_error(fault.body)) if fault.kind == "rejected" else ""
                if not complaint or not self._fields.learn(complaint, body):
                    return place, ""
            except Exception:  # one that escapes ends the work of all other instructions
                return place, ""


def _text_of(answer: object) -> str:
    try:
        choice = ChatReply.model_validate(answer).choices[0]
    except (ValidationError, RecursionError):
        return ""
    whole = not choice.message.refusal and choice.finish_reason not in ("length", "content_filter")
    return choice.message.text if whole else ""
