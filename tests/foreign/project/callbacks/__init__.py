"""The project's own callbacks: they happen to have the name of a folder of ours."""

from .counter import StepCounter

__all__ = ["StepCounter"]
