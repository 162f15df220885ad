"""A labelled gold set on disk: read as labelled, and refused line by line where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evolvedirector.judges import GoldFile, GoldSource, check_gold
from evolvedirector.records import GoldItem
from evolvedirector.store.errors import StoreError
from tests.toys import flat_png


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gold" / "images").mkdir(parents=True)
    for tone in (10, 200):
        (tmp_path / "gold" / "images" / f"{tone}.png").write_bytes(flat_png(tone))
    (tmp_path / "outside.png").write_bytes(flat_png(99))
    return tmp_path / "gold"


def line(image: object = "images/10.png", prompt: object = "tone 10", shows: object = True) -> str:
    return json.dumps({"image": image, "prompt": prompt, "shows": shows})


GOOD = [line(), line(shows=False, prompt="tone 200")]


def gold_of(folder: Path, *lines: str) -> GoldFile:
    (folder / "gold.jsonl").write_text("\n".join(lines) + "\n")
    return GoldFile(str(folder / "gold.jsonl"))


def test_reads_what_was_labelled(folder: Path) -> None:
    gold = gold_of(folder, line(), "", line("images/200.png", "  tone  10 ", False))
    assert isinstance(gold, GoldSource)
    items = gold.items()
    assert [(item.prompt, item.shows) for item in items] == [("tone 10", True), ("tone 10", False)]
    assert items[1].image == flat_png(200)
    assert len({item.item_id for item in items}) == 2


def test_reads_the_files_once(folder: Path) -> None:
    gold = gold_of(folder, *GOOD)
    first = gold.items()
    (folder / "gold.jsonl").unlink()
    assert gold.items() == first


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        ("{", "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ("[" * 100_000, "no JSON object"),
        ('{"prompt": "tone 10", "shows": true}', "`image` is null"),
        (line(shows="yes"), '`shows` is "yes". Allowed is true or false'),
        (line(shows=1), "`shows` is 1"),
        (line(prompt=" "), "the prompt has 0 characters"),
        (line(prompt="x" * 5000), "the prompt has 5000 characters"),
        (line("images/none.png"), "cannot be read"),
        (line("images"), "is no file"),
        (line("images/text.png"), "no image"),
        (line("images/cut.png"), "damaged or cut short"),
        (line("a\0b"), "cannot be read"),
        (line("../outside.png"), "outside of the folder"),
        (line("/etc/hostname"), "outside of the folder"),
        (line("images/link.png"), "outside of the folder"),
        (line(shows=False), "the other answer"),
    ],
)
def test_names_the_damaged_line(folder: Path, damaged: str, reason: str) -> None:
    (folder / "images" / "text.png").write_text("no picture at all")
    (folder / "images" / "cut.png").write_bytes(flat_png(10)[:50])
    (folder / "images" / "link.png").symlink_to(folder.parent / "outside.png")
    with pytest.raises(StoreError) as caught:
        gold_of(folder, *GOOD, damaged).items()
    assert "1 of 4 lines" in str(caught.value)
    assert "line 3: " in str(caught.value)
    assert reason in str(caught.value)


def test_names_all_damaged_lines(folder: Path) -> None:
    with pytest.raises(StoreError, match=r"line 2(.|\n)*line 3"):
        gold_of(folder, line(), "{", line("images/none.png")).items()


def test_a_missing_list_and_a_long_one_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        GoldFile(str(folder / "none.jsonl")).items()
    monkeypatch.setattr("evolvedirector.judges.health.gold_file.MAX_ITEMS", 1)
    with pytest.raises(StoreError, match="Allowed are 1"):
        gold_of(folder, *GOOD, *GOOD).items()


def test_images_in_all_are_capped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolvedirector.judges.health.gold_file.MAX_TOTAL_BYTES", len(flat_png(10)))
    with pytest.raises(StoreError, match="by line 2"):
        gold_of(folder, *GOOD).items()


@pytest.mark.parametrize("shows", [True, False])
def test_a_set_with_one_answer_is_refused(folder: Path, shows: bool) -> None:
    with pytest.raises(ValueError, match=f"All 2 items of the gold set have `shows: {str(shows).lower()}`"):
        gold_of(folder, line(shows=shows), line("images/200.png", shows=shows)).items()


def test_an_empty_set_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="empty"):
        gold_of(folder, "").items()


def test_a_set_with_both_answers_is_accepted() -> None:
    check_gold([GoldItem("a", b"", "x", True), GoldItem("b", b"", "x", False)])
