from collections import Counter

from evolvedirector.evaluation.prompt_choice import spread_over_skills
from evolvedirector.records import Prompt

PROMPTS = [Prompt.create(f"tone {tone}", skill="many" if tone < 20 else "few") for tone in range(23)]


def test_skills_get_equal_parts_as_far_as_they_reach() -> None:
    assert Counter(p.skill for p in spread_over_skills(PROMPTS, 4, 0)) == {"many": 2, "few": 2}
    assert Counter(p.skill for p in spread_over_skills(PROMPTS, 10, 0)) == {"many": 7, "few": 3}
    assert len(spread_over_skills(PROMPTS, 99, 0)) == 23


def test_the_choice_follows_from_the_seed_and_not_from_the_order() -> None:
    assert spread_over_skills(PROMPTS, 6, 1) == spread_over_skills(PROMPTS[::-1], 6, 1)
    assert spread_over_skills(PROMPTS, 6, 1) != spread_over_skills(PROMPTS, 6, 2)
