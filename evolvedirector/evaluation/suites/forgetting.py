"""What the student could once do: mastered prompts, drawn and read again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evolvedirector.evaluation.prompt_choice import refuse_below, requests_to_draw, spread_over_skills
from evolvedirector.evaluation.shares import share_of_prompts
from evolvedirector.evaluation.suite import Asked, Drawn, Figure, Offered, Outcome, Readings, Sitting
from evolvedirector.judges.judge import Judge
from evolvedirector.records import ImageAndPrompt, Prompt, Reading, digest
from evolvedirector.records.looks import reading_of
from evolvedirector.records.part import Part


class MasteredPrompts:
    """Draw mastered prompts with fresh seeds; report the share that the student fails now.

    Mastered prompts get no more looks from evolution until they are probed, so a policy could lose them unnoticed.
    Contributes `forgetting` to `summary.json`: the share failed, its 95 % interval, the prompts read, and how many
    readings were unreadable (left out of the share); null while nothing is mastered.

    Args:
        reader: Judge of single images; use another than the training judge, or its errors are measured as success.
        max_prompts: Mastered prompts at most, spread over skills.
        every_n_epochs: Epochs between further readings. None: only when training ends.
        seed: Root of the choice of prompts and of the seeds.
        data: Attribute of the datamodule that holds the evolving data. None: the datamodule itself.

    Raises:
        UserError: A number below 1.
    """

    reads_alone = False

    def __init__(
        self,
        reader: Judge,
        max_prompts: int = 64,
        every_n_epochs: int | None = None,
        seed: int = 0,
        data: str | None = None,
    ) -> None:
        refuse_below(1, max_prompts=max_prompts, every_n_epochs=every_n_epochs)
        self.reader = reader
        self.max_prompts = max_prompts
        self.every_n_epochs = every_n_epochs
        self.seed = seed
        self.data = data

    @property
    def fingerprint(self) -> str:
        """Name reader, choice and seeds; the prompts are the dataset's."""
        return f"mastered-1/{digest(self.reader.fingerprint, self.max_prompts, self.seed)}"

    def mastered_of(self) -> str | None:
        """Name the datamodule's attribute that holds the evolving data. None: the datamodule itself."""
        return self.data

    def prompts(self, offered: Offered) -> Sequence[Prompt]:
        """Choose mastered prompts, from each skill about equally many."""
        return spread_over_skills(offered.mastered, self.max_prompts, self.seed)

    def requests(self, offered: Offered) -> Asked:
        """Ask for one image of each; other seeds at every step, so that luck with one does not stay."""
        purpose = f"forgetting at {offered.global_step}"
        return requests_to_draw(self.prompts(offered), 1, self.seed, offered.size_px, purpose)

    def read(self, drawn: Sequence[Drawn], sitting: Sitting) -> Readings:
        """Read whether each image shows its prompt, a reply that never comes being unreadable."""
        items = [ImageAndPrompt(one.request_id, one.image, one.prompt.text) for one in drawn]
        readings: dict[str, Reading] = {item.item_id: "unreadable" for item in items}
        return readings | {k.item_id: reading_of(k) for k in self.reader.check(items) if k.item_id in readings}

    def figures(self, readings: Readings, sitting: Sitting) -> Outcome:
        """Return the share forgotten."""
        figures = forgetting_figures(readings.values())
        ends = figures["interval"]
        row = Figure(figures["share"], None if ends is None else (ends[0], ends[1]), figures["prompts"])
        return Outcome({"forgotten": row}, {"forgetting": figures}, {"accuracy/forgotten": figures["share"]})

    def parts(self) -> Mapping[str, Part]:
        """Name the reader."""
        return {"reader": self.reader}

    def looks(self, held_out: int) -> Mapping[str, int]:
        """Count one look for each mastered prompt."""
        return {"reader": self.max_prompts}


def forgetting_figures(readings: Iterable[Reading]) -> dict[str, Any]:
    """Return the share of mastered prompts that the student fails, with its 95 % interval."""
    readings = list(readings)
    readable = [reading for reading in readings if reading != "unreadable"]
    share = share_of_prompts([[float(reading == "lacks")] for reading in readable])
    return {
        "share": None if share is None else round(share.value, 6),
        "interval": None if share is None else share.interval,
        "prompts": len(readable),
        "unreadable": len(readings) - len(readable),
    }
