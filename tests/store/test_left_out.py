"""What is left out is read by people: the first lines, all in a file, nothing that a terminal obeys."""

from __future__ import annotations

from pathlib import Path

from evolvedirector.store.left_out import first_lines, printable, write_list


def test_names_cannot_command_a_terminal() -> None:
    assert printable("é [b]x[/b] \x1b[2J\n\udce9") == "é [b]x[/b] \\x1b[2J\\n\\udce9"


def test_the_first_are_shown_and_all_are_written(tmp_path: Path) -> None:
    problems = [f"{n}: \ud83d" for n in range(21)]
    shown = first_lines(problems).splitlines()
    assert len(shown) == 21 and shown[0] == "left out: 0: \\ud83d" and shown[-1] == "... and 1 more"
    path = write_list(tmp_path / "runs" / "data", problems)
    assert path == tmp_path / "runs" / "data.left_out.txt" and len(path.read_text("utf-8").splitlines()) == 21
    write_list(tmp_path / "runs" / "data", [])
    assert not path.exists()
