"""Skills as files: what is read, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

import evolvedirector.configs
from evolvedirector.errors import UserError
from evolvedirector.records import prompt_id_of
from evolvedirector.worlds.shapes.grammar import parse, skill_of
from evolvedirector.writers.rouge import rouge_l, words_of
from evolvedirector.writers.skills import SkillPrompts, read_skill, read_skills, skill_names

PROMPTS = evolvedirector.configs.path() / "prompts"
GOOD = "name: counting\nseeds: [three red apples, two  blue\n  cups]\nrules: [Count to three.]\n"


def write(folder: Path, text: str, name: str = "skill.yaml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_a_skill_is_its_name_seeds_and_rules(tmp_path: Path) -> None:
    skill = read_skill(write(tmp_path, GOOD))
    assert (skill.name, skill.seeds, skill.rules) == (
        "counting", ("three red apples", "two blue cups"), ("Count to three.",)
    )  # fmt: skip
    assert read_skill(write(tmp_path, "name: a\nseeds: [b c]")).rules == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: counting\n", "has no seeds"),
        ("name: counting\nseeds: []\n", "has no seeds"),
        ("name: counting\nseeds: three\n", "no list of texts"),
        ("name: counting\nseeds: [3]\n", "no list of texts"),
        ('name: counting\nseeds: [a]\nrules: [""]\n', "no list of texts"),
        ("name: a/b\nseeds: [a]\n", "has the name"),
        ("seeds: [a]\n", "has the name None"),
        ("name: a\nseeds: [a]\nseed: [b]\n", "the field 'seed'"),
        ("- a\n", "holds a list"),
        ("[", "cannot be read"),
        (f"name: a\nseeds: [{'x' * 3000}]\n", "cannot be used"),
    ],
)
def test_what_is_no_skill_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read_skill(write(tmp_path, text))
    assert "skill.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_huge_is_one_sentence(tmp_path: Path) -> None:
    for path in (str(tmp_path / "none.yaml"), write(tmp_path, "#" * (2**20 + 1))):
        with pytest.raises(UserError, match="cannot be read"):
            read_skill(path)


def test_names_are_taken_once(tmp_path: Path) -> None:
    one, other = write(tmp_path, GOOD, "one.yaml"), write(tmp_path, GOOD, "other.yaml")
    assert list(read_skills([one])) == ["counting"]
    with pytest.raises(UserError, match="Two skills are called 'counting'"):
        read_skills([one, other])
    with pytest.raises(UserError, match="No skill is named"):
        read_skills([])
    assert skill_names(["position", one]) == ("position", "counting")


def test_seeds_can_be_the_first_prompts(tmp_path: Path) -> None:
    prompts = SkillPrompts([write(tmp_path, GOOD)]).prompts()
    assert [(prompt.text, prompt.skill, prompt.origin) for prompt in prompts] == [
        ("three red apples", "counting", "seed"),
        ("two blue cups", "counting", "seed"),
    ]


def test_the_papers_five_skills_are_here_with_three_unlike_seeds_and_rules_each() -> None:
    skills = read_skills([str(path) for path in sorted((PROMPTS / "selma").glob("*.yaml"))])
    assert len(skills) == 5
    for skill in skills.values():
        assert len({prompt_id_of(text) for text in skill.seeds}) == 3 and skill.rules
        words = [words_of(text) for text in skill.seeds]
        assert all(rouge_l(a, b) < 0.6 for n, a in enumerate(words) for b in words[:n]), skill.name
    assert not any(word in " ".join(skills["counting"].seeds) for word in ("four", "five", "six"))


def test_the_miniature_skills_speak_the_grammar() -> None:
    skills = read_skills([str(path) for path in sorted((PROMPTS / "selma_miniature").glob("*.yaml"))])
    assert len(skills) == 6
    assert all(skill_of(parse(text)) == skill.name for skill in skills.values() for text in skill.seeds)
