"""What judges ask: closed questions about images, and prompts split into questions."""

from typing import Any

from evolvedirector.renamed import old_attribute


def __getattr__(name: str) -> Any:
    return old_attribute(__name__, name)
