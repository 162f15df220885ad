"""`evolvedirector merge`: make one LoRA of several, or a whole pipeline with their merge folded in."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from evolvedirector.commands.console import readable_console
from evolvedirector.commands.exported_files import whole_folder
from evolvedirector.commands.generate import refuse_full
from evolvedirector.commands.merge_base import StockBase, stock_base, write_fused
from evolvedirector.commands.merge_scale import add_scale_options, check_scale_options, merge_on_validation
from evolvedirector.errors import UserError
from evolvedirector.experts import Expert
from evolvedirector.experts.expert_files import OURS, Pair, read_expert, write_expert, write_named
from evolvedirector.experts.merge_settings import EXAMPLES, MAY_HAVE, NEEDS, Merge
from evolvedirector.experts.merged import Method
from evolvedirector.experts.stages import stands_on
from evolvedirector.lightning_modules.families.family import Layout
from evolvedirector.models.import_diffusers import import_diffusers
from evolvedirector.store.durable import make_folder
from evolvedirector.store.paths import user_path

PROVENANCE = "merge.json"
"""Beside a fused pipeline: what was merged, and how."""


def main(args: list[str]) -> int:
    """Merge experts.

    Args:
        args: The words after `merge`.

    Returns:
        Exit code.

    Raises:
        UserError: The files cannot be merged so, or what is to be written is there already.
    """
    options = _parser().parse_args(args)
    out = user_path(options.out)
    settings = _settings(options)
    _check_out(options, out)
    import_diffusers()
    with readable_console():
        experts = _experts(options)
        for expert in experts:
            if left_out := what_is_left_out(expert, experts):
                print(left_out)
        name = out.name.removesuffix(".safetensors")
        if settings.scales is None:
            expert = settings.of_all(experts, name)
        else:
            expert = merge_on_validation(settings, experts, name, options)
            for scale, score in expert.provenance["validation"]["scores"].items():
                print(f"Scale {scale}: {score:.4g} on the validation split.")
        if options.fused is None:
            _write_adapter(expert, options, out)
        else:
            with whole_folder(out) as folder:
                write_fused(expert, options.fused, getattr(torch, options.dtype or "float32"), folder)
                (folder / PROVENANCE).write_text(json.dumps(dict(expert.provenance), indent=2) + "\n", encoding="utf-8")
        told = expert.provenance["merge"]
        print(f"{told['formula']}\nRank {expert.lora.rank}, relative error {told['relative_error']:.2g}.")
        print(f"Merge: {out}", flush=True)
    return 0


def what_is_left_out(expert: Expert, experts: Sequence[Expert]) -> str:
    """Say what one of the merged experts was trained on top of, where that is not merged too; empty where it is.

    Args:
        expert: One of them.
        experts: All that are merged.
    """
    below: Mapping[str, float] = expert.provenance.get("stage", {}).get("on_top_of", {})
    if below.keys() <= {other.name for other in experts}:
        return ""
    return (
        f"{expert.name} was trained{stands_on(below)}. Its file holds its own update alone: what it stands on is in "
        "this merge only where you add those files."
    )


def _experts(options: argparse.Namespace) -> list[Expert]:
    files = [user_path(file) for file in options.experts]
    if options.names and len(options.names) != len(files):
        raise UserError(
            f"There are {len(options.names)} names for {len(files)} experts. Allowed is one for each. Write as many, "
            "or leave --names out."
        )
    base = options.base or options.fused or ""
    experts = [read_expert(file, options.base or "", _foreign_names(base)) for file in files]
    return [
        replace(each, name=name) for each, name in zip(experts, options.names or [e.name for e in experts], strict=True)
    ]


def _foreign_names(base: str) -> Callable[[Mapping[str, Tensor]], Mapping[str, Pair]] | None:
    """Return what reads files of ComfyUI and kohya, by the network of a base that is looked up when one comes."""
    return (lambda tensors: _base(base).pairs(tensors)) if base else None


@cache
def _base(name: str) -> StockBase:
    return stock_base(name)


def _write_adapter(expert: Expert, options: argparse.Namespace, out: Path) -> None:
    base = options.base or expert.base
    make_folder(out.absolute().parent)
    if options.layout == OURS:
        write_expert(expert, out)
    else:
        write_named(expert, _base(base).tensors(expert, options.layout), options.layout, out)


def _settings(options: argparse.Namespace) -> Merge:
    """Return how is merged, once it is sure that the numbers are those of the method."""
    check_scale_options(options)
    needs, may = NEEDS.get(options.method, ()), MAY_HAVE.get(options.method, ())
    numbers = {name: getattr(options, name) for name in ("rank", "scale", "density", "seed")}
    for name, value in numbers.items():
        given = value is not None
        if given and name not in (*needs, *may):
            raise UserError(
                f"--{name} is {value:g}, but --method {options.method} does not read it. Allowed are "
                f"{', '.join(f'--{word}' for word in (*needs, *may)) or 'none of its like'}. Leave it out."
            )
        if not given and name in needs and not (name == "scale" and options.scales):
            raise UserError(
                f"--method {options.method} needs --{name}, which nothing chooses for you. Allowed is a number (see "
                f"evolvedirector merge --help). Write --{name} {EXAMPLES[name]:g}, say."
            )
    return Merge(options.method, weights=options.weights, scales=options.scales, **numbers)


def _check_out(options: argparse.Namespace, out: Path) -> None:
    """Refuse what is there already, or what is no place for the form; nothing is read for it."""
    if options.fused is not None:
        if options.layout != OURS:
            raise UserError(
                f"--layout is {options.layout}, the names of a LoRA's own file, but --fused writes a whole pipeline. "
                "Allowed is one of them. Leave the other out."
            )
        refuse_full(out)
    elif out.suffix != ".safetensors":
        raise UserError(
            f"--out is {out}. Allowed is the name of a .safetensors file, or --fused. Write {out}.safetensors."
        )
    elif options.dtype is not None:
        raise UserError(
            f"--dtype is {options.dtype}, but a LoRA is written in float32. Allowed is --dtype with --fused. "
            "Leave it out."
        )
    elif there := next((path for path in (out, out.with_suffix(".json")) if path.exists()), None):
        raise UserError(f"{there} is there. Allowed is a new file. Name another.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evolvedirector merge",
        allow_abbrev=False,
        description="Merge LoRAs of one base: w_i are weights, dW_i = s_i B_i A_i with s_i = alpha_i / rank_i. "
        "product_mean is exact; factor_mean is SELMA's printed formula; svd and task_arithmetic work on the true sum; "
        "ties, dare_linear and dare_ties on single entries of dW_i.",
    )
    parser.add_argument(
        "experts", nargs="+", metavar="FILE", help="LoRAs: ours, or of diffusers, peft, ComfyUI or kohya's scripts"
    )
    parser.add_argument("-o", "--out", required=True, help="a new .safetensors file; with --fused a new folder")
    parser.add_argument("--method", choices=get_args(Method), default="product_mean", help="(product_mean)")
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="one for each file (equal ones)")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the experts, in place of those in the files")
    parser.add_argument("--base", metavar="NAME", help="what files were trained beside that do not say it")
    parser.add_argument("--rank", type=int, help="of the result: svd, ties, dare_*; task_arithmetic if it is to be cut")
    parser.add_argument("--scale", type=float, help="of the result: task_arithmetic, ties, dare_*")
    add_scale_options(parser)
    parser.add_argument("--density", type=float, help="share of entries that ties and dare_* keep")
    parser.add_argument("--seed", type=int, help="of the entries that dare_* drops (0)")
    parser.add_argument(
        "--layout", choices=(OURS, *get_args(Layout)), default=OURS, help="whose names the file has (ours)"
    )
    parser.add_argument("--fused", metavar="BASE", help="write the whole pipeline of this base, the merge folded in")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of a fused pipeline (float32)")
    return parser
