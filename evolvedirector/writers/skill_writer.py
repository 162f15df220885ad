"""Prompts by skill, as the first stage of SELMA writes them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.records import WriteReply, WriteRequest, digest, prompt_id_of, seed_of
from evolvedirector.records.part import bytes_of, close_parts, price_of, requests_in_flight_of, verify_parts
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.store.paths import user_path
from evolvedirector.store.prompt_files import read_prompts
from evolvedirector.writers.example_pool import ExamplePool
from evolvedirector.writers.kept_prompts import Answer, KeptPrompts, OpenPrompts
from evolvedirector.writers.prompt_writer import PromptWriter
from evolvedirector.writers.replies import ROUGE_LIMIT, refused_because, tidy
from evolvedirector.writers.skills import Skill, read_skills

SKILL_WRITER_VERSION = 1
"""Part of the fingerprint; raised when the same settings ask in another way."""
_MAX_CAUSE_CHARACTERS = 200


@dataclass(slots=True)
class _Shelf:
    """One skill while its file is open: what is kept, and what another text may not repeat."""

    skill: Skill
    book: OpenPrompts
    pool: ExamplePool
    ids: set[str]
    given: set[str] = field(default_factory=set)
    """Ids of the texts that earlier requests of this call were answered with."""


@dataclass(slots=True)
class _Job:
    """One request on its way to as many texts as it asks for."""

    request: WriteRequest
    shelf: _Shelf
    known: frozenset[str]
    outage: str = ""

    def texts(self, held_out: frozenset[str]) -> list[str]:
        """List the kept texts that are news to whoever asks, in the order in which they were written."""
        taken = self.known | self.shelf.given | held_out
        return [text for text in self.shelf.book.texts if prompt_id_of(text) not in taken][: self.request.count]


class SkillWriter:
    """Let a writer fill skills: as many prompts of each as are asked for, all different, none of them held out.

    SELMA (arXiv 2403.06952, section 3.1): the writer is shown three examples, drawn from the seeds of the skill and
    everything that was kept so far, and asked for 20 prompts at a time; a text whose ROUGE-L with any prompt of the
    skill is over 0.8 is dropped. Here a request ends with exactly the number that it asks for. Where the writer has no
    more, it ends with fewer and the reason, after `patience` answers in a row that brought nothing.

    What is kept lies in a file per skill, in the folder: a run that was killed goes on behind the last answer, and
    several runs that share a folder share its prompts. A request with a parent goes to the writer as it is, with the
    rules of its skill.

    Example:
        ```yaml
        writer:
          class_path: evolvedirector.writers.SkillWriter
          init_args:
            writer:
              class_path: evolvedirector.writers.TransformersWriter
              init_args: {model: Qwen/Qwen3-4B-Instruct-2507, texts_per_reply: 20, keep_loaded: true}
            skills: [configs/prompts/selma/counting.yaml, configs/prompts/selma/short_captions.yaml]
            folder: runs/selma/prompts
            held_out: configs/prompts/held_out.jsonl
        ```

    Args:
        writer: Who writes: a language model, or a grammar, which is not told rules and examples.
        skills: Files of the skills.
        folder: Of what is kept.
        held_out: Prompts for evaluation, a file or a source; none of them is written. None: none is held out.
        texts_per_request: Prompts asked for at a time; what is more than a request needs is kept for the next.
        examples_per_request: Prompts of the skill shown each time.
        rouge_limit: ROUGE-L over which a text is a near copy, 0 to 1; 1 drops equal prompts alone, as it has to be for
            a grammar: all of its sentences are alike.
        patience: Answers in a row without a new prompt after which the writer has no more.
        seed: Of the examples that are drawn, and of what is asked.

    Raises:
        UserError: A skill has no seeds, or a setting is out of its range.
    """

    def __init__(
        self,
        writer: PromptWriter,
        skills: Sequence[str],
        folder: str | Path,
        held_out: PromptSource | str | Path | None = None,
        texts_per_request: int = 20,
        examples_per_request: int = 3,
        rouge_limit: float = ROUGE_LIMIT,
        patience: int = 5,
        seed: int = 0,
    ) -> None:
        for name, value, least in (
            ("texts_per_request", texts_per_request, 1),
            ("examples_per_request", examples_per_request, 0),
            ("patience", patience, 1),
        ):
            if value < least:
                raise UserError(f"{name} is {value}. Allowed is {least} or more. Write `{name}: {max(least, 3)}`.")
        if not 0.0 <= rouge_limit <= 1.0:
            raise UserError(f"rouge_limit is {rouge_limit}. Allowed is 0 to 1. Write `rouge_limit: {ROUGE_LIMIT}`.")
        self.writer = writer
        self.skills = read_skills(skills)
        self.folder = user_path(folder)
        self.held_out = held_out
        self.texts_per_request = texts_per_request
        self.examples_per_request = examples_per_request
        self.rouge_limit = rouge_limit
        self.patience = patience
        self.seed = seed

    @property
    def fingerprint(self) -> str:
        """Name the writer, the skills, what is held out, and every setting; not the folder."""
        numbers = (self.texts_per_request, self.examples_per_request, self.rouge_limit, self.patience, self.seed)
        settings = digest(repr(numbers), repr(list(self.skills.values())), *sorted(self._held_out_ids))
        return f"skill-writer-{SKILL_WRITER_VERSION}/{settings}/{self.writer.fingerprint}"

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        """Yield one reply per request as each has all its texts, or the writer has no more for it.

        Args:
            requests: Each with one of the skills, or with a parent.

        Raises:
            UserError: A file of the folder is damaged.
        """
        own = [request for request in requests if request.parent is None and request.skill in self.skills]
        passed = [request for request in requests if request.parent is not None]
        for request in requests:
            if request.parent is None and request.skill not in self.skills:
                known = ", ".join(self.skills)
                yield WriteReply(request.request_id, refusal=f"{request.skill!r} is no skill of this writer ({known})")
        if passed:
            yield from self.writer.write([self._ruled(request) for request in passed])
        with ExitStack() as stack:
            # in one order, so that two processes never wait for each other
            names = sorted({str(request.skill) for request in own})
            shelves = {name: self._shelf(name, stack.enter_context(self._kept(name).opened())) for name in names}
            yield from self._filled([_job(request, shelves[str(request.skill)]) for request in own])

    def verify(self) -> None:
        """Check folder, files, held-out prompts and writer; nothing is asked.

        Raises:
            ValueError: With what is wrong.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(
                f"The folder of the skills' prompts, '{self.folder}', is a file. Allowed is a folder, or a path where "
                "one can be made. Write `folder: runs/selma/prompts`, say."
            )
        for name, skill in self.skills.items():
            self._kept(name).read()
            if not self._seeds(skill):
                raise UserError(
                    f"All {len(skill.seeds)} seeds of the skill {name!r} are held out for evaluation. At least one "
                    "must be another prompt: those that are held out are shown to no writer. Add a seed."
                )
        verify_parts(self.writer)

    def price_usd(self) -> float | None:
        """Return what one answer of the writer costs in USD; None where nobody has told it."""
        return price_of(self.writer)

    def estimated_bytes(self) -> int | None:
        """Return what the writer takes of a device, in bytes."""
        return sum(bytes_of(self.writer))

    @property
    def requests_in_flight(self) -> int:
        """Return how many requests the writer wants to be handed at once; 0 where it works in this process."""
        return requests_in_flight_of(self.writer)

    def close(self) -> Any:
        """Let the writer go."""
        close_parts(self.writer)

    @cached_property
    def _held_out_ids(self) -> frozenset[str]:
        listed = [] if self.held_out is None else read_prompts(self.held_out)
        return frozenset(prompt.id for prompt in listed)

    def _kept(self, name: str) -> KeptPrompts:
        return KeptPrompts(self.folder / f"{name}.jsonl")

    def _shelf(self, name: str, book: OpenPrompts) -> _Shelf:
        skill = self.skills[name]
        texts = [*self._seeds(skill), *book.texts]
        return _Shelf(skill, book, ExamplePool({name: texts}, sys.maxsize), {prompt_id_of(text) for text in texts})

    def _seeds(self, skill: Skill) -> list[str]:
        """List the seeds that a writer may be shown."""
        return [text for text in skill.seeds if prompt_id_of(text) not in self._held_out_ids]

    def _ruled(self, request: WriteRequest) -> WriteRequest:
        skill = self.skills.get(request.skill or "")
        return request if skill is None or request.rules else replace(request, rules=skill.rules)

    def _filled(self, jobs: Sequence[_Job]) -> Iterator[WriteReply]:
        """Ask for all unfilled skills at once, again and again; one request of a skill comes after the other."""
        waiting = list(jobs)
        while waiting:
            first = {job.shelf.skill.name: job for job in reversed(waiting)}
            done = [job for job in first.values() if self._is_done(job)]
            for job in done:
                waiting.remove(job)
                yield self._reply(job)
            asked = [job for job in first.values() if job not in done]
            if asked:
                self._ask(asked)

    def _is_done(self, job: _Job) -> bool:
        is_full = len(job.texts(self._held_out_ids)) >= job.request.count
        return is_full or bool(job.outage) or len(self._in_vain(job.shelf)) >= self.patience

    def _in_vain(self, shelf: _Shelf) -> list[Answer]:
        """Return the latest answers of the writer, as it is set now, that brought nothing."""
        latest: list[Answer] = []
        for answer in reversed(shelf.book.answers):
            if answer.texts or answer.writer != self._asked_of(shelf.skill):
                break
            latest.append(answer)
        return latest

    def _asked_of(self, skill: Skill) -> str:
        """Name who is asked and how: a writer that had no more is asked again when it is another one."""
        return digest(self.writer.fingerprint, repr(skill), self.texts_per_request, self.examples_per_request)

    def _ask(self, jobs: Sequence[_Job]) -> None:
        by_id: dict[str, _Job] = {}
        requests = []
        for job in jobs:
            skill, number = job.shelf.skill, len(job.shelf.book.answers)
            seed = seed_of("skill", self.seed, skill.name, number)
            examples = job.shelf.pool.draw(skill.name, self.examples_per_request, seed)
            name, count = digest("skill", self.seed, skill.name, number), self.texts_per_request
            requests.append(WriteRequest(name, "seed", None, skill.name, count, seed, skill.rules, examples))
            by_id[name] = job
        for reply in self.writer.write(requests):
            job = by_id.pop(reply.request_id)
            if reply.answered or reply.texts:
                job.shelf.book.add(self._answer(job, reply))
            else:
                job.outage = reply.refusal or "the writer was not reached"
        for job in by_id.values():
            job.outage = "no reply"

    def _answer(self, job: _Job, reply: WriteReply) -> Answer:
        """Sort out what the writer wrote; what is kept may be shown as an example from now on."""
        shelf, kept, refused = job.shelf, list[str](), Counter[str]()
        name = shelf.skill.name
        if not reply.texts:
            refused[(reply.refusal or "empty list")[:_MAX_CAUSE_CHARACTERS]] += 1
        for position, text in enumerate(map(tidy, reply.texts)):
            written_for = reply.skills[position] if position < len(reply.skills) else name
            cause = "another skill" if written_for != name else self._cause(text, job)
            if cause:
                refused[cause] += 1
                continue
            kept.append(text)
            shelf.ids.add(prompt_id_of(text))
            shelf.pool.add(name, [text])
        return Answer(self._asked_of(shelf.skill), tuple(kept), dict(refused))

    def _cause(self, text: str, job: _Job) -> str:
        """Say why a text is not kept; empty where it is."""
        prompt_id = prompt_id_of(text)
        if prompt_id in self._held_out_ids:
            return "held out"
        if prompt_id in job.shelf.ids or prompt_id in job.known:
            return "duplicate"
        others = job.shelf.pool.words(job.shelf.skill.name) if self.rouge_limit < 1.0 else ()
        return refused_because(text, job.request, others, self.rouge_limit)

    def _reply(self, job: _Job) -> WriteReply:
        request, texts = job.request, job.texts(self._held_out_ids)
        job.shelf.given.update(map(prompt_id_of, texts))
        if len(texts) == request.count:
            return WriteReply(request.request_id, tuple(texts))
        if job.outage:
            said = f"{len(texts)} of {request.count} prompts of {request.skill}: {job.outage}"
            return WriteReply(request.request_id, tuple(texts), refusal=said, answered=bool(texts))
        refused: Counter[str] = Counter()
        for answer in self._in_vain(job.shelf):
            refused.update(answer.refused)
        causes = ", ".join(f"{cause} {number}" for cause, number in refused.most_common())
        said = f"{len(texts)} of {request.count} prompts of {request.skill}: the writer brought nothing new in "
        said += f"{self.patience} answers in a row ({causes})"
        return WriteReply(request.request_id, tuple(texts), refusal=said)


def _job(request: WriteRequest, shelf: _Shelf) -> _Job:
    return _Job(request, shelf, frozenset(map(prompt_id_of, request.known)))
