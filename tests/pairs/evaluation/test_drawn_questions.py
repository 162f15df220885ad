"""Questions about drawn subjects: held out whole, answered to the pixel."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import yaml

import evolvedirector.configs
from evolvedirector.errors import UserError
from evolvedirector.models.part_files import built_part
from evolvedirector.pairs import DrawnSubjects
from evolvedirector.pairs.drawn.drawn_subjects import concepts_of
from evolvedirector.pairs.evaluation import DrawnQuestions
from evolvedirector.pairs.evaluation.questions import COPY, NEAREST, PASTED, TARGET, UNTOUCHED
from evolvedirector.pairs.pictures import mask_of, pixels_of
from evolvedirector.worlds.shapes.cut_outs import ShapeCutOuts

WORLD = ShapeCutOuts()


def asked(**settings: object) -> DrawnQuestions:
    given: dict[str, object] = {"subjects": 3, "image_size_px": 32, "nearest_among": 20}
    return DrawnQuestions(WORLD, **(given | settings))  # type: ignore[arg-type]


def test_a_fifth_of_the_concepts_is_held_out_whole_and_asked_about() -> None:
    trained = {subject.group for subject in DrawnSubjects(WORLD, tints=2, split="train").subjects()}
    held_out = {subject.group for subject in DrawnSubjects(WORLD, split="held_out").subjects()}
    assert not trained & held_out and trained | held_out == set(WORLD.concepts())
    assert 0.15 < len(held_out) / len(WORLD.concepts()) < 0.25
    assert {question.about.subject.group for question in asked().questions()} <= held_out
    assert {question.about.subject.group for question in asked(split="train").questions()} <= trained


def test_what_is_held_out_does_not_depend_on_what_else_a_world_lists() -> None:
    class Half(ShapeCutOuts):
        def concepts(self) -> list[str]:
            return list(super().concepts())[::2]

    assert set(concepts_of(Half(), "held_out")) == set(concepts_of(WORLD, "held_out")) & set(Half().concepts())


def test_every_question_has_its_own_id_its_ends_and_an_edit_that_differs_inside_alone() -> None:
    questions = asked().questions()
    assert len({question.prompt.id for question in questions}) == len(questions) >= 11
    assert {question.prompt.skill for question in questions} == {"place", "tint", "texture", "style"}
    for question in questions:
        assert set(question.ends) == {TARGET, COPY, PASTED, NEAREST, UNTOUCHED}
        assert question.edit is not None
        target, source = pixels_of(question.ends[TARGET]), pixels_of(question.edit["source"])
        mask = mask_of(question.edit["mask"])
        assert (target[~mask] == source[~mask]).all() and (target[mask] != source[mask]).any()
    place = next(question for question in questions if question.prompt.skill == "place")
    assert place.edit is not None
    source = pixels_of(place.edit["source"])
    assert (source == source[0, 0]).all(), "no rim tells where the subject is to stand"


def test_the_same_settings_ask_the_same_and_others_others() -> None:
    first, second = asked(), asked()
    assert [q.prompt for q in first.questions()] == [q.prompt for q in second.questions()]
    assert first.fingerprint == second.fingerprint
    others = [asked(seed=1), asked(split="train"), asked(kinds=["tint"]), asked(looks=["bold"]), asked(edits=False)]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_rivals_are_the_exact_targets_of_all_subjects_the_own_first() -> None:
    questions = asked()
    question = questions.questions()[0]
    rivals = questions.rivals(question)
    assert len(rivals) == 3 and (rivals[0] == pixels_of(question.ends[TARGET])).all()
    assert all((a != b).any() for a, b in pairwise(rivals))
    assert np.stack(rivals).dtype == np.uint8


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="subjects is 0"):
        asked(subjects=0)


def _found(tree: object, class_path: str) -> dict[str, Any]:
    """Return the first part of a class in a recipe."""
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    if isinstance(tree, dict) and tree.get("class_path") == class_path:
        return tree
    return next(filter(None, (_found(part, class_path) for part in parts)), {})


@pytest.mark.parametrize("recipe", ["method/toffee_views.yaml", "experiment/evolving_pairs.yaml"])
def test_no_recipe_trains_on_subjects_of_held_out_questions(recipe: str) -> None:
    tree = yaml.safe_load((evolvedirector.configs.path() / recipe).read_text(encoding="utf-8"))
    source = built_part(_found(tree, "evolvedirector.pairs.DrawnSubjects"), DrawnSubjects, "subjects")
    shown = {subject.group for subject in source.subjects()}
    assert shown and not shown & set(concepts_of(WORLD, "held_out"))
