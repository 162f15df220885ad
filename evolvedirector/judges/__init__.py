"""Judges that compare images and check them against prompts."""

from evolvedirector.judges.judge import Judge

__all__ = ["Judge"]
