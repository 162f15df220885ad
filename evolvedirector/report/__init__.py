"""The report: one page that tells what a run did, what it cost and what its student can do now."""

from evolvedirector.report.build import build_comparison, build_report
from evolvedirector.report.run_folder import RunFolder

__all__ = ["RunFolder", "build_comparison", "build_report"]
