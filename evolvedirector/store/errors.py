"""What can go wrong with a dataset on disk, as two exceptions whose messages say what to do."""

from __future__ import annotations

from evolvedirector.errors import RunError


class StoreError(RunError):
    """Say that a dataset root, file or image cannot be used as asked."""


class DiskFullError(StoreError):
    """Say that the disk is full; everything published before stays readable and the same command can go on later."""
