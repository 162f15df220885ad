"""`evolvedirector generate`: draw prompts with a trained student, from a run, a checkpoint or an export."""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer

from evolvedirector.callbacks._run.drawing import draw_share, encode_png
from evolvedirector.callbacks.preview import compose_grid
from evolvedirector.commands.chosen_expert import add_expert_options, chosen_experts
from evolvedirector.commands.console import readable_console
from evolvedirector.commands.subject_files import subject_files
from evolvedirector.commands.trained_student import trained_student
from evolvedirector.errors import UserError
from evolvedirector.models.exported_student import (
    LORA_FILES,
    STUDENT,
    described_student,
    exported_student,
    set_sampling,
)
from evolvedirector.records import FileRef, ImageRequest, digest
from evolvedirector.store.paths import user_path
from evolvedirector.store.prompt_files import read_prompts
from evolvedirector.teachers import DiffusersTeacher

GRID = "grid.png"
LISTING = "images.jsonl"
_MAX_IMAGES_IN_GRID = 400


@runtime_checkable
class DrawsAtASize(Protocol):
    """A student that says how large its images are, and how many it draws at once."""

    image_size_px: int
    generation_chunk_size: int


@runtime_checkable
class DrawsThroughADecoder(Protocol):
    """A student that predicts embeddings; images need a decoder."""

    @property
    def decoder(self) -> object | None:
        """Draws what embeddings say; None: nothing does."""
        ...


def main(args: list[str]) -> int | None:
    """Draw prompts.

    Args:
        args: The words after `generate`; further ones are overrides as `fit` takes them.

    Returns:
        Exit code.

    Raises:
        UserError: Source, prompts, seeds or size cannot be used.
    """
    options, words = _parser().parse_known_args(args)
    source = user_path(options.source)
    if options.out is not None:
        refuse_full(user_path(options.out))
    prompts = _prompts(options)
    size = _size(options.size)
    seeds = _seeds(options.seeds)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with readable_console():
        if (source / "model_index.json").is_file():
            _draw_with_export(source, prompts, seeds, size, options, words)
        elif (source / STUDENT).is_file():
            _draw_with_own_export(source, prompts, seeds, size, options, words)
        elif any((source / name).is_file() for name in LORA_FILES):
            raise UserError(
                f"{source} holds a LoRA alone. Allowed is a whole student. Load it as the README.md there shows, or "
                "export the run with --merged."
            )
        else:
            _draw_with_run(source, prompts, seeds, size, options, words)
    return 0


def requests_of(
    prompts: Sequence[str],
    seeds: Sequence[int],
    height_px: int,
    width_px: int,
    files: Mapping[str, FileRef] | None = None,
) -> list[tuple[str, ImageRequest]]:
    """Return one request for each prompt and seed, with the name of its picture: prompts in rows, seeds in columns.

    Args:
        prompts: Texts.
        seeds: Of the noise.
        height_px: Of each image.
        width_px: Likewise.
        files: That come with every request. None: there are none.
    """
    found = []
    for number, prompt in enumerate(prompts):
        word = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:48].rstrip("-") or "prompt"
        for seed in seeds:
            name = f"{number:04d}-{word}-seed{seed}.png"
            request = ImageRequest(digest("generate", name), prompt, seed, width_px, height_px, files=files or {})
            found.append((name, request))
    return found


def write_images(
    folder: Path, named: Sequence[tuple[str, ImageRequest]], images: Mapping[str, bytes], columns: int
) -> None:
    """Write pictures, a line of JSON for each, and a grid of all of them.

    Args:
        folder: Made; there are no pictures in it yet.
        named: Name and request of each picture.
        images: PNG by request id.
        columns: Pictures side by side in the grid.
    """
    lines = []
    for name, request in named:
        (folder / name).write_bytes(images[request.request_id])
        about = {"image": name, "prompt": request.prompt, "seed": request.seed}
        lines.append(json.dumps(about, ensure_ascii=False) + "\n")
    (folder / LISTING).write_text("".join(lines), encoding="utf-8", errors="surrogatepass")
    shown = named[: _MAX_IMAGES_IN_GRID // columns * columns]
    pictures = [images[request.request_id] for _, request in shown]
    compose_grid([request.prompt for _, request in shown], pictures, [None] * len(shown), columns).save(folder / GRID)


def refuse_full(folder: Path) -> None:
    """Refuse a folder that is there and holds something.

    Raises:
        UserError: It does.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and not empty. Allowed is a new folder. Name another.")


def new_folder(wanted: str | None, beside: Path) -> Path:
    """Make the folder of the pictures; earlier ones are never written over.

    Args:
        wanted: As it was asked for. None: `generated`, then `generated-2` and so on.
        beside: Where that lies.

    Raises:
        UserError: The folder that was asked for is there and not empty.
    """
    if wanted is not None:
        refuse_full(folder := user_path(wanted))
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    number = 1
    while True:
        folder = beside / ("generated" if number == 1 else f"generated-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def _draw_with_run(
    source: Path,
    prompts: list[str],
    seeds: list[int],
    size: tuple[int, int] | None,
    options: argparse.Namespace,
    words: Sequence[str],
) -> None:
    student = trained_student(source, not options.raw, words)
    module = student.run.model
    _check_draws(module)
    _set(module, options)
    experts = chosen_experts(module, options, student.run.configured)
    if size is None:
        if not isinstance(module, DrawsAtASize):
            raise UserError(
                f"The size of the images is unknown: {type(module).__name__} names none. Write --size 512x512, say."
            )
        size = (module.image_size_px, module.image_size_px)
    named = requests_of(prompts, seeds, *size, _files(module, options))
    print(f"Drawing {len(named):,} images with the {student.weights} of {student.folder}{experts.told()}.", flush=True)

    def work(trainer: Trainer, module: LightningModule) -> None:
        experts.activate(module)
        images = draw_share(trainer, module, [request for _, request in named])
        _gather(trainer, images, lambda found: _finish(found, named, options, student.folder, len(seeds)))

    student.work(work)


def _gather(trainer: Trainer, images: dict[str, bytes], finish: Callable[[dict[str, bytes]], None]) -> None:
    """Bring the pictures of all ranks to the first one, which writes them."""
    if trainer.world_size == 1:
        return finish(images)
    import torch.distributed as dist

    found: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(found, images)
    if trainer.is_global_zero:
        finish({key: image for part in found for key, image in part.items()})


def _draw_with_export(
    folder: Path,
    prompts: list[str],
    seeds: list[int],
    size: tuple[int, int] | None,
    options: argparse.Namespace,
    words: Sequence[str],
) -> None:
    _refuse_words_of_runs(options, words)
    _files(None, options)
    if size is None:
        raise UserError("An export does not say the size of its images. Write --size 512x512, say.")
    teacher = DiffusersTeacher(
        str(folder),
        dtype=options.dtype,
        batch_size=options.batch_size or 4,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
    )
    named = requests_of(prompts, seeds, *size)
    print(f"Drawing {len(named):,} images with the pipeline in {folder}.", flush=True)
    images: dict[str, bytes] = {}
    for reply in teacher.generate([request for _, request in named]):
        if reply.image is None:
            raise UserError(f"An image could not be drawn: {reply.reason}. Try a smaller --size or --batch-size.")
        images[reply.request_id] = reply.image
    teacher.close()
    _finish(images, named, options, folder.absolute().parent, len(seeds))


def _draw_with_own_export(
    folder: Path,
    prompts: list[str],
    seeds: list[int],
    size: tuple[int, int] | None,
    options: argparse.Namespace,
    words: Sequence[str],
) -> None:
    _refuse_words_of_runs(options, words)
    _check_draws(described_student(folder))  # before any weights are loaded
    module = exported_student(folder)
    _set(module, options)
    if torch.cuda.is_available():
        module.to("cuda")
    side_px = module.image_size_px
    named = requests_of(prompts, seeds, *(size or (side_px, side_px)), _files(module, options))
    print(f"Drawing {len(named):,} images with the student in {folder}.", flush=True)
    with torch.no_grad():
        drawn = module.generate([request for _, request in named])
    images = {request.request_id: encode_png(image) for (_, request), image in zip(named, drawn, strict=True)}
    _finish(images, named, options, folder.absolute().parent, len(seeds))


def _refuse_words_of_runs(options: argparse.Namespace, words: Sequence[str]) -> None:
    if words:
        raise UserError(
            f"{' '.join(words)} is no option for an export, which has no config. Overrides go with a run or a "
            "checkpoint. Leave them out."
        )
    if options.raw:
        raise UserError("--raw chooses weights of a checkpoint, and an export has one kind. Leave --raw out.")
    if options.expert or options.merge:
        raise UserError(
            "--expert and --merge choose among the experts of a run, and an export has one kind of weights. Leave them "
            "out, or name the run."
        )


def _finish(
    images: Mapping[str, bytes],
    named: Sequence[tuple[str, ImageRequest]],
    options: argparse.Namespace,
    beside: Path,
    columns: int,
) -> None:
    folder = new_folder(options.out, beside)
    write_images(folder, named, images, columns if columns > 1 else min(4, len(named)))
    print(f"Images: {folder}\nGrid:   {folder / GRID}", flush=True)


def _set(module: Any, options: argparse.Namespace) -> None:
    """Let the options say how the student draws."""
    set_sampling(module, options.steps, options.guidance)
    if options.batch_size is None:
        return
    if not isinstance(module, DrawsAtASize):
        raise UserError(
            f"{type(module).__name__} does not say how many images it draws at once, so --batch-size cannot be set. "
            "Allowed is a module with generation_chunk_size. Leave --batch-size out."
        )
    module.generation_chunk_size = options.batch_size


def _check_draws(module: object) -> None:
    """Refuse a prior without decoder.

    Raises:
        UserError: It is one.
    """
    if isinstance(module, DrawsThroughADecoder) and module.decoder is None:
        raise UserError(
            f"This {type(module).__name__} has no decoder, so it predicts embeddings and draws no images. Allowed is "
            "one with a decoder of its space. For a run add a config with -c decoder.yaml, or write model.init_args."
            "decoder before you export."
        )


def _files(module: object, options: argparse.Namespace) -> dict[str, FileRef]:
    """Read the pictures of subjects and edges, for a prior.

    Raises:
        UserError: The student reads none, or one cannot be read.
    """
    if not options.subject and options.edge is None:
        return {}
    if not isinstance(module, DrawsThroughADecoder):
        raise UserError(
            f"{'--subject' if options.subject else '--edge'} is for priors, which read embeddings of pictures. Allowed "
            "is a run or export of an ImagePrior. Leave it out."
        )
    return subject_files(options.subject or (), options.edge)


def _prompts(options: argparse.Namespace) -> list[str]:
    found = list(options.prompts or ())
    if options.file:
        found += [prompt.text for prompt in read_prompts(options.file)]
    if not found:
        raise UserError('There is nothing to draw. Write --prompts "a red circle" "two stars", or --file prompts.txt.')
    return found


def _seeds(text: str) -> list[int]:
    """Read `0,1,7` or `0-3`, both ends included."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        if match is None or (match[2] and not int(match[1]) <= int(match[2]) < int(match[1]) + 10_000):
            raise UserError(
                f"--seeds is {text!r}. Allowed are whole numbers and ranges: 0,1,7 or 0-3. Write one of these."
            )
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(found))


def _size(text: str | None) -> tuple[int, int] | None:
    """Read `WIDTHxHEIGHT` or one side; returns height and width."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip().lower())
    if match is None or not int(match[1]) or not int(match[2] or match[1]):
        raise UserError(f"--size is {text!r}. Allowed is WIDTHxHEIGHT in pixels, or one side: 768x512, 512. Write one.")
    return int(match[2] or match[1]), int(match[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evolvedirector generate",
        allow_abbrev=False,
        description="Draw prompts with a trained student: every prompt with every seed, pictures and a grid of them.",
        epilog="With a run or a checkpoint, further options are overrides as fit takes them: --trainer.accelerator=cpu",
    )
    parser.add_argument(
        "source", help="a run folder, a checkpoint in one, or a folder that `evolvedirector export` made"
    )
    parser.add_argument("--prompts", nargs="+", metavar="TEXT", help="texts to draw")
    parser.add_argument("--file", metavar="FILE", help="prompts as .txt (one per line), .jsonl, .json, .csv or .yaml")
    parser.add_argument("--seeds", default="0", help="one image of each prompt per seed: 0,1,7 or 0-3 (0)")
    parser.add_argument(
        "--subject",
        action="append",
        metavar="NAME=PICTURE",
        help="a word of the prompts, and a picture of what it shall look like, for a prior; up to four times",
    )
    parser.add_argument("--edge", metavar="PICTURE", help="edges of the wanted image, for a prior that reads them")
    parser.add_argument("--size", metavar="WIDTHxHEIGHT", help="in pixels (the student's own)")
    parser.add_argument("--steps", type=int, help="sampling steps (the student's own)")
    parser.add_argument("--guidance", type=float, help="guidance scale (the student's own)")
    parser.add_argument("--batch-size", type=int, help="images drawn at once (the student's own)")
    add_expert_options(parser)
    parser.add_argument("--raw", action="store_true", help="trained weights in place of averaged ones (EMA)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the weights of an exported pipeline (float32)",
    )
    parser.add_argument("--out", metavar="FOLDER", help="a new folder (generated/ beside the run's own files)")
    return parser
