"""What can go wrong with a dataset on disk, as two exceptions whose messages say what to do."""

from __future__ import annotations

from evolvedirector.errors import RunError


class StoreError(RunError):
    """Say that a dataset root, file or image cannot be used as asked."""


class MissingRoleError(StoreError):
    """Say that samples lack a file that is to be read of each.

    Args:
        message: What is wrong and what to do.
        role: Of the file.
        missing: Samples without it.
        samples: All that are read.
    """

    def __init__(self, message: str, role: str, missing: int, samples: int) -> None:
        super().__init__(message)
        self.role, self.missing, self.samples = role, missing, samples


class DiskFullError(StoreError):
    """Say that the disk is full; everything published before stays readable and the same command can go on later."""
