"""The page's part on experts: the matrix, pictures, merges, gates, candidates; no text of it can change the page."""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

from evolvedirector.evaluation.arm_table import ArmKind, ArmRecord, ArmTable, picture_path, table_path, write_table
from evolvedirector.records import Decision, Evidence, ImageReply, Prompt, RevisionChange, RoundFigures, Sample
from evolvedirector.report import RunFolder, build_report
from evolvedirector.store.ledger import Call
from tests.report_runs import HOSTILE, RunBuilder
from tests.toys import flat_png

NAMES = ["sharp", "bright"]


def table_of(run: Path, texts: list[str], odd: str = "") -> ArmTable:
    """Arms of all kinds: an expert raises its own aspect, and one of them lowers the other."""
    prompts = {f"p{place}": Prompt(f"p{place}", text, skill="tone" + odd) for place, text in enumerate(texts)}
    images = {f"i{place}": f"p{place}" for place in range(len(texts))}
    merge = {"method": "product_mean", "formula": "dW" + odd, "weights": [0.5, 0.5], "relative_error": 0.0}
    trained_on = "{skills: [tone]} on top of 0.5 bright" + odd
    arms: dict[str, tuple[ArmKind, float, float, dict]] = {
        "base": ("base", 0.0, 0.0, {}),
        "sharp" + odd: (
            "expert",
            0.3,
            -0.2,
            {"rank": 2, "alpha": 2.0, "trained_on": trained_on},
        ),
        "bright": ("expert", 0.0, 0.2, {"rank": 2, "alpha": 2.0}),
        "uniform": ("merge", 0.15, 0.0, {"rank": 4, "alpha": 4.0, "merge": merge, "of": ["sharp" + odd, "bright"]}),
        "gate": ("gate", 0.2, 0.1, {"gate": "token"}),
    }
    table = ArmTable({"sharp" + odd: "reader 1" + odd, "bright": "reader 2"}, prompts, images)
    for number, (name, (kind, sharp, bright, about)) in enumerate(arms.items()):
        scores = {
            aspect: {image: 0.5 + shift * (1 + 0.1 * place) for place, image in enumerate(images)}
            for aspect, shift in (("sharp" + odd, sharp), ("bright", bright))
        }
        picture = flat_png(40 * number + 10)
        sha256 = hashlib.sha256(picture).hexdigest()
        path = picture_path(run, sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
        table.arms[name] = ArmRecord(kind, "key", scores, dict.fromkeys(list(images)[:2], sha256), about)
    table.gates = {"blocks.0.to_q" + odd: {"sharp" + odd: 0.75, "bright": 0.25}}
    write_table(run, table)
    return table


def page_of(run: Path) -> str:
    return build_report(RunFolder.open(run))


def section_of(page: str) -> str:
    found = re.search(r'<section id="experts">.*?</section>', page, flags=re.DOTALL)
    assert found is not None
    return " ".join(found[0].split())


def test_the_matrix_tells_conflicts_in_words_numbers_and_colour(tmp_path: Path) -> None:
    RunBuilder(tmp_path).seeds("tone 1").summary().close()
    table_of(tmp_path, ["tone 1", "tone 2", "tone 3", "tone 4"])
    page = page_of(tmp_path)
    section = section_of(page)
    assert "Experts are in conflict: sharp lowers bright." in section
    assert "At or above the base on every aspect: bright, uniform, gate." in section
    cell = re.search(r'<td class="better own" style="--deep:45%"><b>▲ \+0.345</b>.*?</td>', section)
    assert cell is not None and "t +17.8, effect +8.91" in cell[0] and "+0.307 to +0.383" in cell[0]
    assert '<td class="worse" style="--deep:45%"><b>▼ -0.23</b>' in section
    assert "t +0.0, effect +0.00" in section and "nowhere below the base" in section
    assert section.count('data-picture="') == 2 * 5 and 'alt="gate: tone 1"' in section
    assert "on <bdi>{skills: [tone]} on top of 0.5 bright</bdi>" in section
    assert "product mean" in section and "sharp 0.5, bright 0.5" in section
    assert '<td style="--deep:75%">75 %</td>' in section and 'href="#experts"' in page


class Markup(HTMLParser):
    """Collects tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen |= {tag, *(f"{tag} {name}" for name, _ in attrs)}


def test_no_text_of_a_table_can_change_the_page(tmp_path: Path) -> None:
    RunBuilder(tmp_path).seeds("tone 1").summary().close()
    table_of(tmp_path, ["tone 1", "tone 2"])
    harmless = Markup(section_of(page_of(tmp_path))).seen
    assert "img data-picture" in harmless
    for odd in HOSTILE[:8]:
        table_of(tmp_path, [odd, "tone 2"], odd)
        section = section_of(page_of(tmp_path))
        assert Markup(section).seen <= harmless


def test_a_run_without_experts_has_no_such_part(tmp_path: Path) -> None:
    RunBuilder(tmp_path).seeds("tone 1").round("tone 2").summary().close()
    page = page_of(tmp_path)
    assert 'id="experts"' not in page and 'href="#experts"' not in page


def test_a_damaged_table_costs_its_part_alone(tmp_path: Path) -> None:
    RunBuilder(tmp_path).seeds("tone 1").summary().close()
    table_of(tmp_path, ["tone 1", "tone 2"])
    whole = table_path(tmp_path).read_text()
    for wrong in (whole[:200], whole.replace('"kind": "gate"', '"kind": "other"'), whole.replace('"prompts"', '"x"')):
        table_path(tmp_path).write_text(wrong)
        page = page_of(tmp_path)
        assert "The table of experts cannot be shown." in page and 'id="experts"' not in page
    outside = re.sub(r'"[0-9a-f]{64}"', '"../../../secret"', whole)
    table_path(tmp_path).write_text(outside)
    assert "a picture that is named by no sha256" in page_of(tmp_path)


def test_what_was_chosen_stands_with_its_scores_and_reasons(tmp_path: Path) -> None:
    builder = RunBuilder(tmp_path).seeds("tone 1")
    ledger, prompt = builder.store.ledger, Prompt.create("tone 9 <b>", skill="tone")
    ledger.rounds.open("choosing", 0, str(builder.sha), 10)
    ledger.prompts.add([prompt])
    images = []
    for place in range(3):
        call = Call(f"draw {place}", prompt.id, prompt.lineage_id, "self")
        ledger.calls.reserve("choosing", [call])
        images.append(builder.store.blobs.put(flat_png(20 + place)))
        ledger.calls.settle([(ImageReply(call.request_id, "image"), images[-1])])
    evidence = [
        Evidence(prompt.id, "score", None, None, (), None, image, scores={"sharp": 0.25 * place})
        for place, image in enumerate(images)
    ]
    ledger.looks.add_evidence("choosing", evidence)
    why = "sharp 0.5, best of 3 <i>"
    ledger.rounds.add_decisions("choosing", [Decision("buy", prompt.id, 1, why, images[2], "sharp")])
    change = RevisionChange(samples=(Sample.create(prompt, images[2], "self", variant="sharp"),))
    sha = builder.store.publish(str(builder.sha), "choosing", change)
    ledger.rounds.close("choosing", sha, RoundFigures(written=1))
    builder.summary().close()
    section = section_of(page_of(tmp_path))
    assert "chose from 3 images of 1 prompts: 1 for <bdi>sharp</bdi>" in section
    assert section.count("<figure") == 3 and section.count('class="kept"') == 1
    assert "kept: <bdi>sharp 0.5, best of 3 &lt;i&gt;</bdi>" in section and "<bdi>sharp</bdi> 0.25" in section
