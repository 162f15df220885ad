"""Build subject pairs at any scale: what is made is remembered, whatever happens to the process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from evolvedirector.errors import RunError, UserError
from evolvedirector.execution.executor import Cluster, Executor, Phase
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.pairs.pair_book import PairBook, PairRow
from evolvedirector.pairs.pair_budget import PairBudget
from evolvedirector.pairs.pair_figures import PairFigures
from evolvedirector.pairs.pair_records import (
    IMAGE,
    KINDS,
    MASK,
    REFERENCE,
    REFERENCE_MASK,
    SOURCE,
    ChangeKind,
    StageName,
)
from evolvedirector.pairs.pair_work import PairPass, PairWork
from evolvedirector.pairs.stage_run import StageRun
from evolvedirector.pairs.stages import (
    DraftStage,
    FilterStage,
    MaskStage,
    PromptStage,
    RefineStage,
    SubjectSource,
    ViewStage,
)
from evolvedirector.pairs.thresholds import Thresholds, check_thresholds
from evolvedirector.pairs.unchanged import Unchanged
from evolvedirector.pairs.wishes import MadePairs, PairWish
from evolvedirector.records import FileRef, Prompt, RevisionChange, Sample, digest, seed_of
from evolvedirector.records.part import Part, close_parts, verify_parts
from evolvedirector.records.subject_roles import SUBJECT_BOX
from evolvedirector.store import DatasetStore
from evolvedirector.store.codec import canonical_json

TEACHER = "pairs"
"""Who made the picture of a pair, in the description of its sample; the stages stand in its file `pair.json`."""
ABOUT = "pair"
"""Role of the JSON file that says all about a pair: subject, change, scores, seeds, fingerprints of the stages."""
ALL_REJECTED_AFTER = 64
PAIRS_PER_REVISION = 4096
"""Kept pairs that wait for a revision at most; the book has them durably already."""
_PLACE = "pairs.builder."
"""Before the name of a stage: where it is written in the config of a run, and where a cluster has a place for it."""


class SubjectPairBuilder:
    """Make pairs of one subject: a reference, and a picture in which something about it has changed, as its text says.

    The stages `subjects -> prompt -> draft -> refine -> view -> mask -> filter`, then the record: a draft shows the
    change without the subject's detail, the refiner brings that in, and the filter keeps what is right. No stage is
    trained for a subject, so that cost grows in proportion to the number of subjects (Zhou et al. 2024, "Toffee",
    arXiv 2406.09305). The paper does not publish prompts, thresholds or how editing pairs are composed: those are
    ours.

    Example:
        ```yaml
        class_path: evolvedirector.pairs.SubjectPairBuilder
        init_args:
          subjects: {class_path: evolvedirector.pairs.DrawnSubjects, init_args: {world: ...}}
        ```
    """

    def __init__(
        self,
        subjects: SubjectSource,
        prompt: PromptStage,
        draft: DraftStage,
        mask: MaskStage,
        filter: FilterStage,
        thresholds: dict[str, dict[str, float]],
        refine: RefineStage | None = None,
        view: ViewStage | None = None,
        kinds: list[ChangeKind] | None = None,
        pairs_per_kind: int = 1,
        editing_share: float = 1 / 3,
        image_size_px: int = 512,
        seed: int = 0,
        most_subjects: int | None = None,
        most_kept: int | None = None,
        near_bits: int = 4,
        several_share: float | None = 0.5,
        budget: PairBudget | None = None,
        pairs_per_pass: int = 256,
        batch: int = 32,
        cluster: Cluster | None = None,
    ) -> None:
        """Choose the stages and what is to be made.

        Args:
            subjects: Where subjects come from.
            prompt: Who writes what a pair is to show.
            draft: Who draws that.
            mask: Who finds the subject in a picture.
            filter: Who measures how far a pair is right.
            thresholds: Least scores by kind of change: `tint: {identity: 0.6, change: 0.5}`.
            refine: Who brings the subject's detail into the draft. None: drafts stay as they are.
            view: Who shows the subject from elsewhere. None: no pairs of the kind `view`.
            kinds: Of change: place, tint, texture, style, view. None: the first four, and `view` where there is one.
            pairs_per_kind: Pairs of each subject and kind.
            editing_share: Of the pairs that carry a mask and a source, 0 to 1; the paper's set has a third.
            image_size_px: Side of the pictures.
            seed: Of every draw.
            most_subjects: Take the first so many of the source. None: all.
            most_kept: Stop when so many pairs are kept. None: all are built.
            near_bits: Kept pictures of one subject differ in more bits than this of their 320-bit hash.
            several_share: A subject whose mask has a second area of at least this share of its largest is refused: the
                picture shows several. None: not looked at, for worlds that draw one thing of several parts.
            budget: What the stages may use up. None: no limit.
            pairs_per_pass: Pairs that go through the stages together; each pass ends in a revision of the dataset.
            batch: Requests that a stage is handed at once; between them a build may stop.
            cluster: Where stages work in `pairs build`, by `pairs.builder.draft` and the like: a `RayCluster`. In
                rounds that of `EvolutionCallback` counts. None: here.

        Raises:
            UserError: Something is out of range, a kind lacks its thresholds or its stage, or the cluster names none.
        """
        self.kinds: tuple[ChangeKind, ...] = tuple(kinds or [k for k in KINDS if k != "view" or view is not None])
        self.stages: dict[StageName, Part] = {
            "subjects": subjects,
            "prompt": prompt,
            "draft": draft,
            "refine": refine or Unchanged(),
            "mask": mask,
            "filter": filter,
        }
        if view is not None:
            self.stages["view"] = view
        self.source = subjects
        self.thresholds = thresholds
        self.pairs_per_kind, self.editing_share = pairs_per_kind, editing_share
        self.image_size_px, self.seed = image_size_px, seed
        self.most_subjects, self.most_kept = most_subjects, most_kept
        self.near_bits, self.several_share = near_bits, several_share
        self.budget = budget or PairBudget()
        self.pairs_per_pass, self.batch = pairs_per_pass, batch
        self.cluster = cluster
        self._check()

    def _check(self) -> None:
        numbers: tuple[tuple[str, float, float, float], ...] = (
            ("pairs_per_kind", self.pairs_per_kind, 1, 1000),
            ("editing_share", self.editing_share, 0, 1),
            ("image_size_px", self.image_size_px, 16, 4096),
            ("near_bits", self.near_bits, 0, 320),
            ("pairs_per_pass", self.pairs_per_pass, 1, 100_000),
            ("batch", self.batch, 1, 4096),
        )
        for name, value, low, high in numbers:
            if not low <= value <= high:
                raise UserError(f"{name} is {value}. Allowed are {low} to {high}. Write `{name}: {max(low, 1)}`, say.")
        if "view" in self.kinds and "view" not in self.stages:
            raise UserError(
                "kinds names 'view', but there is no view stage. Allowed is 'view' where `view:` names a stage. Write"
                " one, such as evolvedirector.pairs.TurnedView, or leave 'view' out."
            )
        check_thresholds(self.thresholds, self.kinds)
        places = [f"{_PLACE}{stage}" for stage in self.stages]
        if strange := sorted(set(() if self.cluster is None else self.cluster.placed) - set(places)):
            raise UserError(
                f"The cluster has a place for {strange[0]!r}, which is no stage. Allowed are {', '.join(places)}. "
                f"Write `placements: {{{_PLACE}draft: {{replicas: 2}}}}`, say."
            )

    def parts(self) -> Mapping[str, Part]:
        """Name each stage, so that it is verified before anything is spent."""
        return {str(stage): part for stage, part in self.stages.items()}

    @property
    def fingerprint(self) -> str:
        """Name everything on which a pair depends: stages, thresholds, size and seed."""
        stages = [part for stage, owner in sorted(self.stages.items()) for part in (stage, owner.fingerprint)]
        rules = json.dumps(self.thresholds, sort_keys=True)
        sizes = (self.image_size_px, self.seed, repr(self.editing_share), self.near_bits, repr(self.several_share))
        return digest("pair builder 1", rules, *sizes, *stages)

    def build(
        self, store: DatasetStore, executor: Executor | None = None, note: Callable[[str], None] | None = None
    ) -> PairFigures:
        """Make what is missing, pass by pass, and publish the kept pairs of each as samples of the dataset.

        Killed at any moment, it goes on where it was: an answer that was recorded is never asked for again, a pair that
        was kept is published once.

        Args:
            store: An open dataset root.
            executor: Who carries requests to the stages. None: this process, one model in memory at a time, but for
                what the cluster has a place for.
            note: Is told one line after each pass. None: nobody.

        Raises:
            UserError: No subject can be used, or a stage cannot work.
            RunError: A stage refuses everything, or the filter rejects everything.
        """
        try:
            verify_parts(*self.stages.values(), *([] if self.cluster is None else [self.cluster]))
            local = LocalExecutor(self.tenants(), unit=self.batch)
            spread = local if self.cluster is None else self.cluster.over(local, local.place_of)
            return self._build(store, executor or spread, note)
        finally:
            close_parts(*self.stages.values(), self.cluster)

    def _build(self, store: DatasetStore, executor: Executor, note: Callable[[str], None] | None) -> PairFigures:
        with PairBook.for_writing(store.root) as book:
            self._publish(store, book)
            run = self.run_over(store, book, executor)

            def passed(made: MadePairs) -> None:
                if book.unpublished_count() >= PAIRS_PER_REVISION:
                    self._publish(store, book)
                if note is not None:
                    note(PairFigures.of(book.counts(), run.spend).lines()[0])
                self._refuse_all_rejected(made)

            made = MadePairs()
            self.make(run, self._planned(), made, self.most_kept, passed)
            self._publish(store, book)
            failures = {f"{stage}: {reason}": count for (stage, reason), count in run.failures.items()}
            return PairFigures.of(
                book.counts(), book.spend(), open_pairs=made.open, held_back=dict(run.held_back), failures=failures
            )

    def run_over(
        self, store: DatasetStore, book: PairBook, executor: Executor, check: Callable[[], None] = lambda: None
    ) -> StageRun:
        """Return who asks the stages, within the budget.

        Args:
            store: The dataset root.
            book: Of that root.
            executor: Who carries requests to the stages.
            check: Called between units of work; raises where the work is to stop.
        """
        return StageRun(book, store.blobs, executor, self.budget, spend=dict(book.spend()), check=check)

    def stages_over(self, run: StageRun, thresholds: Thresholds | None = None, **others: Part) -> PairPass:
        """Return the stages with what is applied to their answers.

        Args:
            run: Asks them.
            thresholds: By kind of change. None: the builder's.
            others: In place of stages, or beside them, by name.
        """
        stages: dict[Any, Part] = {**self.stages, **others}
        sizes = (self.image_size_px,) * 2
        return PairPass(run, stages, sizes, thresholds or self.thresholds, self.near_bits, self.several_share)

    def make(
        self,
        run: StageRun,
        wishes: Iterable[PairWish],
        made: MadePairs,
        most_kept: int | None = None,
        passed: Callable[[MadePairs], None] = lambda made: None,
    ) -> None:
        """Make the pairs that are wished for, as far as the budget reaches; what was decided before is not made again.

        Nothing is published.

        Args:
            run: Asks the stages.
            wishes: Pairs, in their order.
            made: Told after each pass what became of its pairs.
            most_kept: Stop when so many of them are kept. None: all are made.
            passed: Called after each pass with what was made so far.

        Raises:
            StageRefusesAll: A stage refuses everything.
        """
        taken = self.stages_over(run)
        wished = iter(wishes)
        while part := list(islice(wished, self.pairs_per_pass)):
            if most_kept is not None and len(made.kept) >= most_kept:
                break
            works = [self._work(wish) for wish in part]
            decided = run.book.rows([work.pair_id for work in works])
            left = [work for work in works if work.pair_id not in decided]
            rows = taken.take(left) if left else []
            run.book.record(rows)
            made.add([*decided.values(), *rows], len(left) - len(rows))
            if left:
                passed(made)
                if self._is_too_dear(run):
                    break

    def samples_of(self, store: DatasetStore, rows: Sequence[PairRow]) -> list[Sample]:
        """Make samples of kept pairs; the file that says all about each is durable then.

        Args:
            store: The dataset root.
            rows: Kept pairs, whose files are there.
        """
        about = [FileRef.of(canonical_json(_about(row)), "application/json") for row in rows]
        return [_sample(row, file) for row, file in zip(rows, store.blobs.put_files(about), strict=True)]

    def tenants(self) -> dict[Phase, dict[str, Part]]:
        """Say which stage is asked in which phase; those of other phases let go of their memory when one begins."""
        phases: dict[Phase, list[StageName]] = {
            "write": ["subjects", "prompt"],
            "teach": ["draft", "refine", "view"],
            "score": ["mask", "filter"],
        }
        return {
            phase: {f"{_PLACE}{stage}": self.stages[stage] for stage in stages if stage in self.stages}
            for phase, stages in phases.items()
        }

    def _planned(self) -> Iterator[PairWish]:
        """Plan every subject, in the order of the source."""
        listed = self.source.subjects()[: self.most_subjects]
        if not listed:
            raise UserError(
                "The source lists no subject. Allowed are one or more. Name a folder with pictures, or another source."
            )
        kinds = [(kind, number) for kind in self.kinds for number in range(self.pairs_per_kind)]
        return (PairWish(subject, kind, number) for subject in listed for kind, number in kinds)

    def _work(self, wish: PairWish) -> PairWork:
        named = (self.source.fingerprint, wish.subject.name, wish.kind, wish.number)
        pair_id = digest("pair", self.fingerprint, *named, length=24)
        lot = seed_of("use", self.seed, *named) / 2**63
        seed = seed_of("pair", self.seed, *named)
        return PairWork(pair_id, wish.subject, wish.kind, "editing" if lot < self.editing_share else "generation", seed)

    def _is_too_dear(self, run: StageRun) -> bool:
        counts = run.book.counts()
        kept = sum(count for (_, _, status, _), count in counts.items() if status == "kept")
        if limit := self.budget.too_dear(sum(counts.values()), kept, run.spend):
            run.held_back[limit] += 1
        return bool(limit)

    def _refuse_all_rejected(self, made: MadePairs) -> None:
        if len(made.rejected) < ALL_REJECTED_AFTER or made.kept:
            return
        cause = Counter(row.cause for row in made.rejected).most_common(1)[0][0]
        reason = next(row.body["reason"] for row in made.rejected if row.cause == cause)
        raise RunError(
            f"All {len(made.rejected)} pairs were rejected, most of them for '{cause}': {reason.rstrip('.')}. Allowed"
            " is a build that keeps some. Look at them with `evolvedirector pairs show`, then change the thresholds,"
            " the subjects or the stage."
        )

    def _publish(self, store: DatasetStore, book: PairBook) -> None:
        """Publish the kept pairs that no revision has yet, also those of a build that was killed before it could."""
        rows = book.unpublished()
        if not rows:
            return
        current = store.current()
        there: set[str] = set()
        if current is not None:
            entries = store.state(current).entries.values()
            there = {sample.variant for entry in entries for sample in entry.samples}
        whole = [row for row in rows if row.pair_id in there or _has_files(store, row)]
        book.forget([row.pair_id for row in rows if row not in whole])  # decided anew: what is gone is made again
        if missing := [row for row in whole if row.pair_id not in there]:
            round_id = f"pairs:{digest(*(row.pair_id for row in missing))}"
            store.publish(current, round_id, RevisionChange(samples=tuple(self.samples_of(store, missing))))
        book.mark_published([row.pair_id for row in whole])


def _has_files(store: DatasetStore, row: PairRow) -> bool:
    """Whether the files of a pair are there with their own content; one that was changed is taken away."""
    return all([store.blobs.is_whole(FileRef(**about).sha256) for about in row.body["files"].values()])


def _about(row: PairRow) -> dict[str, Any]:
    return {"pair_id": row.pair_id, **{name: value for name, value in row.body.items() if name != "reason"}}


def _sample(row: PairRow, about: FileRef) -> Sample:
    roles: Sequence[str] = (REFERENCE, REFERENCE_MASK, *((SOURCE, MASK) if row.use == "editing" else ()))
    roles = (*roles, *(role for role in (SUBJECT_BOX,) if role in row.body["files"]))
    files = {role: FileRef(**row.body["files"][role]) for role in roles} | {ABOUT: about}
    prompt = Prompt.create(row.body["prompt"], skill=row.kind)
    image = row.body["files"][IMAGE]["sha256"]
    return Sample.create(prompt, image, TEACHER, files, variant=row.pair_id)
