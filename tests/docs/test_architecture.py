"""The page on architecture names what is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def generated() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_name_stands_in_the_file_that_its_link_opens() -> None:
    links = generated().code_links(PAGE)
    assert len(links) >= 20
    for name, path in links:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^(?:def|class) {name}\b", source, flags=re.MULTILINE), f"{path} has no {name}"


def test_the_length_of_the_path_is_counted_not_written() -> None:
    row = re.search(r"\| now \| (\d+) \| ([\d,]+) \|", generated().main_path())
    assert row is not None
    assert 12 <= int(row[1]) < 36 and 2_000 < int(row[2].replace(",", "")) < 6_100
    assert "generated: main_path" in PAGE and "generated:" not in generated().on_page_markdown(PAGE)


def test_the_site_links_into_no_code() -> None:
    assert ".py)" in PAGE and "](../" not in generated().on_page_markdown(PAGE)
