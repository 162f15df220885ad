"""Measure the tiny vision-language model as it is used: through `TransformersJudge`, against the exact reader.

Every prompt belongs to a combination that was held out from its training. Half of the pictures show their prompt, half
are near misses of it, clean or spoilt as a young student spoils them; what is right, the reader says.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.tiny_vlm_pictures import WORLD, HeldOut, drawn, is_clear, spoilt
from benchmarks.tiny_vlm_questions import near_miss
from evolvedirector.judges.transformers_judge import TransformersJudge
from evolvedirector.records import ImageAndPrompt, OrderedPair, seed_of
from evolvedirector.records.questions import YES_NO, Question
from evolvedirector.worlds.shapes.artist import to_png
from evolvedirector.worlds.shapes.atoms import answer, atoms_of, matches
from evolvedirector.worlds.shapes.grammar import parse, phrase
from evolvedirector.worlds.shapes.reader import read
from evolvedirector.worlds.shapes.reading import SeenScene
from evolvedirector.worlds.shapes.scene import Scene


@dataclass(frozen=True, slots=True)
class Case:
    """A held-out prompt with a picture, and whether the reader sees the one in the other."""

    skill: str
    scene: Scene
    image: bytes
    reading: SeenScene
    shows: bool

    @property
    def prompt(self) -> str:
        """The prompt as text."""
        return phrase(self.scene)


def held_out_cases(per_skill: int, is_spoilt: bool, seed: int = 0) -> list[Case]:
    """Draw cases over all skills, in turn those that show their prompt and near misses.

    Args:
        per_skill: cases of each skill.
        is_spoilt: spoilt pictures, else clean ones.
        seed: which pictures.
    """
    held_out = HeldOut()
    scenes: dict[str, list[Scene]] = {}
    for prompt in held_out.source.prompts():
        scenes.setdefault(prompt.skill, []).append(parse(prompt.text))
    cases = []
    for skill, every in scenes.items():
        rng = np.random.default_rng(seed_of("tiny vlm cases", skill, is_spoilt, seed))
        count = 0
        while count < per_skill:
            asked, shows = every[count // 2 % len(every)], count % 2 == 0
            shown = asked if shows else near_miss(asked, rng)
            if shown is None:
                continue
            image = spoilt(drawn(shown, rng), held_out, rng) if is_spoilt else drawn(shown, rng)
            reading = read(image, WORLD)
            if matches(asked, reading) == shows and is_clear(reading):
                cases.append(Case(skill, asked, to_png(image), reading, shows))
                count += 1
    return cases


def _rates(right: dict[str, list[bool]]) -> dict[str, float]:
    return {name: round(float(np.mean(values)), 4) for name, values in right.items()}


def measure_checks(judge: TransformersJudge, cases: Sequence[Case]) -> dict[str, float]:
    """Return the agreement with the reader per skill: does the picture show exactly its prompt?"""
    looks = judge.check([ImageAndPrompt(str(n), case.image, case.prompt) for n, case in enumerate(cases)])
    right: dict[str, list[bool]] = defaultdict(list)
    for case, look in zip(cases, looks, strict=True):
        right[case.skill].append((look.probability >= 0.5) == case.shows and look.covered_mass >= 0.5)
    return _rates(right)


def measure_parts(judge: TransformersJudge, cases: Sequence[Case]) -> dict[str, float]:
    """Return the agreement per kind of question about a part, the mean over answers that are yes and that are no."""
    asked = [(case, atom) for case in cases for atom in atoms_of(case.scene)]
    questions = [
        Question(str(number), (case.image,), f"{atom.question} Answer yes or no.", YES_NO)
        for number, (case, atom) in enumerate(asked)
    ]
    right: dict[str, dict[bool, list[bool]]] = defaultdict(lambda: {True: [], False: []})
    for (case, atom), said in zip(asked, judge.answer(questions), strict=True):
        expected = answer(atom, case.reading) >= 0.5
        right[atom.kind][expected].append((said.probabilities[0] >= 0.5) == expected)
    return {kind: round(float(np.mean([np.mean(sides[s]) for s in sides])), 4) for kind, sides in right.items()}


def measure_pairs(judge: TransformersJudge, cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    """Return, per skill, how often the picture that shows a prompt wins against a near miss, and the position bias.

    Each pair is shown in both orders. `agreement`: single looks that are right; `both_orders`: pairs that the mean of
    both looks decides rightly; `consistent`: pairs whose winner is the same in both orders; `first`: looks that choose
    the first picture, one half without bias.
    """
    pairs = [(good, bad) for good, bad in zip(cases[::2], cases[1::2], strict=True) if good.scene == bad.scene]
    shown = []
    for number, (good, bad) in enumerate(pairs):
        shown.append(OrderedPair(f"{number} forth", good.image, bad.image, good.prompt))
        shown.append(OrderedPair(f"{number} back", bad.image, good.image, good.prompt))
    looks = [look.probability for look in judge.look(shown)]
    found: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for (good, _), forth, back in zip(pairs, looks[::2], looks[1::2], strict=True):
        agreement = ((forth > 0.5) + (back < 0.5)) / 2
        row = (agreement, float(forth > back), float((forth > 0.5) == (back < 0.5)), ((forth > 0.5) + (back > 0.5)) / 2)
        found[good.skill].append(row)
        found["all"].append(row)
    names = ("agreement", "both_orders", "consistent", "first")
    return {
        skill: {name: round(float(value), 4) for name, value in zip(names, np.mean(rows, axis=0), strict=True)}
        for skill, rows in found.items()
    }


def _some(cases: Sequence[Case], most: int) -> list[Case]:
    """Return cases of all skills and both answers, at most so many."""
    order = np.random.default_rng(0).permutation(len(cases))[:most]
    return [cases[index] for index in order]


def measure(judge: TransformersJudge, per_skill: int, seed: int = 0) -> dict[str, object]:
    """Return every figure of a judge.

    Args:
        judge: over the tiny model.
        per_skill: cases of each skill, clean and spoilt each.
        seed: which pictures.
    """
    found: dict[str, object] = {"cases_per_skill": per_skill}
    for name, is_spoilt in (("clean", False), ("spoilt", True)):
        cases = held_out_cases(per_skill, is_spoilt, seed)
        start = time.process_time()
        checks = measure_checks(judge, cases)
        seconds = time.process_time() - start
        found[name] = {
            "check": checks,
            "parts": measure_parts(judge, _some(cases, 300)),
            "pair": measure_pairs(judge, cases),
            "questions_per_cpu_s": round(len(cases) / seconds, 1),
        }
    return found
