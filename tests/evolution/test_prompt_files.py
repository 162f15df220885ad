"""A round over subject prompts: whoever draws gets the subject's files, and what is bought keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.prompt_files import PromptFiles
from evolvedirector.evolution.round import run_round
from evolvedirector.evolution.round_parts import Round, RoundParts, tenants_of
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.records import FileRef, ImageReply, ImageRequest, Prompt, RevisionChange, RoundInfo, Sample
from evolvedirector.store.dataset import DatasetStore
from evolvedirector.store.reader import RevisionReader
from tests import toys


class Noting(toys.ToyTeacher):
    """Remembers the sha256 of the references it was given, by prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, Any] = {}

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        self.given |= {request.prompt: contents(request) for request in requests}
        yield from super().generate(requests)


def contents(request: ImageRequest) -> dict[str, str]:
    return {role: hashlib.sha256(file.content or b"").hexdigest() for role, file in request.files.items()}


class Subjects:
    """Four subjects with a reference each, one of them with a mask too; the student and the toy teacher draw tones."""

    def __init__(self, folder: Path) -> None:
        self.store = DatasetStore(folder / "data", create=True)
        self.teacher, self.drawn = Noting(), dict[str, dict[str, str]]()
        self.references: dict[str, str] = {}
        samples = []
        for number in range(4):
            prompt = Prompt.create(f"tone {number * 60}", skill="place")
            reference = FileRef.of(toys.flat_png(number * 60 + 10), "image/png", 8, 8)
            image = toys.flat_png(number * 60)
            files = {"reference": reference} | ({"depth": reference} if number == 0 else {})
            self.store.blobs.put_many([image, reference.content or b""])
            samples.append(Sample.create(prompt, hashlib.sha256(image).hexdigest(), "given", files))
            self.references[prompt.id] = reference.sha256
        self.sha = self.store.publish(None, "import", RevisionChange(samples=tuple(samples)))

    def draw(self, requests: Sequence[ImageRequest]) -> list[bytes]:
        self.drawn |= {request.prompt: contents(request) for request in requests}
        return [toys.flat_png(255) for _ in requests]

    def round(self, roles: Sequence[str] = ("reference",), needed: Sequence[str] = ()) -> Round:
        student = StudentPart(self.draw, chunk=2, roles=roles, needed_roles=needed)
        who: tuple[Any, ...] = ({"toy": self.teacher}, toys.ToyJudge(), toys.ToyWriter())
        executor = LocalExecutor(tenants_of(student, *who), unit=8)
        policy = EvolveDirectorPolicy(without={"deletion", "mutation"})
        parts = RoundParts(self.store, executor, student, *who, policy, Budget(), 8)
        return Round(parts, RoundInfo("r1", 0, None, 0, 10, self.sha))


@pytest.fixture
def subjects(tmp_path: Path) -> Iterator[Subjects]:
    made = Subjects(tmp_path)
    yield made
    made.store.close()


def test_a_round_draws_with_the_reference_of_the_prompt_or_of_its_parent_and_keeps_it(subjects: Subjects) -> None:
    child_sha = run_round(subjects.round())
    own = {f"tone {number * 60}": prompt_id for number, prompt_id in enumerate(subjects.references)}
    assert subjects.drawn == {text: {"reference": subjects.references[key]} for text, key in own.items()}
    state = subjects.store.state(child_sha)
    children = [entry for entry in state.entries.values() if entry.prompt.parent_id]
    assert len(children) > 4
    for entry in children:
        reference = subjects.references[entry.prompt.parent_id or ""]
        assert subjects.teacher.given[entry.prompt.text] == {"reference": reference}
        assert entry.sample is not None and entry.sample.files["reference"].sha256 == reference
    assert len(RevisionReader(subjects.store.root, child_sha, ("image", "reference"))) == 4 + len(children)


def test_a_student_that_reads_no_files_asks_as_before(subjects: Subjects) -> None:
    run_round(subjects.round(roles=()))
    assert set(map(len, subjects.drawn.values())) == {0}
    assert set(map(len, subjects.teacher.given.values())) == {0}


def test_a_prompt_without_ancestors_takes_the_files_of_a_live_sample_only_where_it_needs_some(
    subjects: Subjects,
) -> None:
    new = Prompt.create("tone 7", origin="mutation")
    assert PromptFiles(subjects.round()).of(new) == {}
    needing = PromptFiles(subjects.round(needed=("reference",)))
    assert needing.of(new)["reference"].sha256 in subjects.references.values()
    assert needing.of(new) == PromptFiles(subjects.round(needed=("reference",))).of(new)
    whole = PromptFiles(subjects.round(roles=("reference", "depth"), needed=("reference", "depth")))
    assert whole.of(Prompt.create("tone 8")).keys() == {"reference", "depth"}
