"""A purchase of images from the chaos server that can end itself at any event; as a script, one per line of JSON.

It imports once and forks a child for each run: no library of the training is needed for buying, so a run costs a
fraction of a second.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import webdataset  # noqa: F401 - publishing imports it late, and each child would pay for that

from evolvedirector.errors import RunError
from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.opening import run_seeding
from evolvedirector.evolution.round import run_round
from evolvedirector.evolution.round_parts import Round, RoundParts, tenants_of
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.planning.spending import told_prices_usd
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.records import Look, Prompt, RevisionChange, RoundInfo, WriteReply, seed_of
from evolvedirector.store import DatasetStore
from evolvedirector.store.blobs import Blobs
from evolvedirector.store.ledger.file import LedgerFile
from evolvedirector.teachers.services.bfl_teacher import BFLTeacher
from evolvedirector.teachers.services.fal_teacher import FalTeacher
from evolvedirector.teachers.services.http_teacher import HTTPTeacher
from evolvedirector.teachers.services.openai_images_teacher import OpenAIImagesTeacher
from evolvedirector.teachers.services.replicate_teacher import ReplicateTeacher
from evolvedirector.teachers.services.stability_teacher import StabilityTeacher
from evolvedirector.teachers.teacher import Teacher
from evolvedirector.transport.client import Client
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.job_journal import JobJournal
from tests.chaos.pictures import picture

PRICE_USD = 0.01
SEED_TEXTS = tuple(f"tone {40 + 7 * number}" for number in range(6))


def teacher_at(provider: str, url: str, jobs: Path | None = None, **limits: Any) -> Teacher:
    """Make a teacher of a provider's class that asks the chaos server."""
    limits = {"timeout_s": 20.0, "deadline_s": 60.0, "api_key_env": None, **limits}

    def at(path: str) -> Endpoint:
        return Endpoint(url + path, **limits)

    fast: dict[str, Any] = {"cost_usd_per_image": PRICE_USD, "poll_every_s": 0.01, "jobs_path": jobs}
    if provider == "bfl":
        return BFLTeacher("flux-pro-1.1", endpoint=at("/bfl"), **fast)
    if provider == "fal":
        return FalTeacher("fal-ai/flux/schnell", endpoint=at("/fal"), **fast)
    if provider == "replicate":
        return ReplicateTeacher("toy/toy-image", endpoint=at("/replicate/v1"), **fast)
    if provider == "stability":
        return StabilityTeacher("core", endpoint=at("/stability"), cost_usd_per_image=PRICE_USD)
    if provider == "http":
        body = {"model": "toy-image", "prompt": "{prompt}", "seed": "{seed}", "size": "{size}"}
        return HTTPTeacher(at("/v1"), "images/generations", body, "data.0.b64_json", cost_usd_per_image=PRICE_USD)
    return OpenAIImagesTeacher(model="toy-image", endpoint=at("/v1"), cost_usd_per_image=PRICE_USD)


class Events:
    """Count what happens, and kill this process at one of the events."""

    def __init__(self, at: int | None) -> None:
        self.kinds: list[str] = []
        self.at = at

    def happen(self, kind: str) -> None:
        self.kinds.append(kind)
        if len(self.kinds) - 1 == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # the kernel is on its way

    def around(self, owner: Any, name: str, kind: str) -> None:
        call = getattr(owner, name)

        @wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.happen(kind)
            result = call(*args, **kwargs)
            self.happen(f"{kind} done")
            return result

        setattr(owner, name, counted)

    def watch(self) -> None:
        self.around(Blobs, "put_many", "blobs")
        self.around(DatasetStore, "publish", "publish")
        self.around(JobJournal, "record", "record job")
        for name in ("request_json", "request", "download"):
            self._around_sending(name)
        transaction = LedgerFile.transaction

        @contextmanager
        def counted(file: LedgerFile) -> Iterator[Any]:
            with transaction(file) as connection:
                yield connection
                self.happen("commit")
            self.happen("commit done")

        LedgerFile.transaction = counted  # type: ignore[method-assign]

    def _around_sending(self, name: str) -> None:
        call: Callable[..., Any] = getattr(Client, name)

        @wraps(call)
        async def counted(*args: Any, **kwargs: Any) -> Any:
            self.happen(f"send {name}")
            result = await call(*args, **kwargs)
            self.happen(f"got {name}")
            return result

        setattr(Client, name, counted)


class Writer:
    fingerprint = "toy writer"

    def write(self, requests: Sequence[Any]) -> Iterator[WriteReply]:
        for request in requests:
            tones = [30 + seed_of(request.seed, position) % 200 for position in range(request.count)]
            yield WriteReply(request.request_id, tuple(f"tone {tone}" for tone in tones))


class Judge:
    """Finds every teacher's image better: each look makes children."""

    fingerprint = "for the teacher"

    def look(self, pairs: Sequence[Any]) -> Iterator[Look]:
        for pair in pairs:
            yield Look(pair.item_id, 0.1 if pair.first == STUDENT else 0.9)

    def check(self, items: Sequence[Any]) -> Iterator[Look]:
        return (Look(item.item_id, 0.9) for item in items)

    def close(self) -> None:
        pass


STUDENT = picture("the student", 0, 8, 8)


def context_of(store: DatasetStore, teacher: Teacher, budget: Budget, unit: int = 8) -> Round:
    """Collect a round's parts: everything real but the student, the judge and the writer."""
    prompts = tuple(Prompt.create(text, skill="tone") for text in SEED_TEXTS)
    sha = store.publish(None, "import", RevisionChange(prompts=prompts))
    student, judge, writer = StudentPart(lambda requests: [STUDENT] * len(requests)), Judge(), Writer()
    teachers = {"api": teacher}
    parts = RoundParts(
        store,
        LocalExecutor(tenants_of(student, teachers, judge, writer), unit=unit),
        student,
        teachers,
        judge,
        writer,
        EvolveDirectorPolicy(expansions=2, mutation_probability=0.0),
        budget,
        16,
        teacher_prices_usd=told_prices_usd(teachers),
    )
    return Round(parts, RoundInfo("seeding", 0, 2, 0, 0, sha))


def evolve(root: Path, teacher: Teacher, budget: Budget) -> dict[str, Any]:
    """Buy the seeds and run one round, or what is left of both; return the books.

    On a bad day no seed gets an image: the run then ends, and its books must be right all the same.
    """
    warnings.simplefilter("ignore")
    with DatasetStore(root, create=True) as store:
        context = context_of(store, teacher, budget)
        try:
            sha = run_seeding(context)
            info = replace(context.info, round_id="r1", index=1, global_step=10, revision_sha=sha)
            sha = run_round(replace(context_of(store, teacher, budget), info=info))
        except RunError as error:
            if "got an image to train on" not in str(error):
                raise
            sha = context.info.revision_sha
        spend = store.ledger.spend()
        states = store.state(sha)
        rows = store.ledger.file.rows("SELECT status, COUNT(*) FROM calls GROUP BY status")
        return {
            "calls": spend.teacher_calls,
            "lost": spend.lost_calls,
            "cost_usd": spend.cost_usd,
            "live": len(states.in_state("live")),
            "statuses": dict(rows),
        }


def perform(experiment: dict[str, Any]) -> dict[str, Any]:
    """Run once in a child, which may kill itself; say how it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            events = Events(experiment.get("at"))
            events.watch()
            folder = Path(experiment["folder"])
            teacher = teacher_at(experiment["provider"], experiment["url"], folder / "jobs.sqlite")
            books = evolve(folder / "data", teacher, Budget(experiment.get("calls"), None, experiment.get("usd")))
            with open(writing, "w") as pipe:
                json.dump({**books, "kinds": events.kinds}, pipe)
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        os._exit(code)
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"code": status, **(json.loads(text) if text else {})}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(perform(json.loads(line))), flush=True)
