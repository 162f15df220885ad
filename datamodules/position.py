"""Where training stands in the endless stream of one revision after another: small, exact, without ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from evolvedirector.records.buckets import BucketSize
from evolvedirector.records.subset import EVERYTHING, Subset
from evolvedirector.store import StoreError

_FORMAT = 1


@dataclass
class StreamPosition:
    """The position of a run, moved by delivered batches and by epochs."""

    global_batch_size: int
    seed: int
    buckets: tuple[BucketSize, ...] = ()
    """Sizes that images are trained in; none: squares."""
    revision_sha: str | None = None
    next_revision_sha: str | None = None
    subset: Subset = EVERYTHING
    """Samples of the revision that training reads."""
    next_subset: Subset | None = None
    """Read from the next epoch on, from its first batch; None: the same as now goes on."""
    batches_delivered: int = 0
    """In the endless stream of this revision and subset."""
    batches_in_epoch: int = 0
    _is_entered: bool = field(default=False, repr=False)
    _restored: bool = field(default=False, repr=False)
    _processed_at_delivery: int | None = field(default=None, repr=False)

    def enter_epoch(self, batches_in_epoch: int) -> bool:
        """Begin the next epoch, unless a checkpoint was just restored in the middle or at the end of one.

        Lightning asks for a loader of the checkpoint's epoch first, even when that epoch was finished, and only then
        for the next one.

        Args:
            batches_in_epoch: How many an epoch has.

        Returns:
            Whether batches will be read.
        """
        if self._restored and self.batches_in_epoch > 0:
            self._restored = False
            return self.batches_in_epoch < batches_in_epoch
        self._restored = False
        self.batches_in_epoch = 0
        self._processed_at_delivery = None
        self._is_entered = True
        self._move_on()
        return True

    def name_next(self, revision_sha: str | None = None, subset: Subset | None = None) -> None:
        """Let the next epoch read another revision or subset: at once where the present epoch has read nothing yet.

        Args:
            revision_sha: None: no other than is named already.
            subset: Begun at its first batch, also where it is the one that is read. None: as it is.
        """
        if revision_sha is not None:
            self.next_revision_sha = None if revision_sha == self.revision_sha else revision_sha
        if subset is not None:
            self.next_subset = subset
        if self._is_entered and self.batches_in_epoch == 0:
            self._move_on()

    def _move_on(self) -> None:
        if self.next_revision_sha is not None or self.next_subset is not None:
            self.batches_delivered = 0
        self.revision_sha, self.next_revision_sha = self.next_revision_sha or self.revision_sha, None
        self.subset, self.next_subset = self.next_subset or self.subset, None

    def left_in_epoch(self, batches_in_epoch: int) -> range:
        """Name the global batches that are left of the epoch."""
        left = max(0, batches_in_epoch - self.batches_in_epoch)
        return range(self.batches_delivered, self.batches_delivered + left)

    def deliver(self, processed: int | None) -> None:
        """Count one batch.

        Args:
            processed: How many batches training had finished before this one; None when nobody counts.
        """
        self.batches_delivered += 1
        self.batches_in_epoch += 1
        self._processed_at_delivery = processed

    def state_dict(self, processed: int | None) -> dict[str, Any]:
        """Return the position after the last batch that training finished.

        Args:
            processed: How many batches training has finished; a batch that was delivered but interrupted (Ctrl-C,
                an error) is not counted, so that a resume trains on it.
        """
        interrupted = int(processed is not None and processed == self._processed_at_delivery)
        return {
            "format": _FORMAT,
            "revision_sha": self.revision_sha,
            "next_revision_sha": self.next_revision_sha,
            "batches_delivered": self.batches_delivered - interrupted,
            "batches_in_epoch": self.batches_in_epoch - interrupted,
            "global_batch_size": self.global_batch_size,
            "seed": self.seed,
            **({"buckets": [list(size) for size in self.buckets]} if self.buckets else {}),
            **({} if self.subset.is_everything else {"subset": self.subset.plain()}),
            **({} if self.next_subset is None else {"next_subset": self.next_subset.plain()}),
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> StreamPosition:
        """Read what `state_dict` returned.

        Raises:
            StoreError: If another version wrote it.
        """
        fields = {name: value for name, value in state.items() if name != "format"}
        fields["buckets"] = tuple((width_px, height_px) for width_px, height_px in state.get("buckets", ()))
        for name in ("subset", "next_subset"):
            if name in state:
                fields[name] = Subset(**state[name])
        if state.get("format") != _FORMAT:
            raise StoreError(
                f"The checkpoint's data position has format {state.get('format')}. This program reads {_FORMAT}."
                " Use the version of evolvedirector that wrote it."
            )
        return cls(**fields, _restored=True)

    def check_same_stream(self, global_batch_size: int, seed: int, buckets: tuple[BucketSize, ...] = ()) -> None:
        """Refuse to go on with another batch size, seed or buckets: the order would silently be another one.

        Raises:
            StoreError: With what to write.
        """
        for name, own, given in (
            ("global_batch_size", self.global_batch_size, global_batch_size),
            ("seed", self.seed, seed),
            ("buckets", [list(size) for size in self.buckets], [list(size) for size in buckets]),
        ):
            if own != given:
                raise StoreError(
                    f"The checkpoint was trained with {name} {own}, but the configuration says {given}. A resumed run"
                    f" must keep it, else samples would be skipped or repeated. Write `data.init_args.{name}: {own}`,"
                    " or start a new run (without --ckpt_path)."
                )
