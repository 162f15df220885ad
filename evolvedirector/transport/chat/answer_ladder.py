"""Reading one answer out of a chat reply: token probabilities where the server gives them, else what it wrote.

Rungs, best first: `logprobs` (the probability of each answer as first token), `choice` (the server may only write one
of the answers), `schema` (JSON with one of them), `text` (free text that is one of them). Probabilities say how sure
the model is; the other rungs say only what it chose (arXiv 2503.03064: the mean of a judge's token distribution agrees
better with people than its text). Everything here is pure.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError

from evolvedirector.records.looks import MIN_COVERED_MASS
from evolvedirector.records.questions import Answer, Question
from evolvedirector.transport.chat.errors import ErrorKind, error_kind
from evolvedirector.transport.response import read_error

_MOST_FIRST_QUESTIONS = 3


class LadderMemory:
    """Remember which rungs an endpoint ignores or refuses.

    Used from several tasks at once: sets only grow. A rung that worked once is never given up for a single bad reply.

    Args:
        first: The best rung to try.
    """

    def __init__(self, first: Rung) -> None:
        self._all = RUNGS[RUNGS.index(first) :]
        self._worked: set[Rung] = set()
        self._given_up: set[Rung] = set()
        self._shown: set[int] = set()
        self._closed: dict[int, str] = {}
        self._tried = 0

    def rungs(self) -> tuple[Rung, ...]:
        """List the rungs worth a request, best first; plain text always is."""
        return tuple(rung for rung in self._all if rung not in self._given_up or rung == RUNGS[-1])

    def note_attempt(self) -> None:
        """Note that a question is about to be asked."""
        self._tried += 1

    def is_known(self) -> bool:
        """Say whether another question is likely to take one request: a form worked, or none but plain text is left.

        After three questions that taught nothing (an outage, say) the others need not wait for a fourth.
        """
        return bool(self._worked) or len(self.rungs()) == 1 or self._tried >= _MOST_FIRST_QUESTIONS

    def has_worked(self, rung: Rung) -> bool:
        """Say whether the endpoint ever answered in the form of this rung.

        Args:
            rung: The form.
        """
        return rung in self._worked

    def learn(self, rung: Rung, obeyed: bool, images: int, refused: Iterable[Rung] = ()) -> None:
        """Note that a question was answered, in the form asked for or not, after better forms were refused.

        Args:
            rung: The form that was asked for.
            obeyed: Whether the reply had it.
            images: How many the question showed.
            refused: Rungs at which the server would not take the same question.
        """
        self._shown.add(images)
        if obeyed:
            self._worked.add(rung)
        self._given_up |= {other for other in refused if other not in self._worked}
        if not obeyed:
            self.note_ignored(rung)

    def note_ignored(self, rung: Rung) -> None:
        """Note that the endpoint replied as if it had not been asked for this form.

        Args:
            rung: The form.
        """
        if rung not in self._worked:
            self._given_up.add(rung)

    def close(self, images: int, reason: str) -> None:
        """Note that the model cannot be shown so many images, unless it was before.

        Args:
            images: How many.
            reason: What the server said.
        """
        if images not in self._shown:
            self._closed.setdefault(images, reason)

    def closed(self, images: int) -> str:
        """Say why asking is useless; empty where it is not.

        Args:
            images: How many a question shows.
        """
        return self._closed.get(images, "")


Rung = Literal["logprobs", "choice", "schema", "text"]
RUNGS: tuple[Rung, ...] = get_args(Rung)
TOP_LOGPROBS = 20
"""The most that any of the usual servers gives."""
MAX_CHAT_BYTES = 4 * 2**20
"""Of one reply; longer ones are cut off and refused."""

_DECORATION = " \t\r\n\"'`*_()[]<>.,:;!?“”‘’▁Ġ"


@dataclass(frozen=True, slots=True)
class ReplyRead:
    """What one reply says."""

    answer: Answer | None
    """None: nothing readable; a lower rung may help."""
    reason: str = ""
    """Why there is no answer."""
    obeyed: bool = True
    """Whether the reply has the form that its rung asked for; a server that drops the wish has not."""
    error: ErrorKind | None = None
    """Set where the reply is an error in place of an answer."""


class _Token(BaseModel):
    token: str
    logprob: Annotated[float, Field(allow_inf_nan=False)]


class _FirstToken(_Token):
    top_logprobs: list[_Token] = []


class _Logprobs(BaseModel):
    content: Annotated[list[_FirstToken], Field(min_length=1)]


class _Part(BaseModel):
    text: str = ""


class _Message(BaseModel):
    content: str | list[_Part] | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        """The words of the message, whichever way they are wrapped."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: Any = None


class ChatReply(BaseModel):
    """The part of a chat completion that is read; everything else is ignored."""

    choices: Annotated[list[_Choice], Field(min_length=1)]


def rung_fields(rung: Rung, answers: Sequence[str], max_answer_tokens: int) -> dict[str, Any]:
    """Return what is added to a chat request to get an answer in the form of a rung.

    Args:
        rung: See the module.
        answers: All answers that count.
        max_answer_tokens: Longest reply of all rungs but `logprobs`, which needs one token.
    """
    if rung == "logprobs":
        return {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
    fields: dict[str, Any] = {"max_tokens": max_answer_tokens}
    if rung == "choice":  # of vLLM since 0.12; SGLang and hosted services have the next rung
        fields["structured_outputs"] = {"choice": list(answers)}
    if rung == "schema":
        schema = {
            "type": "object",
            "properties": {"answer": {"type": "string", "enum": list(answers)}},
            "required": ["answer"],
            "additionalProperties": False,
        }
        wrapped = {"name": "answer", "strict": True, "schema": schema}
        fields["response_format"] = {"type": "json_schema", "json_schema": wrapped}
    return fields


def spelled(token: str, answers: Sequence[str]) -> int | None:
    """Find the answer that a token or a short text spells, case, quotes and marks around it ignored.

    Args:
        token: Such as ` A`, `yes` or `"No"`.
        answers: All answers that count.

    Returns:
        Position of the answer; None where it spells none.
    """
    plain = token.strip(_DECORATION).casefold()
    return next((place for place, answer in enumerate(answers) if answer.casefold() == plain), None)


def answer_of_text(text: str, answers: Sequence[str]) -> int | None:
    """Find the one answer that a free text gives; a text that could mean another gives none.

    `Yes.`, `**B**`, `Answer: A` and `No, there is only one circle.` are answers. `A cat` is not A, and `Yes and no` is
    neither.

    Args:
        text: What the model wrote.
        answers: All answers that count.
    """
    plain = re.sub(r"^\W*(?:(?:the|my|final)\s+)*answer(?:\s+is)?\b", "", text.strip(), flags=re.IGNORECASE)
    if (place := spelled(plain, answers)) is not None:
        return place
    opening = re.match(r"\W*(\w+)\s*[,.!;:\n]", plain)
    place = None if opening is None else spelled(opening[1], answers)
    # a letter opens too many sentences, and its rival hides in too many words
    if place is None or min(map(len, answers)) < 2:
        return None
    words = set(re.findall(r"\w+", plain.casefold()))
    others = {answer.casefold() for answer in answers} - {answers[place].casefold()}
    return None if words & others else place


def read_reply(body: object, rung: Rung, question: Question) -> ReplyRead:
    """Read the reply to a question that was asked in the form of a rung; never an exception, whatever came back.

    Args:
        body: Parsed JSON of the reply.
        rung: The form that was asked for.
        question: The question.
    """
    try:
        choice = ChatReply.model_validate(body).choices[0]
    except (ValidationError, RecursionError):
        code, message = read_error(body)
        if code or message:
            words = f"{code} {message}".strip()
            return ReplyRead(None, f"error in place of an answer: {words}", False, error_kind(words))
        return ReplyRead(None, "the reply is no chat completion", False, "other")
    if choice.message.refusal:
        return ReplyRead(None, f"refused: {choice.message.refusal}", error="refusal")
    if choice.finish_reason == "content_filter":
        return ReplyRead(None, "refused by the content filter", error="refusal")
    text = choice.message.text
    if rung == "logprobs" and (tokens := _first_token(choice.logprobs)):
        return ReplyRead(answer_of_tokens(tokens, question, text))
    if choice.finish_reason == "length":
        if rung != "logprobs":
            return ReplyRead(None, "the reply was cut off; raise max_answer_tokens", rung == "text")
        if min(map(len, question.answers)) < 2:  # one token of free text: `A` may have been going to be `A cat`
            return ReplyRead(None, "no token probabilities", False)
    if rung == "choice" and text.strip() in question.answers:
        return ReplyRead(_chosen(question, question.answers.index(text.strip()), rung))
    if rung == "schema" and (place := _answer_of_json(text, question.answers)) is not None:
        return ReplyRead(_chosen(question, place, rung))
    place = answer_of_text(text, question.answers)
    if place is None:
        return ReplyRead(None, f"the reply is none of {', '.join(question.answers)}: {text[:60]!r}", rung == "text")
    return ReplyRead(_chosen(question, place, "text"), obeyed=rung == "text")


def answer_of_tokens(tokens: Iterable[tuple[str, float]], question: Question, text: str = "") -> Answer:
    """Sum the probabilities of all spellings of each answer, and keep how much of the whole they cover.

    P(answer) = sum of exp(logprob) over its spellings / covered mass. Where the answers cover less than half, the
    model wanted to say something else.

    Args:
        tokens: (token, natural logarithm of its probability) of the first position.
        question: The question.
        text: What the model wrote, for the reason.
    """
    sums = [0.0] * len(question.answers)
    for token, logprob in dict(sorted(tokens, key=lambda pair: pair[1])).items():  # of equal tokens the likeliest
        place = spelled(token, question.answers)
        if place is not None:
            sums[place] += math.exp(min(0.0, logprob))
    mass = sum(sums)
    if mass <= 0.0:
        probabilities = tuple(1.0 / len(sums) for _ in sums)
    else:
        probabilities = tuple(value / mass for value in sums)
    low = mass < MIN_COVERED_MASS
    reason = f"the model wanted to say something else: {text[:60]!r}" if low else ""
    return Answer(question.item_id, probabilities, min(1.0, mass), "logprobs", reason)


def unreadable(question: Question, reason: str) -> Answer:
    """Answer that nothing could be read.

    Args:
        question: The question.
        reason: Why.
    """
    share = 1.0 / len(question.answers)
    return Answer(question.item_id, (share,) * len(question.answers), 0.0, "", reason)


def _chosen(question: Question, place: int, rung: Rung) -> Answer:
    probabilities = tuple(float(position == place) for position in range(len(question.answers)))
    return Answer(question.item_id, probabilities, 1.0, rung)


def _first_token(logprobs: object) -> list[tuple[str, float]]:
    """List the candidates of the first token; empty where the server left them out (one alone says nothing)."""
    try:
        first = _Logprobs.model_validate(logprobs).content[0]
    except (ValidationError, RecursionError):
        return []
    candidates = [first, *first.top_logprobs]
    distinct = {candidate.token for candidate in candidates}
    return [(candidate.token, candidate.logprob) for candidate in candidates] if len(distinct) > 1 else []


def _answer_of_json(text: str, answers: Sequence[str]) -> int | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, Mapping) or set(value) != {"answer"} or not isinstance(value["answer"], str):
        return None
    return spelled(value["answer"], answers)
