"""`evolvedirector embed`: give the samples of a dataset root the embeddings that priors are trained on."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolvedirector.commands.console import readable_console
from evolvedirector.commands.part_files import build_part
from evolvedirector.errors import UserError
from evolvedirector.models.part_files import read_part
from evolvedirector.records import digest
from evolvedirector.store.paths import user_path

if TYPE_CHECKING:
    from evolvedirector.evolution.embedding import EmbeddingWork
    from evolvedirector.execution.executor import Phase
    from evolvedirector.models.embedder import Embedder
    from evolvedirector.records import Sample
    from evolvedirector.store import DatasetStore, Revision

_CLIP_OPTIONS = ("revision", "image_model", "image_revision", "projection_dim", "batch_size", "device", "dtype")
_UNIT = 256
"""Requests of a unit: what a kill can lose, and how often progress is looked at."""
_TOLD_EVERY_S = 10.0


def main(args: list[str]) -> int:
    """Embed what the newest revision of a root trains on, and publish it in companion shards.

    Args:
        args: The words after `embed`.

    Returns:
        Exit code: 0.

    Raises:
        ValueError: The root, the embedder or a sample cannot be used.
    """
    options = _parser().parse_args(args)
    root = user_path(options.root)
    from evolvedirector.records.part import close_parts, verify_parts
    from evolvedirector.store import DatasetStore

    with readable_console():
        embedder = _embedder(options)
        verify_parts(embedder)
        try:
            with DatasetStore(root) as store:
                _embed(store, embedder, options.replace)
        finally:
            close_parts(embedder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evolvedirector embed",
        allow_abbrev=False,
        description="Embed the prompts and images of a dataset root once each: text_states, text_embedding and "
        "image_embedding of every sample that is trained on. The same command goes on where one was stopped.",
    )
    parser.add_argument("root", help="folder of the dataset")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--embedder", metavar="FILE", help="a YAML with class_path and init_args of an embedder")
    which.add_argument(
        "--model", metavar="NAME", help="a CLIP by folder or name on the hub, such as openai/clip-vit-large-patch14"
    )
    parser.add_argument("--revision", metavar="SHA", help="branch, tag or commit of --model (main)")
    parser.add_argument("--image-model", metavar="NAME", help="where its vision half lies, if not there")
    parser.add_argument("--image-revision", metavar="SHA", help="branch, tag or commit of --image-model (main)")
    parser.add_argument("--projection-dim", type=int, metavar="N", help="width of the joint space (the model says it)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="texts or images embedded together (32)")
    parser.add_argument("--device", help="as PyTorch names it (the GPU, or the CPU where there is none)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of weights and work (float32)")
    parser.add_argument("--replace", action="store_true", help="replace embeddings of another embedder")
    return parser


def _embedder(options: argparse.Namespace) -> Embedder:
    given: dict[str, Any] = {n: getattr(options, n) for n in _CLIP_OPTIONS if getattr(options, n) is not None}
    if options.embedder is None:
        from evolvedirector.models.clip_embedder import ClipEmbedder

        return ClipEmbedder(options.model, **given)
    if given:
        name = next(iter(given))
        raise UserError(
            f"--{name.replace('_', '-')} stands beside --embedder, whose file has settings of its own. Allowed is it "
            f"beside --model. Write `{name}` among the init_args of {options.embedder}."
        )
    from evolvedirector.models.embedder import Embedder

    path = user_path(options.embedder)
    built: Embedder = build_part(read_part(path, "embedder"), Embedder, "embedder", str(path))
    return built


def _embed(store: DatasetStore, embedder: Embedder, replace: bool) -> None:
    from evolvedirector.evolution.embedding import (
        derived_files,
        embed_samples,
        own_embeddings,
        subject_places,
        unembedded,
    )
    from evolvedirector.execution.local import LocalExecutor
    from evolvedirector.models.embedding_part import EmbeddingPart
    from evolvedirector.store.edits import newest
    from evolvedirector.store.embeddings import EmbeddingFiles

    part, revision = EmbeddingPart(embedder), newest(store)
    name = part.fingerprint
    samples = unembedded(store.root, revision, name, replace)
    files = EmbeddingFiles(store.root, name)
    if not samples:
        files.discard()
        own = own_embeddings(store.root, revision)
        what = "came with embeddings of its own" if own else f"has embeddings of {name}"
        print(f"Every sample of revision {revision.number} that is trained on {what}.", flush=True)
        return
    executor = LocalExecutor({"embed": {"embedder": part}}, unit=_UNIT)
    clock = _Clock()
    read_file = _reader_of(store.root, revision)
    places = subject_places(samples, read_file, part)
    figures = embed_samples(samples, read_file, files, part, executor, clock.units)
    derived = derived_files(samples, files, places)
    sha = store.publish_companion(revision.state.revision_sha, f"embed-{digest(name, length=12)}", derived, name)
    files.discard()
    print(_told(figures, clock, embedder), f"Revision {revision.number + 1} ({sha[:12]}).", sep="\n", flush=True)


def _reader_of(root: Path, revision: Revision) -> Any:
    """Return what reads a file of a sample from the shards, by role."""
    from evolvedirector.records import IMAGE_ROLE
    from evolvedirector.records.prompt_subjects import SOURCE_ROLES
    from evolvedirector.store import RevisionReader
    from evolvedirector.store.files import split_member

    reader = RevisionReader(root, revision.state.revision_sha, (IMAGE_ROLE,), optional_roles=SOURCE_ROLES)
    rows = {key: row for row, key in enumerate(reader.keys.tolist())}

    def read_file(sample: Sample, role: str) -> bytes:
        raw = reader.raw(rows[sample.key])
        found = next(content for name, content in raw.items() if split_member(name)[0] == role)
        assert isinstance(found, bytes)
        return found

    return read_file


def _told(figures: EmbeddingWork, clock: _Clock, embedder: Embedder) -> str:
    kept = figures.texts + figures.images - figures.asked_texts - figures.asked_images
    lines = [
        f"Embedded {figures.samples} samples: {figures.texts} different texts ({figures.asked_texts} now, "
        f"{clock.rate(figures.asked_texts, 0)} texts/s), {figures.images} different images ({figures.asked_images} "
        f"now, {clock.rate(figures.asked_images, 1)} img/s); {kept} kept from before.",
        f"{figures.cut} texts were longer than {embedder.max_tokens} tokens and lost their end.",
        f"Embedder: {embedder.fingerprint}, {embedder.embedding_dim} values.",
    ]
    return "\n".join(lines)


class _Clock:
    """Cut work into units, say now and then how far it is, and time it: first the texts, then the images."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def units(self, keys: Sequence[str], phase: Phase, size: int) -> Iterator[Sequence[str]]:
        """Cut work as a round does."""
        what = ("texts", "images")[len(self._seconds)]
        began = told = time.perf_counter()
        for start in range(0, len(keys), size):
            yield keys[start : start + size]
            now, done = time.perf_counter(), min(start + size, len(keys))
            if now - told >= _TOLD_EVERY_S:
                told = now
                print(f"{done} of {len(keys)} {what}, {done / (now - began):.3g} per second ...", flush=True)
        self._seconds.append(time.perf_counter() - began)

    def rate(self, count: int, place: int) -> str:
        """Return how many were done in a second, loading included; `-` where there was nothing to do."""
        return f"{count / self._seconds[place]:.3g}" if count else "-"
