"""Writers of new prompts."""

from evolvedirector.writers.prompt_writer import PromptWriter

__all__ = ["PromptWriter"]
