"""What counts of what a probe saw."""

from evolvedirector.evolution.probing.sightings import Answer, Sightings
from evolvedirector.records import Prompt


def test_an_unread_look_counts_for_nothing_and_one_more_look_is_no_other_prompt() -> None:
    sightings, prompt = Sightings(), Prompt.create("a red fox", skill="s")
    for said in (None, True, False):
        sightings.add(prompt, Answer("x", said))
    assert [(seen.text, seen.failed) for seen in sightings.seen()] == [("a red fox", True)]
    assert sightings.prompts[prompt.id].tally.looked == 2 and sightings.skills()["s"].looked == 1
