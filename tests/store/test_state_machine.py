"""A root against a dictionary: whatever is done to it in whatever order, killed anywhere, it holds what the other does.

Hypothesis plays: it buys, judges, expands, retires, publishes, compacts, collects, forks and kills, and shortens what
goes wrong to the least that does.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from evolvedirector.records import ImageReply, Look, Prompt, RevisionChange, Sample, digest
from evolvedirector.store import DatasetStore, RevisionFiles, RevisionReader
from evolvedirector.store.collect import collect
from evolvedirector.store.compact import compact, plan_compaction
from evolvedirector.store.ledger import Call
from evolvedirector.store.verify import verify_root
from tests.crash.faulty_disk import KINDS, Fault, FaultyDisk, Kind, in_a_child
from tests.crash.operations import folder_in_memory
from tests.store.sample_files import picture, thing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
NUMBERS = st.integers(0, 5)


@dataclass(frozen=True)
class Held:
    """What a revision holds, as a dictionary: state and image of each prompt."""

    prompts: dict[str, tuple[str, str | None]]
    parent: str | None


@dataclass
class Pending:
    """What the next publication changes."""

    bought: dict[str, tuple[int, str]] = field(default_factory=dict)
    expanded: dict[str, Prompt] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)

    def of(self, held: Held) -> RevisionChange:
        """Return what of it can be published on a revision."""
        samples = tuple(Sample.create(thing(n), sha, "toy") for n, sha in self.bought.values())
        retired = {i for i in self.retired if i in held.prompts or i in self.bought}
        prompts = tuple(p for i, p in self.expanded.items() if i not in held.prompts)
        return RevisionChange(samples=samples, prompts=prompts, states=dict.fromkeys(sorted(retired), "retired"))

    def after(self, held: Held, parent: str) -> Held:
        """Say what a revision with it holds."""
        prompts = dict(held.prompts)
        for i in self.expanded:
            prompts.setdefault(i, ("candidate", None))
        for i, (_, sha) in self.bought.items():
            prompts[i] = ("live", sha)
        for i in self.retired:
            if i in prompts:
                prompts[i] = ("retired", prompts[i][1])
        return Held(prompts, parent)


class RootAgainstDictionary(RuleBasedStateMachine):
    """The game. Nothing waits for a disk: kills spare what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = folder_in_memory()
        self.folder = Path(self.memory.name).resolve()
        self.root = self.folder / "run" / "data"
        self.fsync = mock.patch.object(os, "fsync", lambda descriptor: None)
        self.fsync.start()
        self.asked: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.paid: dict[str, str] = {}
        self.looked: dict[str, float] = {}
        self.revisions: dict[str, Held] = {}
        self.checkpoints: list[str] = []
        self.collected: set[str] = set()
        self.pending = Pending()
        self.rounds: list[tuple[str, Callable[[], str], str]] = []
        """Parent, how it was published, and its sha, of every round."""
        with DatasetStore(self.root, create=True) as store:
            first = Sample.create(thing(0), store.blobs.put(picture(0)), "given")
            self.current = store.publish(None, "import", RevisionChange(samples=(first,)))
        self.revisions[self.current] = Held({thing(0).id: ("live", first.image_sha256)}, None)

    def teardown(self) -> None:
        try:
            assert verify_root(self.root).is_whole, verify_root(self.root).damages
        finally:
            self.fsync.stop()
            self.memory.cleanup()

    # ---- what a round does

    @rule(number=NUMBERS, tint=st.integers(0, 1), answered=st.booleans())
    def buy(self, number: int, tint: int, answered: bool) -> None:
        """Ask for an image, unless the ledger has it; a call may be cut off before its answer is recorded."""
        prompt, key = thing(number), f"request{number}-{tint}"
        with DatasetStore(self.root) as store:
            held = store.ledger.calls.replies([key])
            assert (key in held) == (key in self.paid)
            if key not in held:
                store.ledger.calls.reserve("round", [Call(key, prompt.id, prompt.id, "toy")])
                self.asked[key] += 1
                if not answered:
                    self.lost[key] += 1
                    return
                sha = store.blobs.put(picture(number + 100 * tint))
                store.ledger.calls.settle([(ImageReply(key, "image", cost_usd=1.0), sha)])
                self.paid[key] = sha
        self.pending.bought[prompt.id] = (number, self.paid[key])
        self.pending.retired.discard(prompt.id)

    @rule(number=NUMBERS)
    def judge(self, number: int) -> None:
        """Look at an image once; what was seen is remembered."""
        key = f"look{number}"
        with DatasetStore(self.root) as store:
            if key not in store.ledger.looks.get([key]):
                assert key not in self.looked
                store.ledger.looks.reserve("round", "judge", [key])
                store.ledger.looks.settle([Look(key, number / 10)])
                self.looked[key] = number / 10

    @rule(number=NUMBERS)
    def expand(self, number: int) -> None:
        """Write a child of a prompt."""
        child = Prompt.create(f"child {number}", "expansion", parent=thing(number))
        self.pending.expanded[child.id] = child

    @rule(number=NUMBERS)
    def retire(self, number: int) -> None:
        """Take a prompt out, if it is there by then; something stays to train on."""
        if number:
            self.pending.retired.add(thing(number).id)

    # ---- what changes the root as a whole

    @rule()
    def publish(self) -> None:
        """Publish what is pending."""
        self._carry_out(self._publishing())

    @rule(per_shard=st.sampled_from([2, 10_000]))
    def compact(self, per_shard: int) -> None:
        """Write small shards into larger ones."""
        self._carry_out(self._compacting(per_shard))

    @rule(last=st.integers(1, 4))
    def collect(self, last: int) -> None:
        """Delete what nobody names."""
        self._carry_out(self._collecting(last))

    @rule(
        what=st.sampled_from(["publish", "compact", "collect"]),
        kind=st.sampled_from(KINDS),
        number=st.integers(1, 12),
        size=st.integers(1, 3),
    )
    def crash(self, what: str, kind: Kind, number: int, size: int) -> None:
        """Kill what changes the root at its N-th write, fsync, ...; it is whole, and the same work ends as ever."""
        works = {"publish": self._publishing, "compact": lambda: self._compacting(2 * size)}
        work = works[what]() if what in works else self._collecting(size)

        def die() -> None:
            with FaultyDisk(self.root, Fault("SIGKILL", kind, number)).under_the_store():
                work()

        assert in_a_child(die)[0] in (0, -9)
        assert verify_root(self.root, quick=True).is_whole
        self._see_what_is_collected()
        self._carry_out(work)

    @rule()
    def resume(self) -> None:
        """Open the root as a run that goes on does."""
        with DatasetStore(self.root) as store:
            assert store.current() == self.current

    @rule()
    def checkpoint(self) -> None:
        """Let a checkpoint name the newest revision."""
        folder = self.root.parent / "checkpoints" / f"step-{len(self.checkpoints)}"
        folder.mkdir(parents=True)
        (folder / "COMMIT.json").write_text(json.dumps({"revision_sha": self.current}))
        self.checkpoints.append(self.current)

    @precondition(lambda self: any(parent in self.checkpoints for parent, _, _ in self.rounds))
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Go on from a checkpoint with the round that followed it before: it is there, and whole."""
        repeated = [item for item in self.rounds if item[0] in self.checkpoints]
        parent, work, sha = data.draw(st.sampled_from(repeated))
        self._carry_out(work)
        assert self.current == sha and self.revisions[sha].parent == parent

    @precondition(lambda self: self.checkpoints)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        """Go on from a checkpoint: what is published next stands on its revision."""
        self.current = data.draw(st.sampled_from(self.checkpoints))
        RevisionFiles(self.root).set_current(self.current)

    # ---- the works, each of which may be begun again

    def _publishing(self) -> Callable[[], str]:
        parent, change = self.current, self.pending.of(self.revisions[self.current])
        names = [s.key for s in change.samples] + [p.id for p in change.prompts] + list(change.states)
        name, after = digest("round", *names, length=12), self.pending.after(self.revisions[parent], parent)
        self.pending = Pending()

        def work() -> str:
            with DatasetStore(self.root) as store:
                sha = store.publish(parent, name, change)
            if sha not in self.revisions:
                self.revisions[sha] = after
                self.rounds.append((parent, work, sha))
            return sha

        return work

    def _compacting(self, per_shard: int) -> Callable[[], str]:
        parent = self.current

        def work() -> str:
            with DatasetStore(self.root) as store:
                plan = plan_compaction(self.root, store.revision(parent), per_shard)
                sha = parent if plan.is_empty else compact(store, store.revision(parent), plan)
            self.revisions.setdefault(sha, Held(self.revisions[parent].prompts, parent))
            return sha

        return work

    def _collecting(self, last: int) -> Callable[[], str]:
        def work() -> str:
            collect(self.root, last)
            return self.current

        return work

    def _carry_out(self, work: Callable[[], str]) -> None:
        self.current = work()
        self._see_what_is_collected()

    def _see_what_is_collected(self) -> None:
        """Note which revisions a collection took files of: none that a checkpoint, an age or a descent keeps."""
        path = self.root / "collected.json"
        self.collected = set(json.loads(path.read_text())["revisions"]) if path.exists() else set()
        kept = {self.current, *self.checkpoints}
        assert not kept & self.collected

    # ---- what always holds

    @invariant()
    def the_root_holds_what_the_dictionary_does(self) -> None:
        files = RevisionFiles(self.root)
        assert files.current() == self.current
        for sha in {self.current, *self.checkpoints} | set(list(self.revisions)[-3:]) - self.collected:
            if sha in self.collected:
                continue
            held = self.revisions[sha]
            state = files.load(sha).state
            assert {
                i: (entry.state, entry.sample.image_sha256 if entry.sample else None)
                for i, entry in state.entries.items()
            } == held.prompts
            reader = RevisionReader(self.root, sha)
            images = Counter(reader.image_digest(row) for row in range(len(reader)) if reader.raw(row, verify=True))
            reader.close()
            assert images == Counter(image for kind, image in held.prompts.values() if kind in ("live", "mastered"))

    @invariant()
    def nothing_is_bought_twice_and_nothing_paid_is_lost(self) -> None:
        with DatasetStore(self.root) as store:
            assert all(self.asked[key] == 1 + self.lost[key] for key in self.paid)
            assert {key: r.image_sha256 for key, r in store.ledger.calls.replies(list(self.paid)).items()} == self.paid
            assert all(store.blobs.get(sha) for sha in self.paid.values())
            assert store.ledger.calls.by_teacher().get("toy", 0) == self.asked.total()
            looks = store.ledger.looks.get(list(self.looked))
            assert {key: look.probability for key, look in looks.items()} == self.looked


def play(examples: int, steps: int, derandomize: bool) -> None:
    run_state_machine_as_test(
        RootAgainstDictionary,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=derandomize,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.mark.slow
def test_a_root_and_a_dictionary_agree_in_a_few_games() -> None:
    play(6, 20, derandomize=True)


@pytest.mark.crash
@pytest.mark.timeout(3600)
def test_a_root_and_a_dictionary_agree_in_many_games() -> None:
    play(100, 40, derandomize=False)
