"""Nothing is made twice: what the book holds is taken from there, the rest is asked for and recorded as it comes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from evolvedirector.errors import RunError
from evolvedirector.evolution.remembered import in_groups
from evolvedirector.execution.executor import Executor
from evolvedirector.pairs.pair_book import PairBook, StageSpend
from evolvedirector.pairs.pair_budget import PairBudget
from evolvedirector.pairs.pair_records import IMAGE, MASK, REFERENCE, PairReply, PairRequest, StageName
from evolvedirector.records import FileRef
from evolvedirector.records.part import Part, price_of
from evolvedirector.store import Blobs, DiskFullError, StoreError

ALL_REFUSED_AFTER = 32
"""Answers of a stage in one build, all of them refusals, after which its settings are wrong and not the pairs."""

MADE_BY: Mapping[str, str] = {
    "subjects": REFERENCE, "draft": IMAGE, "refine": IMAGE, "view": IMAGE, "mask": MASK,
}  # fmt: skip
"""File that every answer of a stage has; the others are answered in words or scores."""
_MISTAKES = (LookupError, TypeError, AttributeError, ArithmeticError, AssertionError)
"""What a stage of somebody's own raises where it is wrong about one request; everything else ends the build."""


class StageRefusesAll(RunError):
    """Say that a stage refused everything that it was asked."""


@dataclass
class StageRun:
    """Ask stages of one build, within its budget.

    Attributes:
        book: What is remembered.
        blobs: Where files lie by content.
        executor: Who carries requests to the stages.
        budget: What may be used up.
        spend: What was, earlier builds of this root included.
        asked: Calls of this build by stage.
        held_back: Calls that a limit kept from being made, by the limit as it stands in the YAML.
        failures: What kept a stage from answering, by stage and in its own words.
        check: Called before each unit; raises where the build is to stop.
    """

    book: PairBook
    blobs: Blobs
    executor: Executor
    budget: PairBudget
    spend: dict[str, StageSpend] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    held_back: Counter[str] = field(default_factory=Counter)
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    check: Callable[[], None] = lambda: None
    _refusals: dict[str, Counter[str]] = field(default_factory=dict)
    _useful: set[str] = field(default_factory=set)

    def answers(
        self, stage: StageName, part: Part, method: str, requests: Mapping[str, PairRequest]
    ) -> dict[str, PairReply]:
        """Answer requests of one stage, from the book where it holds the answer; the rest is asked in units.

        Each unit is reserved before it is sent, so that a kill can lose an answer but never the fact that it was asked
        for. Files are durable before the row that names them.

        Args:
            stage: Its name.
            part: Who is asked.
            method: What it is asked to do.
            requests: By the key under which the answer is remembered; files without content are read when needed.

        Returns:
            The final answers by key; what a limit or an outage held back is left out.

        Raises:
            StageRefusesAll: The stage refused everything.
        """
        held = self.book.answers(list(requests))
        # a file that was damaged and deleted is made again, as one that was bought is bought again
        known = {k: reply for k, reply in held.items() if all(self.blobs.has(f.sha256) for f in reply.files.values())}
        missing = [key for key in requests if key not in known]
        price_usd = price_of(part) or 0.0
        size = self.executor.unit_of(part)
        while missing:
            self.check()
            unit = missing[:size]
            fitting, limit = self.budget.affords(stage, len(unit), price_usd, self.spend)
            if not fitting:
                self.held_back[limit] += len(missing)
                break
            known |= self._unit(stage, part, method, {key: requests[key] for key in unit[:fitting]}, price_usd)
            missing = missing[fitting:]
        return {key: known[key] for key in requests if key in known}

    def _unit(
        self, stage: StageName, part: Part, method: str, requests: Mapping[str, PairRequest], price_usd: float
    ) -> dict[str, PairReply]:
        keys = list(requests)
        self.book.reserve(stage, part.fingerprint, keys, price_usd)
        self._add(stage, calls=len(keys))
        self.asked[stage] += len(keys)
        open_keys = dict.fromkeys(keys)
        known: dict[str, PairReply] = {}
        began = time.monotonic()
        sent = [replace(r, request_id=key, files=self._with_content(r.files)) for key, r in requests.items()]
        try:
            with closing(in_groups(self.executor.ask(part, method, sent))) as groups:
                for group in groups:
                    wanted = list({r.request_id: r for r in group if r.request_id in open_keys}.values())
                    now = time.monotonic()
                    known |= self._settled(stage, wanted, (now - began) / max(1, len(wanted)))
                    began = now
                    for reply in wanted:
                        open_keys.pop(reply.request_id)
        except _MISTAKES as error:
            if len(keys) > 1:  # whose fault it is, shows when each is asked alone
                for key in open_keys:
                    fits, limit = self.budget.affords(stage, 1, price_usd, self.spend)
                    if fits:
                        known |= self._unit(stage, part, method, {key: requests[key]}, price_usd)
                    else:
                        self.held_back[limit] += 1
                return known
            reason = f"{type(part).__name__} broke off: {type(error).__name__}: {error}"
            self._settled(stage, [PairReply(key, "failure", reason=reason) for key in open_keys], 0.0)
            return known
        silent = [PairReply(key, "failure", reason="no answer") for key in open_keys]
        self._settled(stage, silent, 0.0)
        return known

    def _settled(self, stage: StageName, replies: Sequence[PairReply], seconds: float) -> dict[str, PairReply]:
        kept = self._with_kept_files([_whole(stage, reply) for reply in replies])
        self.book.settle([(reply, seconds) for reply in kept])
        unsent = sum(not reply.sent for reply in kept)
        usd = sum(reply.cost_usd for reply in kept)
        self._add(stage, calls=-unsent, seconds=seconds * (len(kept) - unsent), usd=usd)
        self.asked[stage] -= unsent
        for reply in kept:
            if reply.status == "failure":
                self.failures[stage, reply.reason] += 1
            elif reply.status == "refused":
                self._refusals.setdefault(stage, Counter())[reply.reason] += 1
            else:
                self._useful.add(stage)
        self._refuse_all_refused(stage)
        return {reply.request_id: reply for reply in kept if reply.status != "failure"}

    def _with_kept_files(self, replies: Sequence[PairReply]) -> list[PairReply]:
        """Keep the files of a group at once; a reply whose file cannot be kept is a refusal."""
        try:
            kept = iter(self.blobs.put_files([file for reply in replies for file in reply.files.values()]))
            return [replace(r, files={role: next(kept) for role in r.files}) for r in replies]
        except DiskFullError:
            raise  # the disk is at fault, not the file: the same command goes on when there is room
        except StoreError as error:
            if len(replies) == 1:
                return [replace(replies[0], status="refused", files={}, reason=str(error).partition(". ")[0])]
            return [each for reply in replies for each in self._with_kept_files([reply])]

    def _with_content(self, files: Mapping[str, FileRef]) -> dict[str, FileRef]:
        return {role: replace(file, content=self.blobs.get(file.sha256)) for role, file in files.items()}

    def _refuse_all_refused(self, stage: StageName) -> None:
        reasons = self._refusals.get(stage, Counter())
        if stage not in self._useful and reasons.total() >= ALL_REFUSED_AFTER:
            reason, _ = reasons.most_common(1)[0]
            raise StageRefusesAll(
                f"The stage '{stage}' refused all {reasons.total()} requests, most often with: {reason.rstrip('.')}."
                " Allowed is a stage that can answer some. Change its settings or its input, then give the same command"
                " again: what was made is kept."
            )

    def _add(self, stage: str, calls: int = 0, seconds: float = 0.0, usd: float = 0.0) -> None:
        own = self.spend.get(stage, StageSpend())
        self.spend[stage] = StageSpend(own.calls + calls, own.lost, own.seconds + seconds, own.usd + usd)


def _whole(stage: StageName, reply: PairReply) -> PairReply:
    """Make a failure of an answer without the file that the stage is there for."""
    role = MADE_BY.get(stage)
    if reply.status != "done" or role is None or role in reply.files:
        return reply
    return replace(reply, status="failure", files={}, reason=f"the answer has no file '{role}'")
