"""Rounds over pairs: what a student fails is built next, within its limits, once, and a resumed run is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pairs.evolving_toys import Run

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("whole"), fails={"texture"}).fit()


def test_a_kind_that_the_student_fails_is_built_next(whole: Run) -> None:
    first, second, third = (row.figures for row in whole.rounds())

    assert first.pairs["asked"] == {"place": 6, "tint": 6, "texture": 6} and not first.screened
