"""The call of a diffusers pipeline: what it accepts, the sizes it draws, the picture it returns."""

from __future__ import annotations

import inspect
import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from evolvedirector.errors import UserError
from evolvedirector.teachers.local.pipeline_files import DType, Offload, Quantisation

if TYPE_CHECKING:
    from PIL.Image import Image

_OURS = {
    "self": "",
    "prompt": "the request's prompt",
    "generator": "the request's seed",
    "height": "the request's height",
    "width": "the request's width",
    "num_images_per_prompt": "one",
    "output_type": "a picture",
    "return_dict": "true",
}
"""Arguments of the call that follow from a request and cannot be configured."""


def check_arguments(
    dtype: str,
    quantisation: str | None,
    offload: str,
    batch_size: int,
    num_inference_steps: int | None,
    min_side_px: int,
    max_side_px: int,
) -> None:
    """Refuse arguments of a teacher that no pipeline could have.

    Raises:
        UserError: Names the argument and what is allowed.
    """
    for name, value, allowed in (("dtype", dtype, DType), ("offload", offload, Offload)):
        if value not in get_args(allowed):
            raise UserError(f"{name} is '{value}'. Allowed are {', '.join(get_args(allowed))}. Write one of them.")
    if quantisation is not None and quantisation not in get_args(Quantisation):
        raise UserError(f"quantisation is '{quantisation}'. Allowed are nf4, int8 and null. Write nf4.")
    if batch_size < 1 or (num_inference_steps is not None and num_inference_steps < 1):
        raise UserError(
            f"batch_size is {batch_size} and num_inference_steps {num_inference_steps}. Allowed is 1 or more. "
            "Write 4 and leave the steps out, say."
        )
    if not 1 <= min_side_px <= max_side_px:
        raise UserError(
            f"min_side_px is {min_side_px} and max_side_px {max_side_px}. Allowed is 1 <= min_side_px <= "
            "max_side_px. Write 512 and 2048, say."
        )


def check_options(found: type, options: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """Refuse, by name, what a pipeline's call does not accept.

    Args:
        found: Class of the pipeline.
        options: The options of the teacher that are set.
        extra: Further arguments of the call.

    Raises:
        UserError: Names the argument and what is accepted instead.
    """
    accepted = inspect.signature(found.__call__).parameters  # type: ignore[operator]
    offered = ", ".join(name for name in accepted if name not in _OURS)
    if "prompt" not in accepted:
        raise UserError(
            f"The model's pipeline is a {found.__name__}, which takes no prompt. Allowed are text-to-image pipelines. "
            "Write another model."
        )
    for name in extra:
        if name in _OURS:
            raise UserError(
                f"extra sets '{name}', which is {_OURS[name] or 'no option'}. Allowed are {offered}. Take '{name}' out "
                "of `extra`."
            )
    for name in [*options, *extra]:
        if name not in accepted:
            raise UserError(
                f"{name} is set, but {found.__name__} does not accept it. Allowed are {offered}. Leave {name} out."
            )
    if "negative_prompt" in options and "true_cfg_scale" in accepted and not extra.get("true_cfg_scale", 0) > 1:
        raise UserError(
            f"negative_prompt has no effect on {found.__name__}, whose guidance is distilled. Allowed is one beside a "
            "true_cfg_scale over 1, with which every image takes twice as long. Write `extra: {true_cfg_scale: 3.5}` "
            "or leave negative_prompt out."
        )


def size_multiple_px(pipeline: Any) -> int:
    """Return the step of the sizes that a pipeline draws: what its VAE and the patches of its denoiser divide by."""
    vae = int(getattr(pipeline, "vae_scale_factor", 8))
    config = getattr(getattr(pipeline, "image_processor", None), "config", {})
    denoiser = getattr(getattr(pipeline, "transformer", None), "config", {})
    patch = denoiser.get("patch_size") or 1
    patch = max(int(side) for side in patch) if isinstance(patch, list | tuple) else int(patch)
    return math.lcm(8, int(config.get("vae_scale_factor") or 1), vae * patch)


def draw_size_px(
    width_px: int, height_px: int, multiple_px: int, min_side_px: int, max_side_px: int
) -> tuple[int, int]:
    """Return the size at which a picture is drawn: the shape asked for, within the limits, rounded up to the multiple.

    Args:
        width_px: Width asked for.
        height_px: Height asked for.
        multiple_px: Step of the sizes that the pipeline draws.
        min_side_px: Least length of the shorter side.
        max_side_px: Greatest length of the longer side; it wins.
    """
    scale = max(1.0, min_side_px / min(width_px, height_px))
    scale = min(scale, max_side_px / max(width_px, height_px))
    longest = max(multiple_px, max_side_px // multiple_px * multiple_px)
    # 1e-6: 512 * (1024 / 512) may come out a hair over 1024
    steps = [max(1, -int(-(side * scale - 1e-6) // multiple_px)) for side in (width_px, height_px)]
    return min(longest, steps[0] * multiple_px), min(longest, steps[1] * multiple_px)


def check_plain(value: Any, where: str = "extra") -> None:
    """Refuse what is no plain value: it goes into the pipeline's call and into the fingerprint."""
    if isinstance(value, dict):
        for name, part in value.items():
            check_plain(part, f"{where}.{name}")
    elif isinstance(value, list):
        for part in value:
            check_plain(part, where)
    elif value is not None and not isinstance(value, str | int | float | bool):
        raise UserError(
            f"{where} is a {type(value).__name__}. Allowed are texts, numbers, true, false, null, lists and mappings. "
            "Write such a value."
        )


def to_png(image: Image, size: tuple[int, int]) -> bytes:
    """Encode a picture as PNG, scaled to the size asked for (width, height)."""
    from PIL.Image import Resampling

    image = image.convert("RGB")
    if image.size != size:
        image = image.resize(size, Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
