"""A language model of the transformers library as writer of prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evolvedirector.errors import UserError
from evolvedirector.models.model_files import Dtype, ModelSettings, Quantisation
from evolvedirector.models.on_demand import MemoryGuard, ModelOnDemand
from evolvedirector.models.text_model import InstructionReader, TextModel, Written
from evolvedirector.records import WriteReply, WriteRequest, digest, seed_of
from evolvedirector.writers.example_pool import ExamplePool, Words
from evolvedirector.writers.instructions import INSTRUCTIONS_VERSION, instruction_for
from evolvedirector.writers.replies import ROUGE_LIMIT, read_texts, refusal_of
from evolvedirector.writers.rouge import words_of


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a write request that one reply can hold."""

    request: WriteRequest
    asked: WriteRequest
    """The same with the count and the seed of this piece."""
    instruction: str


class TransformersWriter:
    """Write prompts with any text-generation model of the transformers library, in batches.

    Expansion keeps the structure of its parent and changes what it speaks of; mutation writes something unrelated in
    one of four lengths. Texts without a parent are written from a few examples of their skill, drawn from a pool that
    grows with what was written (SELMA, section 3.1). What the model writes is data: one JSON list of texts, each
    checked, near copies refused, everything refused counted; a reply that cannot be read is a refusal, never an error.

    Every draw follows from the seed of its request, not from its neighbours in a batch. (Their company can change the
    last bit of a probability, so in rare cases a text too; write `batch_size: 1` where that matters.)

    Example:
        ```yaml
        writer:
          class_path: evolvedirector.writers.TransformersWriter
          init_args: {model: Qwen/Qwen3-4B-Instruct-2507, quantisation: nf4}
        ```

    Args:
        model: Folder with a saved model, or its name on the model hub.
        revision: Branch, tag or commit on the hub; None is its main branch.
        dtype: Of weights and computation; auto: as saved.
        quantisation: `nf4` (4 bit) or `int8`, both through bitsandbytes; None keeps the weights as they are.
        batch_size: Replies written together.
        max_new_tokens: Longest reply, in tokens; what is cut off is lost.
        temperature: Of the sampling, 0 to 2; 0 takes the likeliest token each time.
        top_p: Sample from the likeliest tokens that have this probability together, over 0 to 1.
        texts_per_reply: Texts asked for in one reply; a larger request is cut into several.
        examples: Texts by skill that the pool begins with. None: it begins empty.
        examples_per_request: Examples shown for a text without a parent whose request brings none; 0 shows none.
        rouge_limit: ROUGE-L over which a text is a near copy, 0 to 1; 1 refuses none for it.
        keep_loaded: Keep the weights in memory between calls, in a round until all is written. Else they are freed when
            all requests of a call are answered.
        device: As PyTorch names it. None: the GPU of the rank, or the CPU where there is none.

    Raises:
        UserError: A setting out of its range.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        dtype: Dtype = "auto",
        quantisation: Quantisation | None = None,
        batch_size: int = 8,
        max_new_tokens: int = 1024,
        temperature: float = 1.0,
        top_p: float = 0.95,
        texts_per_reply: int = 10,
        examples: dict[str, list[str]] | None = None,
        examples_per_request: int = 3,
        rouge_limit: float = ROUGE_LIMIT,
        keep_loaded: bool = False,
        device: str | None = None,
    ) -> None:
        counts = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "texts_per_reply": texts_per_reply}
        for name, value in counts.items():
            if value < 1:
                raise UserError(f"{name} is {value}. Allowed is 1 or more. Write `{name}: 8`.")
        if examples_per_request < 0:
            raise UserError(f"examples_per_request is {examples_per_request}. Allowed is 0 or more. Write 3.")
        if not 0.0 <= temperature <= 2.0:
            raise UserError(f"temperature is {temperature}. Allowed is 0 to 2. Write `temperature: 1.0`.")
        if not 0.0 < top_p <= 1.0:
            raise UserError(f"top_p is {top_p}. Allowed is over 0 and at most 1. Write `top_p: 0.95`.")
        if not 0.0 <= rouge_limit <= 1.0:
            raise UserError(f"rouge_limit is {rouge_limit}. Allowed is 0 to 1. Write `rouge_limit: {ROUGE_LIMIT}`.")
        self.model = model
        self.revision = revision
        self.dtype: Dtype = dtype
        self.quantisation: Quantisation | None = quantisation
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.texts_per_reply = texts_per_reply
        self.examples = examples
        self.examples_per_request = examples_per_request
        self.rouge_limit = rouge_limit
        self.keep_loaded = keep_loaded
        self.device = device
        self._pool = ExamplePool(examples)
        self._text = ModelOnDemand(ModelSettings(model, revision, dtype, quantisation, device), TextModel)
        self._guard = MemoryGuard(
            self._ask,
            self._lost,
            f"Allowed is what it holds. Write a batch_size under {batch_size}, fewer max_new_tokens or "
            "`quantisation: nf4`.",
        )

    @property
    def fingerprint(self) -> str:
        """Name the model, the instructions and every setting that changes its texts; not batch, memory and device."""
        weights = (self.revision, self.dtype, self.quantisation)
        sampling = (self.max_new_tokens, self.temperature, self.top_p, self.texts_per_reply)
        shown = (sorted((self.examples or {}).items()), self.examples_per_request, self.rouge_limit)
        settings = digest(self.model, repr((*weights, *sampling, *shown)))
        return f"transformers-writer-{INSTRUCTIONS_VERSION}/{Path(self.model).name}/{settings}"

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        """Yield one reply per request, in their order; fewer texts than asked where some were refused.

        Args:
            requests: What to write. An expansion without a parent is refused.

        Raises:
            ValueError: If the model cannot be loaded, or the first batch does not fit the device's memory.
        """
        parts = [part for request in requests for part in self._parts(request)]
        known = {request.skill: self._pool.words(request.skill) for request in requests if request.parent is None}
        try:
            written = self._written(parts)
            for request in requests:
                pieces = [next(written) for _ in self._counts(request)]
                yield self._reply(request, pieces, known)
        finally:
            if not self.keep_loaded:
                self.close()

    def close(self) -> None:
        """Free the model's memory; the next request loads it again."""
        self._text.close()

    def estimated_bytes(self) -> int | None:
        """Estimate the memory of the loaded weights from the headers of their files; None if they are not here yet.

        Raises:
            ValueError: If there is no such model.
        """
        return self._text.estimated_bytes()

    def verify(self) -> None:
        """Check, without loading weights, that the model exists, writes text and holds an instruction and its reply.

        Raises:
            UserError: With what is wrong and what to write.
        """
        reader = InstructionReader(self._text.checked_source(), self.revision)
        request = WriteRequest("verify", "expansion", "a photo of a cat", None, self.texts_per_reply, 0)
        used = reader.inputs([reader.text(instruction_for(request, ()))])["input_ids"].shape[1]
        room = reader.context_tokens()
        if room is not None and used + self.max_new_tokens > room:
            raise UserError(
                f"An instruction of {used} tokens and max_new_tokens={self.max_new_tokens} do not fit the {room} "
                f"tokens of {self.model!r}. Allowed is what it holds. Write fewer max_new_tokens, or another model."
            )

    def _counts(self, request: WriteRequest) -> list[int]:
        """Cut a count into what one reply can hold; nothing where the request makes no sense."""
        if request.operation == "expansion" and request.parent is None:
            return []
        full, rest = divmod(request.count, self.texts_per_reply)
        return [self.texts_per_reply] * full + [rest] * (rest > 0)

    def _parts(self, request: WriteRequest) -> list[_Part]:
        parts = []
        for number, count in enumerate(self._counts(request)):
            asked = replace(request, count=count, seed=seed_of("write", request.seed, number))
            shown = 0 if request.parent is not None else self.examples_per_request
            drawn = self._pool.draw(request.skill, shown, seed_of("examples", request.seed, number))
            parts.append(_Part(request, asked, instruction_for(asked, request.examples or drawn)))
        return parts

    def _written(self, parts: Sequence[_Part]) -> Iterator[tuple[_Part, Written]]:
        for start in range(0, len(parts), self.batch_size):
            batch = parts[start : start + self.batch_size]
            yield from zip(batch, self._guard.run(batch), strict=True)

    def _ask(self, parts: Sequence[_Part]) -> list[Written]:
        """Let the model reply to a batch."""
        instructions, seeds = [part.instruction for part in parts], [part.asked.seed for part in parts]
        return self._text.get().write(instructions, seeds, self.max_new_tokens, self.temperature, self.top_p)

    def _lost(self, part: _Part) -> Written:
        return Written("", "the device is out of memory", answered=False)

    def _reply(
        self, request: WriteRequest, pieces: Sequence[tuple[_Part, Written]], known: dict[str | None, list[Words]]
    ) -> WriteReply:
        """Read what was written for one request; what it adds to the pool may not be copied by the next."""
        refused: Counter[str] = Counter()
        texts: list[str] = []
        if not pieces and request.count:
            refused["expansion without a parent"] += 1
        others = known[request.skill] if request.parent is None else []
        for part, written in pieces:
            accepted, causes = read_texts(written.text, part.asked, [*others, *map(words_of, texts)], self.rouge_limit)
            texts += accepted
            refused += Counter([written.problem]) if written.problem and not accepted else causes
        if request.parent is None:
            others.extend(map(words_of, texts))
            self._pool.add(request.skill, texts)
        return WriteReply(
            request.request_id,
            tuple(texts),
            refusal=refusal_of(refused, len(texts), request.count),
            answered=bool(texts) or all(written.answered for _, written in pieces),
        )
