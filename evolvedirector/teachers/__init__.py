"""Image sources that the student approaches."""

from evolvedirector.teachers.teacher import Teacher

__all__ = ["Teacher"]
