import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "README.md"


def test_every_test_that_the_page_names_exists() -> None:
    root = PAGE.parents[1]
    named = re.findall(r"\| (tests/\S+\.py)(?:::(\w+))? \|$", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    rows = re.findall(r"^\| (?!kind|-)", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    assert len(named) == len(rows) > 50, "a row names no test"
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (root / path).is_file() or (name and f"def {name}(" not in (root / path).read_text("utf-8"))
    ]
    assert not missing
