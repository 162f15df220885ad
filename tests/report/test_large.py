"""A hundred thousand samples: the page stays small and says what it leaves out."""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path

import pytest

from evolvedirector.records import Prompt, RoundFigures
from evolvedirector.report import RunFolder, build_report
from evolvedirector.store import DatasetStore, RevisionFiles
from tests import toys

SAMPLES = 100_000
MAX_PAGE_BYTES = 20 * 2**20
MAX_MORE_MEMORY_BYTES = 600 * 2**20


def large_run(folder: Path) -> Path:
    """Write the rows of a large dataset at once; its images repeat, since only their number matters here."""
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"images_seen": 10**6, "rounds": 1}))
    with DatasetStore(folder / "data", create=True) as store:
        images = store.blobs.put_many([toys.flat_png(tone) for tone in range(256)])
        prompts, families = [], 1000
        for number in range(SAMPLES):
            parent = prompts[number - families] if number >= families else None
            origin = "expansion" if parent else "seed"
            text = f"a scene with {number} things beside a fence, seen from the north"
            prompts.append(Prompt.create(text, origin, f"skill {number % 7}", parent))  # type: ignore[arg-type]
        ledger = store.ledger
        ledger.prompts.add(prompts)
        ledger.rounds.open("one", 0, "none", 10)
        look = {"item_id": "a", "probability": 0.25, "covered_mass": 1.0, "reason": ""}
        with ledger.file.transaction() as connection:
            connection.executemany(
                "INSERT INTO calls (request_id, round_id, prompt_id, lineage_id, teacher, status, image_sha256, "
                "cost_usd, price_usd) VALUES (?,'one',?,?,'toy','image',?,0.01,0.01)",
                [(p.id, p.id, p.lineage_id, images[n % 256]) for n, p in enumerate(prompts)],
            )
            body = {"looks": [look, look]}
            connection.executemany(
                "INSERT INTO evidence (round_id, prompt_id, kind, image_sha256, verdict, body) "
                "VALUES ('one',?,'compare','','teacher',?)",
                [
                    (p.id, json.dumps({**body, "student_sha256": images[-n % 256], "teacher_sha256": images[n % 256]}))
                    for n, p in enumerate(prompts)
                ],
            )
        samples = [
            {"key": p.id, "prompt_id": p.id, "image_sha256": images[n % 256], "teacher": "toy", "shard": "s",
             "ordinal": n, "width_px": 8, "height_px": 8}
            for n, p in enumerate(prompts)
        ]  # fmt: skip
        rows = [{"id": p.id, "text": p.text, "lineage_id": p.lineage_id} for p in prompts]
        files = RevisionFiles(store.root)
        sha = files.write(
            {"number": 1, "parent": None, "round_id": "one", "prompts": rows, "samples": samples, "shards": [],
             "states": {}, "skill_weights": None, "replay_share": None}
        )  # fmt: skip
        ledger.rounds.record_revision(sha, 1, None, "one")
        ledger.rounds.close("one", sha, RoundFigures(written=SAMPLES))
        files.set_current(sha)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_thousand_samples_make_a_small_page(tmp_path: Path) -> None:
    run = RunFolder.open(large_run(tmp_path / "large"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    page = build_report(run)
    more_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert len(page) < MAX_PAGE_BYTES and more_bytes < MAX_MORE_MEMORY_BYTES
    assert "Showing 500 of 100,000, spread evenly over the run." in page
    shown = re.search(r"1,000 families, 100,000 prompts: .*?Showing ([\d,]+) of 100,000", page, flags=re.DOTALL)
    assert shown is not None and int(shown[1].replace(",", "")) == 20_000
    assert "100,000 calls" in page and "100,000" in page
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert len(data["pairs"]["pairs"]) == 500 and len(data["lineage"]["nodes"]) == 20_000
