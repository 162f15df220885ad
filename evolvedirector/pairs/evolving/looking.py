"""The student draws subjects that it never saw, and the judge says whether it is them, changed as asked."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from evolvedirector.evolution.prompt_files import PromptFiles
from evolvedirector.evolution.round_parts import Round
from evolvedirector.evolution.steps import draw
from evolvedirector.pairs.evolving.cells import Cell
from evolvedirector.pairs.pair_records import IMAGE, REFERENCE, REFERENCE_MASK, ChangeKind, Subject
from evolvedirector.pairs.pair_work import PairPass, PairWork
from evolvedirector.records import Evidence, FileRef, ImageRequest, Look, Prompt, Reading, digest, seed_of


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was seen of one subject and one kind of change.

    Args:
        cell: Category and kind.
        reading: `lacks` where the subject or the change is missing.
        cause: The score that was too low, or `mask` where no subject was found; empty where it shows both.
    """

    cell: Cell
    reading: Reading
    cause: str


def cells_of(subjects: Sequence[Subject], kinds: Sequence[ChangeKind]) -> list[Cell]:
    """List the cells of some subjects."""
    return [Cell(category, kind) for category in sorted({s.category for s in subjects}) for kind in kinds]


def looked_at(
    round: Round, asks: PairPass, looks: PairPass, wanted: Sequence[tuple[Subject, ChangeKind]]
) -> list[Sighting]:
    """Let the student draw what is wanted, and the judge look at it; recorded as screened prompts are.

    A subject that cannot be loaded, or that pairs were made of, and a change that nobody writes, are left out: they
    tell nothing of the student.

    Args:
        round: The round.
        asks: Loads subjects and writes their changes, as for pairs.
        looks: Finds the subject in a drawing and scores it, with its thresholds.
        wanted: Subjects and kinds of change.
    """
    info = round.info
    works = [
        PairWork(
            digest("look", info.round_id, subject.name, kind, length=24),
            subject,
            kind,
            "generation",
            seed_of("look", info.seed, info.round_id, subject.name, kind),
        )
        for subject, kind in wanted
    ]
    asks.begin(works)
    trained = asks.run.book.looks_of(list({work.subject_id for work in works if work.goes_on}))
    if trained:
        warnings.warn(
            f"{len(trained)} of {len({work.subject_id for work in works if work.goes_on})} subjects that the student "
            "was to be looked at with have pairs already and are left out: what was trained on tells nothing. Build "
            "pairs of other subjects (`pairs build`), or begin with an empty root and `first_rounds: 1`.",
            stacklevel=4,
        )
    works = [work for work in works if work.goes_on and work.subject_id not in trained]
    drawn = _drawn(round, works)
    for work in works:
        work.files[IMAGE] = drawn[work.pair_id]
    looks.look(works)
    _record(round, works)
    return [Sighting(Cell(work.subject.category, work.kind), _reading(work), work.cause) for work in works]


def _drawn(round: Round, works: Sequence[PairWork]) -> dict[str, FileRef]:
    """Let the student draw each subject from its reference and the words; returns pictures by work."""
    roles = [role for role in (REFERENCE, REFERENCE_MASK) if role in round.parts.student.roles]
    size_px = round.parts.image_size_px
    requests = {
        work.pair_id: ImageRequest(
            digest("student of", work.pair_id), work.prompt, seed_of("student of", work.seed), size_px, size_px
        )
        for work in works
    }
    files = {requests[work.pair_id]: {role: work.files[role] for role in roles} for work in works}
    shas = draw(round, files, PromptFiles(round))
    return {name: _picture(round, shas[request.request_id]) for name, request in requests.items()}


def _picture(round: Round, sha256: str) -> FileRef:
    blobs, size_px = round.parts.store.blobs, round.parts.image_size_px
    return FileRef(sha256, blobs.path(sha256).stat().st_size, "image/png", size_px, size_px)


def _reading(work: PairWork) -> Reading:
    return "unreadable" if work.is_open else "lacks" if work.cause else "shows"


def _record(round: Round, works: Sequence[PairWork]) -> None:
    """Record what was seen: the skill is the kind of change, the lineage the category, the picture beside it the
    reference."""
    prompts = {
        work.pair_id: Prompt(
            digest("look prompt", work.subject.name, work.kind, work.prompt, length=24),
            work.prompt,
            skill=work.kind,
            lineage_id=work.subject.category,
        )
        for work in works
    }
    round.parts.ledger.prompts.add(prompts.values())
    evidence = [
        Evidence(
            prompts[work.pair_id].id,
            "screen",
            _reading(work),
            looks=(Look(work.pair_id, float(not work.cause), float(not work.is_open), work.reason),),
            student_sha256=work.files[IMAGE].sha256,
            teacher_sha256=work.files[REFERENCE].sha256,
            skill=work.kind,
            lineage_id=work.subject.category,
        )
        for work in works
    ]
    round.parts.ledger.looks.add_evidence(round.info.round_id, evidence)
    round.figures.add(evidence)
