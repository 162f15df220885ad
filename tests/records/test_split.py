"""What validates and what is trained on: each text in one of them, under whatever ids it stands."""

from __future__ import annotations

from pathlib import Path

from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.records.split import Split
from evolvedirector.store import DatasetStore, RevisionReader
from tests.store.sample_files import picture


def test_one_text_under_several_ids_is_in_one_part(tmp_path: Path) -> None:
    texts = [f"thing {number}" for number in range(20)]
    with DatasetStore(tmp_path / "data", create=True) as store:
        image = store.blobs.put(picture(1))
        prompts = [Prompt(f"{number:02}{copy}", text) for number, text in enumerate(texts) for copy in "ab"]
        samples = [Sample.create(prompt, image, "given") for prompt in prompts]
        sha = store.publish(None, "import", RevisionChange(samples=tuple(samples)))
    parts = [
        {str(key)[:2] for key in RevisionReader(tmp_path / "data", sha, split=Split(0.4, 1, validates)).keys}
        for validates in (False, True)
    ]
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == 20 and min(map(len, parts)) > 3


def test_case_and_space_make_no_other_text() -> None:
    split = Split(0.5, 0)
    assert all(split.takes(f"a Red  thing {n}") == split.takes(f"A red thing {n}") for n in range(20))
