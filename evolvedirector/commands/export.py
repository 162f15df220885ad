"""`evolvedirector export`: write a trained student where other programs find it, with a card and samples."""

from __future__ import annotations

import argparse
import copy
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from evolvedirector import __version__
from evolvedirector.callbacks._run.drawing import averaged_weights, student_draw
from evolvedirector.callbacks._run.held_out import evolution_plans
from evolvedirector.callbacks.preview import compose_grid
from evolvedirector.callbacks.run_summary import headlines
from evolvedirector.commands.chosen_expert import ChosenExperts, add_expert_options, chosen_experts
from evolvedirector.commands.console import readable_console
from evolvedirector.commands.exported_files import whole_folder, write_lora, write_whole
from evolvedirector.commands.exported_prior import check_prior_form, settings_of_prior, write_prior
from evolvedirector.commands.generate import refuse_full, requests_of
from evolvedirector.commands.trained_student import Trained, trained_student
from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import ImagePrior, TextToImage
from evolvedirector.lightning_modules.adapter_files import (
    adapter_tensors,
    check_layout,
    fused_network,
    lora_file,
    tensors_of,
)
from evolvedirector.lightning_modules.families.family import Layout
from evolvedirector.planning.roles import HasRoot, HoldsOut, StartsTrained
from evolvedirector.report.model_card import Provenance, model_card
from evolvedirector.store.paths import hub_name, user_path
from evolvedirector.store.revision import RevisionFiles

SAMPLES = "samples.png"
_MAX_SUMMARY_BYTES = 64 * 2**20


def main(args: list[str]) -> int | None:
    """Export a student.

    Args:
        args: The words after `export`; further ones are overrides as `fit` takes them.

    Returns:
        Exit code.

    Raises:
        UserError: The source cannot be used, or the folder is there already.
    """
    options, words = _parser().parse_known_args(args)
    out = user_path(options.out)
    refuse_full(out)
    licences = _licences(options.teacher_license or ())
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with readable_console():
        student = trained_student(user_path(options.source), not options.raw, words)
        module = student.run.model
        if isinstance(module, ImagePrior):
            check_prior_form(options.layout, options.merged)
        elif isinstance(module, TextToImage):
            check_form(module, options.layout, options.merged)
        else:
            raise UserError(
                f"{type(module).__name__} is neither a TextToImage nor an ImagePrior, so nobody knows which part of it "
                "is the network. Allowed are students of evolvedirector. Save your module's own weights in Python."
            )
        experts = chosen_experts(module, options, student.run.configured)
        print(f"Exporting the {student.weights} of {student.folder}{experts.told()}.", flush=True)
        student.work(lambda trainer, module: _export(trainer, module, student, out, licences, options, experts))
    return 0


def _export(
    trainer: Trainer,
    module: LightningModule,
    student: Trained,
    out: Path,
    licences: dict[str, str],
    options: argparse.Namespace,
    experts: ChosenExperts,
) -> None:
    """Draw samples and write everything into a folder beside the wanted one, which is then put in its place."""
    assert isinstance(module, TextToImage | ImagePrior)
    write = _writer(trainer, module, student, options, experts)
    experts.activate(module)
    samples = _samples(trainer, module, student, options.samples)
    if not trainer.is_global_zero:
        return
    with whole_folder(out) as partial:
        usage = write(partial)
        if samples is not None:
            samples.save(partial / SAMPLES)
        about = provenance(student, licences, options.license, options.layout, options.merged, experts)
        (partial / "README.md").write_text(model_card(about, usage, SAMPLES if samples else None), encoding="utf-8")
    print(f"Export: {out}", flush=True)


def _writer(
    trainer: Trainer,
    module: TextToImage | ImagePrior,
    student: Trained,
    options: argparse.Namespace,
    experts: ChosenExperts,
) -> Callable[[Path], str]:
    """Take the weights from all ranks and return what writes them: a LoRA is named, or refused, before anything else.

    What it returns is called on the first rank alone.
    """
    network, dtype = module.transformer, getattr(torch, options.dtype)
    assert network is not None
    model = student.run.config[student.run.subcommand].model
    if isinstance(module, ImagePrior):
        with averaged_weights(trainer, module):
            weights = {name: _whole(value) for name, value in network.state_dict().items()}
        return lambda folder: write_prior(module, _network(module, weights, dtype), model, folder)
    lora = module.trained.lora
    if lora is None:
        with averaged_weights(trainer, module):
            weights = {name: _whole(value) for name, value in network.state_dict().items()}
        return lambda folder: write_whole(module, _network(module, weights, dtype), model, folder)
    with averaged_weights(trainer, module):
        if experts.names:
            expert = experts.taken_out(module)
            lora, tensors = expert.lora, tensors_of(expert)
        else:
            tensors = adapter_tensors(network)
    if options.merged:

        def write_fused(folder: Path) -> str:
            fused = fused_network(network, module.family, module.seed, lora, tensors)
            return write_whole(module, fused.to(dtype), model, folder)

        return write_fused
    layout: Layout = options.layout or "diffusers"
    named = lora_file(network, module.family, lora, tensors, layout)
    return lambda folder: write_lora(module, lora, named, layout, dtype, folder)


def check_form(module: TextToImage, layout: Layout | None, merged: bool) -> None:
    """Refuse a form of export that does not go with what was trained; nothing is loaded for it.

    Args:
        module: The student.
        layout: Of a LoRA's file. None: not asked for.
        merged: Whether the LoRA is fused into its base.

    Raises:
        UserError: It does not.
    """
    lora = module.trained.lora
    if lora is None and (merged or layout):
        given = "--merged" if merged else f"--layout {layout}"
        raise UserError(
            f"{given} is about a LoRA, but this run trained the whole network. It is exported as a whole pipeline. "
            f"Leave {given} out."
        )
    if merged and layout:
        raise UserError(
            f"--merged fuses the LoRA into its base, and --layout {layout} is about its own file. Allowed is one of "
            "them. Leave the other out."
        )
    if lora is None or merged:
        return
    check_layout(module.family, lora, layout or "diffusers")
    if module.starts_from() is None:
        raise UserError(
            f"The base of this LoRA is a network with random weights of seed {module.seed}, which nobody else has. "
            "Allowed is the whole pipeline. Write --merged."
        )


def _network(module: TextToImage | ImagePrior, weights: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """Return a copy of the network with these weights, on the CPU, outside of any sharding."""
    with torch.random.fork_rng(devices=[]):
        network = _built_again(module) if _is_sharded(module) else copy.deepcopy(module.transformer)
    assert network is not None
    network.load_state_dict(weights)
    network = network.to("cpu") if dtype == torch.float32 else network.to("cpu", dtype)
    return network.eval()


def _built_again(module: TextToImage | ImagePrior) -> nn.Module:
    if isinstance(module, ImagePrior):
        return module.network.build(module.objective.reads_time, None)
    return copy.deepcopy(module.family).build()


def _is_sharded(module: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def _whole(value: Tensor) -> Tensor:
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().to("cpu", copy=True)


def _samples(trainer: Trainer, module: TextToImage | ImagePrior, student: Trained, count: int) -> Any:
    """Draw held-out prompts, spread over the skills, as one picture; None where there are none, or nothing draws."""
    data = student.run.datamodule
    if isinstance(module, ImagePrior) and module.decoder is None:
        return None
    listed = list(data.held_out_prompts()) if count and isinstance(data, HoldsOut) else []
    if not listed:
        return None
    skills: dict[str, list[str]] = {}
    for prompt in listed:
        skills.setdefault(prompt.skill, []).append(prompt.text)
    order = [texts[n] for n in range(max(map(len, skills.values()))) for texts in skills.values() if n < len(texts)]
    side = module.image_size_px
    named = requests_of(order[:count], [0], side, side)
    chunk = module.generation_chunk_size
    requests = [request for _, request in named]
    padded = [*requests, *[requests[-1]] * (-len(requests) % chunk)]
    images = student_draw(trainer, module)(padded)[: len(requests)]
    return compose_grid(order[:count], images, [None] * len(images), min(4, len(images)))


def provenance(
    student: Trained,
    licences: dict[str, str],
    licence: str | None,
    layout: Layout | None,
    merged: bool,
    experts: ChosenExperts,
) -> Provenance:
    """Gather what is known of a student from its run: summary, dataset, parts.

    Args:
        student: Built, with its run folder.
        licences: Of what the teachers draw, by teacher.
        licence: Of the exported weights.
        layout: Of a LoRA's file. None: that of diffusers.
        merged: Whether a LoRA is fused into its base.
        experts: Those that are exported, of a run with several.
    """
    module, data, figures = student.run.model, student.run.datamodule, _summary(student.folder / "summary.json")
    by_teacher: Counter[str] = Counter()
    revision = None
    if isinstance(data, HasRoot) and (sha := RevisionFiles(Path(data.data_root)).current()):
        found = RevisionFiles(Path(data.data_root)).load(sha)
        for entry in found.state.entries.values():
            if entry.state in ("live", "mastered"):
                by_teacher.update(sample.teacher for sample in entry.samples)
        revision = f"revision {found.number} ({sha[:12]})"
    plans = evolution_plans(student.run.configured)
    seen = figures.get("images_seen")
    start = module.starts_from() if isinstance(module, StartsTrained) else None
    family = f" ({type(module.family).__name__})" if isinstance(module, TextToImage) else ""
    return Provenance(
        name=student.folder.absolute().name,
        student=f"{type(module).__name__}{family}",
        weights=student.weights + experts.told(),
        starts_from=hub_name(start) if start else None,
        settings=settings_of_prior(module) if isinstance(module, ImagePrior) else {},
        adapter=_adapter(module, layout) if isinstance(module, TextToImage) else None,
        is_adapter_alone=isinstance(module, TextToImage) and module.trained.lora is not None and not merged,
        images_seen=seen if isinstance(seen, int) else None,
        revision=revision,
        images_by_teacher=by_teacher,
        licences=licences,
        judge=type(plans[0].settings.judge).__name__ if plans else None,
        teacher_calls=_number(figures.get("teacher_calls")),
        judge_calls=_number(figures.get("judge_calls")),
        cost_usd=figures["cost_usd"] if isinstance(figures.get("cost_usd"), int | float) else None,
        figures=tuple(line for line in headlines(figures) if not line.startswith("Spent")),
        licence=licence,
        version=__version__,
    )


def _adapter(module: TextToImage, layout: Layout | None) -> str | None:
    """Say in words which LoRA was trained; None: the whole network was."""
    lora = module.trained.lora
    if lora is None:
        return None
    kind = "DoRA" if lora.dora else "LoRA"
    named = f", in the layout of {layout}" if layout else ""
    beside = module.trained.base_precision
    return f"{kind} of rank {lora.rank} and alpha {lora.scale * lora.rank:g}, trained beside a base in {beside}{named}"


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _summary(path: Path) -> dict[str, Any]:
    """Read the figures of a run; without any, or with damaged ones, nothing is said."""
    try:
        found = json.loads(path.read_bytes()) if path.stat().st_size <= _MAX_SUMMARY_BYTES else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _licences(stated: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in stated:
        name, equals, licence = text.partition("=")
        if not equals or not name.strip() or not licence.strip():
            raise UserError(
                f"--teacher-license is {text!r}. Allowed is NAME=LICENCE, with the teacher's name in the config. Write "
                "--teacher-license flux=apache-2.0, say."
            )
        found[name.strip()] = licence.strip()
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evolvedirector export",
        allow_abbrev=False,
        description="Write a trained student as a diffusers folder, or the LoRA of one as a file, with a model card "
        "(provenance, spending, teachers and their terms) and a picture of samples.",
        epilog="Further options are overrides as fit takes them: --trainer.accelerator=cpu",
    )
    parser.add_argument("source", help="a run folder, whose newest checkpoint is taken, or a checkpoint in one")
    parser.add_argument("out", help="a new folder")
    parser.add_argument("--raw", action="store_true", help="trained weights in place of averaged ones (EMA)")
    add_expert_options(parser)
    parser.add_argument("--layout", choices=get_args(Layout), help="whose names the file of a LoRA has (diffusers)")
    parser.add_argument("--merged", action="store_true", help="the whole pipeline, with the LoRA fused into its base")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the weights (float32)"
    )
    parser.add_argument("--samples", type=int, default=8, help="held-out prompts in the picture of samples (8)")
    parser.add_argument("--license", metavar="SPDX", help="licence of the weights, for the card")
    parser.add_argument(
        "--teacher-license", action="append", metavar="NAME=SPDX", help="licence or terms of what a teacher draws"
    )
    return parser
