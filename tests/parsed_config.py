"""A command line that is parsed and not run: what tests of recipes and documented commands need."""

from __future__ import annotations

from evolvedirector.commands.lightning_cli import EvolveDirectorCLI


class ParsedConfig(EvolveDirectorCLI):
    """Parse a command line as the real one does, but build and run nothing; the result is `.config`."""

    def _set_seed(self) -> None:
        """Leave the process's random state alone."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""
