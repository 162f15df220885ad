"""The one exception of asset handling."""

from __future__ import annotations

from evolvedirector.errors import RunError


class AssetError(RunError):
    """Say in one paragraph why an asset cannot be obtained or read, and what to do instead."""
