"""OpenAI chat completions: token probabilities, constrained choices, JSON by a schema, or none of these."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tests.chaos.exchange import Request, Response, as_json, error

if TYPE_CHECKING:
    from tests.chaos.arrival import Arrival
    from tests.chaos.server import ChaosServer

Support = Literal["yes", "no", "ignored"]
"""Whether a server does what a field asks, refuses the request for it (400), or answers as if it were not there."""


@dataclass(frozen=True)
class Answer:
    """What a model says, and what its server supports.

    Args:
        text: The whole reply where nothing constrains it.
        first_tokens: Probability of the first token, by token; empty: all on the text's first word.
        logprobs: Whether token probabilities come.
        choice: Whether `structured_outputs.choice` is known.
        schema: Whether `response_format: json_schema` is known.
        document: What a reply by a schema holds; None: {"answer": the choice}.
        refusal: What stands in the message's `refusal` field; empty: none.
        finish_reason: `stop`, `length` or `content_filter`.
    """

    text: str = "A"
    first_tokens: tuple[tuple[str, float], ...] = ()
    logprobs: Support = "yes"
    choice: Support = "yes"
    schema: Support = "yes"
    document: Any = None
    refusal: str = ""
    finish_reason: str = "stop"


def agree(body: dict[str, Any]) -> Answer:
    """Say the first of the choices, `A` where there are none."""
    choices = choices_of(body)
    word = choices[0] if choices else "A"
    return Answer(word, ((word, 0.9), ("B" if word == "A" else "no", 0.1)), document={"answer": word})


def choices_of(body: dict[str, Any]) -> list[str]:
    """Find what a reply is constrained to."""
    chosen = (body.get("structured_outputs") or {}).get("choice")
    return list(chosen or [])


def pictures_in(body: dict[str, Any]) -> list[str]:
    """List the image URLs of a chat request, in order."""
    parts = [
        part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]
    ]
    return [part["image_url"]["url"] for part in parts if part.get("type") == "image_url"]


def text_in(body: dict[str, Any]) -> str:
    """Join the words of a chat request."""
    found = []
    for message in body["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        found += [part["text"] for part in parts if part.get("type") == "text"]
    return "\n".join(found)


async def respond(server: ChaosServer, request: Request) -> Response:
    body = request.json()
    if body.get("model") not in (None, *server.models):
        return error(404, f"The model {body['model']!r} does not exist", "model_not_found")
    make: Callable[[Arrival], Response] = lambda arrival: completion(body, _said(server, body, arrival.fault))  # noqa: E731
    return await server.sell(request, text_in(body), int(body.get("seed") or 0), (1, 1), make)


def _said(server: ChaosServer, body: dict[str, Any], fault: str) -> Answer:
    if fault == "moderated":
        return Answer("", refusal="I cannot help with that.")
    return server.answer(body)


def completion(body: dict[str, Any], answer: Answer) -> Response:
    """Answer as a server that supports so much would."""
    asked = {
        "logprobs": bool(body.get("logprobs")),
        "choice": bool(choices_of(body)),
        "schema": (body.get("response_format") or {}).get("type") == "json_schema",
    }
    for name, wanted in asked.items():
        if wanted and getattr(answer, name) == "no":
            return error(400, f"{name} is not supported by this model", "unsupported_parameter")
    text = answer.text
    if asked["choice"] and answer.choice == "yes" and text not in choices_of(body):
        text = max(choices_of(body), key=lambda choice: dict(answer.first_tokens).get(choice, 0.0))
    if asked["schema"] and answer.schema == "yes":
        text = json.dumps(answer.document if answer.document is not None else {"answer": text})
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": answer.finish_reason,
        "message": {"role": "assistant", "content": text or None, "refusal": answer.refusal or None},
        "logprobs": None,
    }
    if asked["logprobs"] and answer.logprobs == "yes":
        tokens = answer.first_tokens or ((text.split()[0] if text.split() else "", 1.0),)
        top = [{"token": token, "logprob": math.log(max(p, 1e-9)), "bytes": None} for token, p in tokens]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top[: int(body.get("top_logprobs") or 0)]}]}
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
    return as_json(
        {"id": "c", "object": "chat.completion", "model": body.get("model"), "choices": [choice], "usage": usage}
    )
