"""The card of an exported student: what it is, what it was trained on, who drew that, and what it cost. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

NOT_STATED = "not stated"
_SAFE = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#"})


@dataclass(frozen=True, slots=True)
class Provenance:
    """Say where an exported student comes from.

    Args:
        name: Of the run.
        student: Class of the module and of its family.
        weights: Which: `averaged (EMA) weights of step 1,200`.
        starts_from: Pretrained weights that it began with; None: random ones.
        settings: What else decides what the weights mean, by name: the loss of a prior, its embedder.
        adapter: What was trained beside frozen weights, in words; None: all weights were trained.
        is_adapter_alone: Whether it is exported without its base.
        images_seen: Training images, over all ranks. None: not counted.
        revision: Number and sha of the dataset's revision that was read last; None: no dataset of ours.
        images_by_teacher: Images in that revision that were trained on, by who made them.
        licences: Licence of what a teacher draws, by teacher, as far as it was stated.
        judge: Name of the training judge; None: there was none.
        teacher_calls: Calls of teachers. None: not counted.
        judge_calls: Looks. None: not counted.
        cost_usd: Money. None: not counted.
        figures: Measured, in one line each.
        licence: Of the exported weights, as stated.
        version: Of evolvedirector.
    """

    name: str
    student: str
    weights: str
    starts_from: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    adapter: str | None = None
    is_adapter_alone: bool = False
    images_seen: int | None = None
    revision: str | None = None
    images_by_teacher: Mapping[str, int] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)
    judge: str | None = None
    teacher_calls: int | None = None
    judge_calls: int | None = None
    cost_usd: float | None = None
    figures: Sequence[str] = ()
    licence: str | None = None
    version: str = ""


def model_card(about: Provenance, usage: str, picture: str | None) -> str:
    """Write the README.md of an exported student.

    Args:
        about: Where it comes from.
        usage: Python that draws an image with it.
        picture: Name of the picture of samples beside the card; None: there is none.
    """
    tags = ["text-to-image", "evolvedirector", *(["lora"] if about.is_adapter_alone else [])]
    head = ["---", "library_name: diffusers", "pipeline_tag: text-to-image", f"tags: [{', '.join(tags)}]"]
    if about.licence:
        head.append(f"license: {_plain(about.licence)}")
    if about.starts_from and "/" in about.starts_from and not about.starts_from.startswith(("/", ".")):
        head.append(f"base_model: {_plain(about.starts_from)}")
        head.append(f"base_model_relation: {'adapter' if about.is_adapter_alone else 'finetune'}")
    lines = [*head, "---", "", f"# {_shown(about.name)}", ""]
    if picture:
        lines += [f"![Samples]({picture})", ""]
    lines += ["```python", usage.rstrip(), "```", "", "## Where it comes from", "", *_origin(about), ""]
    lines += ["## Who drew what it was trained on", "", *_teachers(about), ""]
    lines += ["## What it cost", "", *_spending(about), ""]
    if about.figures:
        lines += ["## Measured", "", *(f"- {_shown(line)}" for line in about.figures), ""]
    return "\n".join(lines)


def _origin(about: Provenance) -> list[str]:
    seen = "not counted" if about.images_seen is None else f"{about.images_seen:,}"
    fused = "" if about.is_adapter_alone else "; fused into the base here"
    adapter = [f"- Trained: {_shown(about.adapter)}{fused}"] if about.adapter else []
    return [
        f"- Student: {_shown(about.student)}, {about.weights}",
        f"- Began with: {_shown(about.starts_from or 'random weights')}",
        *adapter,
        *(f"- {_shown(name)}: {_shown(value)}" for name, value in about.settings.items()),
        f"- Training images seen: {seen}",
        f"- Dataset: {about.revision or 'none of evolvedirector'}",
        f"- Judge of the training data: {_shown(about.judge or 'none')}",
        f"- Written by evolvedirector {about.version}".rstrip(),
        f"- Licence of these weights: {_shown(about.licence or NOT_STATED)}",
    ]


def _teachers(about: Provenance) -> list[str]:
    if not about.images_by_teacher:
        return ["No image of a teacher was trained on."]
    rows = [
        f"| {_shown(name)} | {count:,} | {_shown(about.licences.get(name, NOT_STATED))} |"
        for name, count in sorted(about.images_by_teacher.items(), key=lambda item: (-item[1], item[0]))
    ]
    lines = ["| made by | images | licence or terms |", "|---|---|---|", *rows]
    if any(name not in about.licences for name in about.images_by_teacher):
        lines += [
            "",
            "Where no terms are stated, look them up before you publish: some forbid training on what is drawn.",
        ]
    return lines


def _spending(about: Provenance) -> list[str]:
    def counted(value: float | None, form: str) -> str:
        return "not counted" if value is None else format(value, form)

    return [
        f"- Teacher calls: {counted(about.teacher_calls, ',')}",
        f"- Looks of the judge: {counted(about.judge_calls, ',')}",
        f"- Money: {counted(about.cost_usd, ',.2f')} USD" if about.cost_usd is not None else "- Money: not counted",
    ]


def _shown(text: str) -> str:
    """Make text safe in Markdown: one line, and no markup of its own."""
    return " ".join(text.split()).translate(_SAFE)


def _plain(text: str) -> str:
    """Make text a quoted YAML string."""
    return '"' + " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"') + '"'
