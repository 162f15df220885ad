"""Run folders for tests of the report: real stores, filled through the ledger's own methods with any text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from evolvedirector.records import Decision, Evidence, ImageReply, Look, Prompt, RevisionChange, RoundFigures, Sample
from evolvedirector.store import DatasetStore
from evolvedirector.store.ledger import Call, Duel
from tests import toys

HOSTILE = [
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 1</script>",
    '<img src=x onerror="window.hacked = 1">',
    "\"'><svg onload=window.hacked=1>",
    "<!-- <style>body { display: none }</style>",
    "{{ 7 * 7 }} {% raw %} {# gone #}",
    "${window.hacked = 1} `x` \\u003cb\\u003e &lt;b&gt; &amp;",
    "\u202eright to left override \u2067مرحبا بالعالم",
    "a fox 🦊 under a flag 🏳️‍🌈",
    "a null \x00 and a line\u2028separator",
    "long " + "x" * 10_000,
]


class RunBuilder:
    """Fill a run folder step by step: seeds, rounds, an open round, a summary."""

    def __init__(self, folder: Path, skill: str = "tone", teacher: str = "toy") -> None:
        self.folder, self.skill, self.teacher = folder, skill, teacher
        folder.mkdir(parents=True, exist_ok=True)
        self.store = DatasetStore(folder / "data", create=True)
        self.sha: str | None = None
        self.rounds = 0
        self.last: Prompt | None = None

    def seeds(self, *texts: str) -> RunBuilder:
        prompts = [Prompt.create(text, skill=self.skill) for text in texts]
        self.sha = self.store.publish(None, "seeds", self._bought("seeds", prompts))
        self.last = prompts[-1]
        return self

    def round(self, *texts: str, figures: RoundFigures | None = None, finish: bool = True) -> RunBuilder:
        """A round that writes children of the last prompt; the student fails them all, they are bought and compared."""
        name, ledger = f"round {self.rounds}", self.store.ledger
        prompts = [Prompt.create(text, "expansion", self.skill, self.last) for text in texts]
        ledger.rounds.open(name, self.rounds, str(self.sha), 10 * (self.rounds + 1))
        ledger.prompts.add(prompts)
        student = self.store.blobs.put(toys.flat_png(60 + self.rounds))
        looks = (Look("a", 0.1, reason="not what was asked <b>"), Look("b", 0.8))
        ledger.looks.add_evidence(name, [Evidence(p.id, "screen", "lacks", None, looks[:1], student) for p in prompts])
        ledger.rounds.add_decisions(name, [Decision("buy", p.id, 1, "unseen and failed <i>") for p in prompts])
        change = self._bought(name, prompts)
        pairs = [
            Evidence(s.prompt.id, "compare", None, "teacher", looks, student, s.image_sha256) for s in change.samples
        ]
        ledger.looks.add_evidence(name, pairs)
        if change.samples:
            first = change.samples[0]
            duel = Duel(first.prompt.id, self.teacher, "other", first.image_sha256, student, "first")
            ledger.looks.add_duels(name, [duel])
        if finish:
            if self.rounds and self.last is not None:
                change = replace(change, states={self.last.id: "mastered"})
            self.sha = self.store.publish(str(self.sha), name, change)
            ledger.rounds.close(name, self.sha, figures or RoundFigures(written=len(texts), judge={"error": 0.1}))
            self.last = prompts[-1] if prompts else self.last
        self.rounds += 1
        return self

    def skipped(self) -> RunBuilder:
        name = f"round {self.rounds}"
        self.store.ledger.rounds.open(name, self.rounds, str(self.sha), 10 * (self.rounds + 1))
        figures = RoundFigures(skipped=True, judge={"error": 0.45, "canary blank": 0.125})
        self.store.ledger.rounds.close(name, str(self.sha), figures)
        self.rounds += 1
        return self

    def summary(self, **figures: Any) -> RunBuilder:
        known = {
            "rounds": self.rounds, "images_seen": 1200, "wall_s": 75.0, "teacher_calls": 4, "judge_calls": 9,
            "accuracy": {self.skill: 0.5}, "accuracy_interval": {self.skill: [0.25, 0.75]}, "accuracy_mean": 0.5,
            "accuracy_mean_interval": [0.25, 0.75], "accuracy_prompts": {self.skill: 12},
            "win_rate_held_out": {self.teacher: {"win_rate": 0.25, "interval": [0.1, 0.4], "prompts": 20}},
        }  # fmt: skip
        (self.folder / "summary.json").write_text(json.dumps({**known, **figures}))
        return self

    def config(self, **config: Any) -> RunBuilder:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config))
        return self

    def film(self, *texts: str, steps: tuple[int, ...] = (10, 20)) -> RunBuilder:
        for place, text in enumerate(texts):
            own = self.folder / "previews" / "frames" / f"{place:016x}"
            own.mkdir(parents=True)
            (own / "prompt.txt").write_text(text, encoding="utf-8")
            (own / "teacher.png").write_bytes(toys.flat_png(250 - place))
            for step in steps:
                (own / f"step-{step:08d}.png").write_bytes(toys.flat_png((step + place) % 256))
        return self

    def curves(self, steps: int = 5) -> RunBuilder:
        own = self.folder / "logs" / "version_0"
        own.mkdir(parents=True, exist_ok=True)
        rows = [f"{step},0,{1 / (step + 1)},{step / steps},120.5" for step in range(steps)]
        header = "step,epoch,train/loss,accuracy/mean,train/images_per_s"
        (own / "metrics.csv").write_text("\n".join([header, *rows]) + "\n")
        return self

    def close(self) -> Path:
        self.store.close()
        return self.folder

    def _bought(self, round_id: str, prompts: list[Prompt]) -> RevisionChange:
        samples = []
        for place, prompt in enumerate(prompts):
            call = Call(f"{round_id} {prompt.id}", prompt.id, prompt.lineage_id, self.teacher)
            self.store.ledger.calls.reserve(round_id, [call])
            sha256 = self.store.blobs.put(toys.flat_png((37 * self.rounds + place) % 256))
            self.store.ledger.calls.settle([(ImageReply(call.request_id, "image", cost_usd=0.04), sha256)])
            samples.append(Sample.create(prompt, sha256, self.teacher))
        return RevisionChange(samples=tuple(samples))


def small_run(folder: Path) -> Path:
    """A whole run: seeds, two rounds, a skipped one, figures, film strips and curves."""
    builder = RunBuilder(folder).seeds("tone 1", "tone 2")
    builder.round("tone 11", "tone 12").round("tone 21").skipped()
    return builder.summary().config(seed_everything=0).film("tone 1", "tone 2").curves().close()
