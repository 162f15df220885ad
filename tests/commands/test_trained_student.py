"""A student out of its run: what cannot be found is told in the words of the commands that look for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolvedirector.commands.trained_student import trained_student


def test_a_run_without_a_finished_checkpoint_is_told_without_options_of_other_commands(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ValueError, match=r"has no finished checkpoint.*Run `evolvedirector fit`") as told:
        trained_student(tmp_path, True, [])
    assert "--ckpt_path" not in str(told.value)


@pytest.mark.parametrize("words", [["--ckpt_path", "last"], ["--ckpt_path=last"]])
def test_a_checkpoint_is_named_in_place_of_the_run(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ValueError, match=r"--ckpt_path is no option here.*Write the path of a checkpoint"):
        trained_student(tmp_path, True, words)


def test_where_nothing_lies(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Nothing lies at .*none"):
        trained_student(tmp_path / "none", True, [])
    with pytest.raises(ValueError, match=r"No run lies at "):
        trained_student(tmp_path, True, [])
