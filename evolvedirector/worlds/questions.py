"""Questions about a prompt by rule, without any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evolvedirector.judges.questions.english_questions import EnglishQuestions
from evolvedirector.judges.questions.prompt_questions import MAX_QUESTIONS, PromptQuestion
from evolvedirector.worlds.shapes.atoms import atoms_of
from evolvedirector.worlds.shapes.grammar import parse


class GrammarQuestions:
    """Split prompts into questions by rule: prompts of the miniature world exactly, plain English modestly.

    It costs nothing and is the same on every machine. For long or figurative prompts take `ModelQuestions`.

    Args:
        most: Questions per prompt at most.

    Raises:
        UserError: Less than one question.
    """

    def __init__(self, most: int = MAX_QUESTIONS) -> None:
        self._english = EnglishQuestions(most)  # refuses less than one question
        self.most = most

    @property
    def fingerprint(self) -> str:
        """Name the rules."""
        return f"grammar-questions-1/{self.most}"

    def questions(self, prompts: Sequence[str]) -> Iterator[tuple[PromptQuestion, ...]]:
        """Yield, per prompt in order, one question or more.

        Args:
            prompts: Any texts.
        """
        for prompt in prompts:
            yield _of_scene(prompt, self.most) or next(self._english.questions([prompt]))

    def close(self) -> None:
        """Do nothing: there is no memory to free."""


def _of_scene(prompt: str, most: int) -> tuple[PromptQuestion, ...]:
    """Ask the questions of the miniature grammar; none where the prompt is outside of it or has too many."""
    try:
        atoms = atoms_of(parse(prompt))
    except ValueError:
        return ()
    return tuple(PromptQuestion(atom.kind, atom.question) for atom in atoms) if len(atoms) <= most else ()
