"""Which prompts are drawn for a figure, how large, and from which seeds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from evolvedirector.errors import UserError
from evolvedirector.records import ImageRequest, Prompt, digest, seed_of
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.store.prompt_files import read_prompts


def spread_over_skills(prompts: Sequence[Prompt], most: int, seed: int) -> list[Prompt]:
    """Choose up to `most` prompts, from each skill about equally many; the same ones for the same seed.

    Args:
        prompts: To choose from, in any order.
        most: Prompts at most.
        seed: Names the choice.
    """
    by_skill: dict[str, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda p: seed_of("choice", seed, p.id)):
        by_skill.setdefault(prompt.skill, []).append(prompt)
    in_turn = zip_longest(*(by_skill[skill] for skill in sorted(by_skill)))
    return [prompt for turn in in_turn for prompt in turn if prompt is not None][:most]


def refuse_below(least: int, **numbers: int | None) -> None:
    """Refuse settings of a suite that are too small.

    Args:
        least: Smallest number allowed.
        numbers: By the name of the setting; None is allowed where a setting has it.

    Raises:
        UserError: One is below the least.
    """
    for name, value in numbers.items():
        if value is not None and value < least:
            raise UserError(f"{name} is {value}. Allowed: {least} or more. Write `{name}: {max(least, 4)}`, say.")


def all_sized(prompts: Sequence[Prompt], size_px: int | None) -> bool:
    """Whether it is known how large the image of each prompt is.

    Args:
        prompts: What is to be drawn.
        size_px: Side of the images of prompts that name none. None: unknown.
    """
    return size_px is not None or all(prompt.width_px and prompt.height_px for prompt in prompts)


def unknown_size(module: str, who: str) -> str:
    """Say that the size of the images is unknown, and what to write.

    Args:
        module: Class of the student.
        who: The callback that draws.
    """
    return (
        f"The size of the images that {who} draws is unknown: {module} has no `image_size_px`, nor has "
        "EvolutionCallback or the datamodule. It is a number of pixels. Write `self.image_size_px = 512`, say, in the "
        "module."
    )


def requests_to_draw(
    prompts: Sequence[Prompt], images_per_prompt: int, seed: int, size_px: int | None, purpose: str
) -> dict[str, tuple[ImageRequest, Prompt]]:
    """Ask for some images of each prompt, by request id.

    Args:
        prompts: What to draw.
        images_per_prompt: Seeds of each prompt.
        seed: Root of the seeds.
        size_px: Side of the images of prompts that name none. None: every prompt names its own.
        purpose: Keeps these draws apart from others of the same prompts.
    """
    requests = {}
    for prompt in prompts:
        width_px, height_px = prompt.width_px or size_px, prompt.height_px or size_px
        assert width_px is not None and height_px is not None, "the callers make sure of it"
        for index in range(images_per_prompt):
            name = digest(purpose, seed, prompt.id, index)
            drawn_from = seed_of(purpose, seed, prompt.id, index)
            requests[name] = ImageRequest(name, prompt.text, drawn_from, width_px, height_px), prompt
    return requests


def source_ids(source: PromptSource | str | Path | None) -> list[str]:
    """List the ids of a source's prompts, which a fingerprint names; none where prompts are the datamodule's.

    Args:
        source: As in `prompts_of`.
    """
    return [] if source is None else [prompt.id for prompt in read_prompts(source)]


def prompts_of(
    source: PromptSource | str | Path | None, held_out: Sequence[Prompt], most: int | None, seed: int
) -> list[Prompt]:
    """List the prompts of a suite, each once.

    Args:
        source: A prompt file, or what lists its prompts itself. None: the datamodule's held-out prompts.
        held_out: Those.
        most: Prompts at most, spread over skills. None: all.
        seed: Names the choice.

    Raises:
        UserError: A prompt file cannot be used.
    """
    listed = held_out if source is None else read_prompts(source)
    prompts = list({prompt.id: prompt for prompt in listed}.values())
    return prompts if most is None else spread_over_skills(prompts, most, seed)
