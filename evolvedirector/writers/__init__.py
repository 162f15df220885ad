"""Writers of new prompts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evolvedirector.writers.prompt_writer import PromptWriter

if TYPE_CHECKING:
    from evolvedirector.writers.openai_chat_writer import OpenAIChatWriter
    from evolvedirector.writers.skill_writer import SkillWriter
    from evolvedirector.writers.skills import SkillPrompts
    from evolvedirector.writers.transformers_writer import TransformersWriter

# Imported when asked for: they bring an HTTP client or torch.
_FILES = {
    "OpenAIChatWriter": "openai_chat_writer",
    "SkillPrompts": "skills",
    "SkillWriter": "skill_writer",
    "TransformersWriter": "transformers_writer",
}

__all__ = ["OpenAIChatWriter", "PromptWriter", "SkillPrompts", "SkillWriter", "TransformersWriter"]


def __getattr__(name: str) -> Any:
    """Import a writer when it is asked for."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
