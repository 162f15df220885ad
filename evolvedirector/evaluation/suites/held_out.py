"""How often held-out prompts are drawn as written, by a reader of the user's choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from evolvedirector.evaluation.prompt_choice import refuse_below, requests_to_draw
from evolvedirector.evaluation.shares import Share, mean_of_shares, share_of_prompts
from evolvedirector.evaluation.suite import Asked, Drawn, Figure, Offered, Outcome, Readings, Sitting
from evolvedirector.judges.judge import Judge
from evolvedirector.records import ImageAndPrompt, Prompt, digest
from evolvedirector.records.looks import reading_of
from evolvedirector.records.part import Part
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.store.prompt_files import read_prompts

AnswerRead: TypeAlias = tuple[str, str, bool]
"""Skill, prompt id, and whether the image showed the prompt."""
HELD_OUT, TRAINED = "held_out", "trained"
"""Kinds of prompts in `accuracy_by_kind`: those that no operation may touch, and those that training may have met."""


class HeldOutAccuracy:
    """Check images of the datamodule's held-out prompts; report the share that shows its prompt, by skill.

    Every validation and test reads the loop's own images, logged as `accuracy/<skill>` and `accuracy/mean` (mean over
    skills, GenEval's convention). When training ends, `seeds_per_prompt` images of each prompt are drawn with averaged
    weights and read once more (`final_accuracy/<skill>`): that is what `summary.json` keeps, with 95 % intervals that
    take the prompts, not the images, for independent. A skill of few kinds has few of them to hold out, and two
    prompts decide nothing: `trained_kinds` names its other prompts, which training may have met. They count in that
    last reading, and `accuracy_by_kind` shows both apart. A reply that the reader never gives counts as not shown.

    Example:
        ```yaml
        - class_path: evolvedirector.callbacks.EvaluationCallback
          init_args:
            suites:
              held_out:
                class_path: evolvedirector.evaluation.suites.HeldOutAccuracy
                init_args:
                  reader: {class_path: evolvedirector.worlds.shapes.MiniatureJudge}
                  seeds_per_prompt: 4
        ```

    Args:
        reader: Judge of single images; use another than the training judge, or its errors are measured as success.
        seeds_per_prompt: Images of each held-out prompt in a reading of its own; 1 takes the validation's own images
            where that ran after the last step.
        seed: Root of the seeds of such a reading.
        trained_kinds: Prompts that are not held out, of skills with few held-out ones: a source such as
            `OpenPrompts`, or a prompt file. None: the held-out prompts alone are read.
        every_n_epochs: Epochs between further readings of its own. None: only when training ends.

    Raises:
        UserError: A number below 1.
    """

    reads_alone = False

    def __init__(
        self,
        reader: Judge,
        seeds_per_prompt: int = 1,
        seed: int = 0,
        trained_kinds: PromptSource | str | Path | None = None,
        every_n_epochs: int | None = None,
    ) -> None:
        refuse_below(1, seeds_per_prompt=seeds_per_prompt, every_n_epochs=every_n_epochs)
        self.reader = reader
        self.seeds_per_prompt = seeds_per_prompt
        self.seed = seed
        self.trained_kinds = trained_kinds
        self.every_n_epochs = every_n_epochs

    @property
    def fingerprint(self) -> str:
        """Name reader, seeds and further prompts; the held-out prompts are the datamodule's."""
        further = [prompt.id for prompt in self._further()]
        return f"held-out-1/{digest(self.reader.fingerprint, self.seeds_per_prompt, self.seed, *further)}"

    def prompts(self, offered: Offered) -> Sequence[Prompt]:
        """List the held-out prompts, then those of `trained_kinds` that are not held out; none without any held out."""
        held_out = {prompt.id: prompt for prompt in offered.held_out}
        if not held_out:
            return []
        return list(held_out.values()) + [prompt for prompt in self._further() if prompt.id not in held_out]

    def requests(self, offered: Offered) -> Asked:
        """Ask for some images of each."""
        return requests_to_draw(self.prompts(offered), self.seeds_per_prompt, self.seed, offered.size_px, "held out")

    def is_read_by_validation(self) -> bool:
        """Say whether one image of each held-out prompt is all that is read."""
        return self.seeds_per_prompt == 1 and self.trained_kinds is None

    def read(self, drawn: Sequence[Drawn], sitting: Sitting) -> Readings:
        """Read whether each image shows its prompt."""
        items = [ImageAndPrompt(one.request_id, one.image, one.prompt.text) for one in drawn]
        shown = {look.item_id for look in self.reader.check(items) if reading_of(look) == "shows"}
        return {one.request_id: (one.prompt.skill, one.prompt.id, one.request_id in shown) for one in drawn}

    def figures(self, readings: Readings, sitting: Sitting) -> Outcome:
        """Return accuracy by skill and its mean; nothing without readings."""
        shares = accuracy_by_skill(readings.values())
        mean = mean_of_shares(shares)
        if mean is None:
            return Outcome({})
        kinds = {} if sitting.from_validation else self._kinds(sitting)
        accuracy = {skill: round(share.value, 6) for skill, share in shares.items()}
        summary = {
            "accuracy": accuracy,
            "accuracy_interval": {skill: share.interval for skill, share in shares.items()},
            "accuracy_prompts": {skill: share.prompts for skill, share in shares.items()},
            "accuracy_mean": round(mean.value, 6),
            "accuracy_mean_interval": mean.interval,
            "accuracy_by_kind": accuracy_by_kind(readings.values(), kinds),
        }
        prefix = "accuracy" if sitting.from_validation else "final_accuracy"
        logged = {f"{prefix}/{skill}": value for skill, value in (accuracy | {"mean": round(mean.value, 6)}).items()}
        rows = {"mean": Figure.of_share(mean)} | {skill: Figure.of_share(share) for skill, share in shares.items()}
        return Outcome(rows, summary, logged)

    def parts(self) -> Mapping[str, Part]:
        """Name the reader."""
        return {"reader": self.reader}

    def looks(self, held_out: int) -> Mapping[str, int]:
        """Count one look for each image of a reading of its own."""
        return {"reader": (held_out + len(self._further())) * self.seeds_per_prompt}

    def _further(self) -> list[Prompt]:
        if self.trained_kinds is None:
            return []
        return list({prompt.id: prompt for prompt in read_prompts(self.trained_kinds)}.values())

    def _kinds(self, sitting: Sitting) -> dict[str, str]:
        """Tell held-out prompts and others apart; empty where all are held out."""
        if self.trained_kinds is None:
            return {}
        held_out = {prompt.id for prompt in sitting.offered.held_out}
        prompts = (prompt.id for _, prompt in sitting.asked.values())
        return {prompt_id: HELD_OUT if prompt_id in held_out else TRAINED for prompt_id in prompts}


def accuracy_by_skill(readings: Iterable[AnswerRead]) -> dict[str, Share]:
    """Return the share of images that show their prompt, by skill, the images of one prompt taken together."""
    tries: dict[str, dict[str, list[float]]] = {}
    for skill, prompt_id, shown in readings:
        tries.setdefault(skill, {}).setdefault(prompt_id, []).append(float(shown))
    shares = {skill: share_of_prompts(list(by_prompt.values())) for skill, by_prompt in sorted(tries.items())}
    return {skill: share for skill, share in shares.items() if share is not None}


def accuracy_by_kind(readings: Iterable[AnswerRead], kinds: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Part the accuracy of skills of which both kinds of prompts were read; the others are left out.

    Args:
        readings: What was read.
        kinds: `HELD_OUT` or `TRAINED`, by prompt id.

    Returns:
        By skill and kind: `share`, its 95 % `interval` and the `prompts` behind it.
    """
    parted: dict[str, dict[str, Share]] = {}
    readings = list(readings)
    for kind in (HELD_OUT, TRAINED):
        for skill, share in accuracy_by_skill(r for r in readings if kinds.get(r[1]) == kind).items():
            parted.setdefault(skill, {})[kind] = share
    return {
        skill: {
            kind: {"share": round(share.value, 6), "interval": share.interval, "prompts": share.prompts}
            for kind, share in by_kind.items()
        }
        for skill, by_kind in sorted(parted.items())
        if TRAINED in by_kind
    }
