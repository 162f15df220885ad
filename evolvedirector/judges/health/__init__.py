"""How far a judge can be trusted: gold sets, calibration, the report of a check."""

from typing import Any

from evolvedirector.renamed import old_attribute


def __getattr__(name: str) -> Any:
    return old_attribute(__name__, name)
