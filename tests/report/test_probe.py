"""The page of a probe: words, skills and pictures in one file that no text in it can change."""

from __future__ import annotations

from pathlib import Path

from evolvedirector.evaluation.words import word_findings
from evolvedirector.evolution.probing.run import ProbeOutcome
from evolvedirector.evolution.probing.sightings import Answer, Sightings, failing_chances
from evolvedirector.records import JudgeAccuracy, Prompt
from evolvedirector.report.probe import failed_lines, probe_figures, probe_page, sentences, table_rows
from evolvedirector.store.blobs import Blobs
from tests.toys import flat_png

HOSTILE = "</title><script>alert(1)</script> <img src=x onerror=alert(1)>"


def outcome(blobs: Blobs, judge: JudgeAccuracy, prompts: int = 30) -> ProbeOutcome:
    sightings = Sightings()
    [image] = blobs.put_many([flat_png(3)])
    for number in range(prompts):
        for word in ("owl", "fox"):
            prompt = Prompt.create(f"a {word} {number} {HOSTILE if number == 3 else ''}", skill="<b>animals</b>")
            sightings.add(prompt, Answer(image, word == "owl"))
    findings = word_findings(sightings.seen())
    chances = failing_chances(sightings, findings, judge)
    return ProbeOutcome(sightings, findings, chances, judge, "narrow", "", 100, 40, 7, 0.05)


def test_the_page_shows_words_skills_and_pictures_and_runs_nothing(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    figures = probe_figures(outcome(blobs, JudgeAccuracy(0.9, 1.0, 20, 20)), "Painter with hands", "judge-1")
    page = probe_page(figures, blobs, {}, "mine")
    assert "<script" not in page and "<img src=x" not in page and "<b>animals" not in page
    assert "default-src &#39;none&#39;" in page and page.count("data:image/webp;base64,") == 30
    assert "named" in page and "owl" in page and "&lt;script&gt;" in page
    assert figures["named"] == ["owl"] and figures["skills"][0]["share"] == round(0.5 / 0.9, 4)
    assert len(failed_lines(figures)) == 30 and all("owl" in line["prompt"] for line in failed_lines(figures))
    assert table_rows(figures)[0][0] == "owl" and "90 % of the failures" in " ".join(sentences(figures))
    gone = probe_page({**figures, "failing": [{**figures["failing"][0], "image_sha256": "0" * 64}]}, blobs, {}, "mine")
    assert "data:image" not in gone, "a lost picture costs the picture, not the page"


def test_an_unknown_judge_and_an_empty_probe_are_told_as_such(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    said = " ".join(sentences(probe_figures(outcome(blobs, JudgeAccuracy()), "s", "j")))
    assert "How often the judge errs is not known" in said
    empty = probe_figures(outcome(blobs, JudgeAccuracy(), prompts=0), "s", "j")
    assert "No word could be named" in " ".join(sentences(empty)) and empty["failing"] == []
    assert "No prompt is more likely to fail than not" in probe_page(empty, blobs, {}, "mine")
