"""Skills that prompts are written for: a name, prompts to begin with, and rules, each in a YAML of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.records import Prompt
from evolvedirector.store.errors import StoreError
from evolvedirector.store.paths import user_path
from evolvedirector.store.prompt_fields import checked_prompt
from evolvedirector.store.short_yaml import read_short_yaml

_FIELDS = ("name", "seeds", "rules")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SUFFIXES = (".yaml", ".yml")
_FORM = "Allowed is a YAML with `name`, `seeds` (a list of prompts) and, if wanted, `rules` (a list of sentences)."


@dataclass(frozen=True, slots=True)
class Skill:
    """What a group of prompts exercises (SELMA, section 3.1).

    Args:
        name: Of the skill, and of its expert: letters, digits, `_` and `-`.
        seeds: Prompts written by hand; the first examples that a writer is shown.
        rules: Sentences that every prompt must keep to, for a writer that is told in words.
    """

    name: str
    seeds: tuple[str, ...]
    rules: tuple[str, ...] = ()


def read_skill(path: str | Path) -> Skill:
    """Read one skill from its YAML.

    Args:
        path: The file.

    Raises:
        UserError: It cannot be read, has no seeds, or a field of another kind.
    """
    path = user_path(path)
    content = read_short_yaml(path, "skill", _FORM)
    if not isinstance(content, Mapping):
        raise UserError(f"The skill file '{path}' holds a {type(content).__name__}. {_FORM} Write these fields.")
    unknown = sorted(map(str, set(content) - set(_FIELDS)))
    if unknown:
        raise UserError(f"The skill file '{path}' has the field {unknown[0]!r}. {_FORM} Leave it out.")
    name = content.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"The skill file '{path}' has the name {name!r}. Allowed are 1 to 64 letters, digits, `_` and `-`. Write "
            "`name: counting`, say."
        )
    seeds = tuple(_checked(text, path) for text in _texts(content, "seeds", path))
    if not seeds:
        raise UserError(
            f"The skill {name!r} in '{path}' has no seeds. At least one prompt must be there: a writer learns from it "
            "what the skill is. Write `seeds: [three red apples on a table]`, say."
        )
    return Skill(name, seeds, tuple(_texts(content, "rules", path)))


def read_skills(paths: Sequence[str | Path]) -> dict[str, Skill]:
    """Read skills by name, in their order.

    Args:
        paths: Their files.

    Raises:
        UserError: There is none, one cannot be used, or two have one name.
    """
    if not paths:
        raise UserError("No skill is named. At least one must be. Write `skills: [configs/prompts/selma/count.yaml]`.")
    skills: dict[str, Skill] = {}
    for path in paths:
        skill = read_skill(path)
        if skill.name in skills:
            raise UserError(
                f"Two skills are called {skill.name!r}, the second one in '{path}'. Each name must be there once. Give "
                "one of them another name."
            )
        skills[skill.name] = skill
    return skills


def skill_names(named: Sequence[str]) -> tuple[str, ...]:
    """Return names of skills, of which each is given as it is or as the file that has it.

    Args:
        named: Names, or paths of YAML files.

    Raises:
        UserError: A file cannot be used.
    """
    return tuple(read_skill(name).name if name.endswith(_SUFFIXES) else name for name in named)


class SkillPrompts:
    """Give the seeds of skills as the first prompts of a dataset.

    Args:
        skills: Files of the skills.
    """

    def __init__(self, skills: Sequence[str]) -> None:
        self.skills = list(skills)

    def prompts(self) -> Sequence[Prompt]:
        """List the seeds of every skill, in order.

        Raises:
            UserError: A file cannot be used.
        """
        return [
            Prompt.create(text, skill=skill.name) for skill in read_skills(self.skills).values() for text in skill.seeds
        ]


def _texts(content: Mapping[str, Any], field: str, path: Path) -> list[str]:
    found = content.get(field) or []
    if not isinstance(found, list) or not all(isinstance(text, str) and text.strip() for text in found):
        raise UserError(f"`{field}` in the skill file '{path}' is no list of texts. {_FORM} Write it as a list.")
    return [" ".join(text.split()) for text in found]


def _checked(text: str, path: Path) -> str:
    try:
        return checked_prompt(text).text
    except StoreError as error:
        raise UserError(
            f"A seed in the skill file '{path}' cannot be used: {error} Allowed are prompts. Correct it."
        ) from error
