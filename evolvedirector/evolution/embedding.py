"""Embeddings of the samples of a revision: what is missing, asked once for each text and image, and made into files."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.evolution.remembered import in_groups
from evolvedirector.evolution.round_parts import Round
from evolvedirector.execution.executor import Executor, Phase
from evolvedirector.models.embedder import (
    EDGE_EMBEDDING,
    IMAGE_EMBEDDING,
    SUBJECT_EMBEDDINGS,
    SUBJECT_TOKENS,
    TEXT_EMBEDDING,
    TEXT_STATES,
)
from evolvedirector.models.embedding_part import EmbeddingPart, ImageToEmbed, TextToEmbed
from evolvedirector.records import IMAGE_ROLE, FileRef, RevisionChange, Sample
from evolvedirector.records.prompt_subjects import EDGE, SUBJECT_IMAGES, SUBJECTS, read_subjects
from evolvedirector.store.delta import Revision
from evolvedirector.store.derived import makers_of
from evolvedirector.store.embeddings import EmbeddingFiles
from evolvedirector.store.files import decode_file

EMBEDDING_ROLES = (TEXT_STATES, TEXT_EMBEDDING, IMAGE_EMBEDDING)
"""What an embedder gives every sample."""
_OF_SUBJECTS = (SUBJECT_TOKENS, SUBJECT_EMBEDDINGS)
_ALL_ROLES = (*EMBEDDING_ROLES, *_OF_SUBJECTS, EDGE_EMBEDDING)
_CUT = "cut"
_TRAINED = ("live", "mastered")

Units = Callable[[Sequence[str], Phase, int], Iterator[Sequence[str]]]
"""Cuts work into short units, and reports between them, as `Round.units` does."""
ReadFile = Callable[[Sample, str], bytes]
"""Reads the encoded file of a sample's role, as late as possible."""
Derived = Iterator[tuple[str, Mapping[str, FileRef]]]
"""Sample key and its files by role, as the store publishes them."""


@dataclass(frozen=True, slots=True)
class EmbeddingWork:
    """What there was to embed.

    Args:
        samples: That get embeddings.
        texts: Different ones.
        images: Different ones, pictures of subjects and edges among them.
        cut: Texts with more tokens than the model reads.
        asked_texts: That were not kept from an earlier attempt.
        asked_images: Likewise.
    """

    samples: int
    texts: int
    images: int
    cut: int
    asked_texts: int
    asked_images: int


def roles_of(sample: Sample) -> tuple[str, ...]:
    """Name what an embedder gives a sample: further files where it has subjects or an edge picture.

    Args:
        sample: With its own files.
    """
    subjects = _OF_SUBJECTS if SUBJECTS in sample.files else ()
    return (*EMBEDDING_ROLES, *subjects, *((EDGE_EMBEDDING,) if EDGE in sample.files else ()))


def subject_places(samples: Sequence[Sample], read_file: ReadFile, part: EmbeddingPart) -> dict[str, np.ndarray]:
    """Return, by sample key, which tokens stand for which subject, UInt8[subject, token]; samples without have none.

    Args:
        samples: That lack embeddings.
        read_file: Reads the names.
        part: Knows the tokens.

    Raises:
        UserError: Names and pictures of a sample do not fit its prompt or each other.
    """
    found: dict[str, np.ndarray] = {}
    for sample in samples:
        if SUBJECTS in sample.files:
            value = decode_file(read_file(sample, SUBJECTS), "json", SUBJECTS)
            named = read_subjects(value, sample.files, f"The sample {sample.key!r}")
            found[sample.key] = part.places(sample.prompt.text, named)
        elif lone := [role for role in SUBJECT_IMAGES if role in sample.files]:
            raise UserError(
                f"The sample {sample.key!r} has a {lone[0]} and no names. Allowed are pictures of subjects beside "
                f"their names. Import it with the role {SUBJECTS}, or without {lone[0]}."
            )
    return found


def embed_samples(
    samples: Sequence[Sample],
    read_file: ReadFile,
    files: EmbeddingFiles,
    part: EmbeddingPart,
    executor: Executor,
    units: Units,
) -> EmbeddingWork:
    """Embed each text and each image of samples once, as far as it is not kept; every group is kept as it comes.

    Args:
        samples: That lack embeddings.
        read_file: Reads their pictures.
        files: Keep what was embedded.
        part: The embedder; one of the executor's.
        executor: Carries requests to it.
        units: Cuts the work.
    """
    texts = {files.text_key(sample.prompt.text): sample.prompt.text for sample in samples}
    images = {files.image_key(sha): (sample, role) for sample in samples for role, sha in _pictures(sample).items()}

    def ask(method: str, keys: Sequence[str], request: Callable[[str], TextToEmbed | ImageToEmbed]) -> None:
        for unit in units(keys, "embed", executor.unit_of(part)):
            replies = executor.ask(part, method, [request(key) for key in unit])
            with closing(in_groups(replies)) as groups:
                for group in groups:
                    files.write(
                        {reply.request_id: {**reply.arrays, _CUT: np.array([reply.cut], np.uint8)} for reply in group}
                    )

    asked = files.missing(texts), files.missing(images)
    ask("texts", asked[0], lambda key: TextToEmbed(key, texts[key]))
    ask("images", asked[1], lambda key: ImageToEmbed(key, read_file(*images[key])))
    cut = sum(bool(_kept(files, key)[_CUT][0]) for key in texts)
    return EmbeddingWork(len(samples), len(texts), len(images), cut, len(asked[0]), len(asked[1]))


def _pictures(sample: Sample) -> dict[str, str]:
    """Return the sha256 of each picture that is embedded, by role: the image, those of subjects, that of edges."""
    further = [role for role in (*SUBJECT_IMAGES, EDGE) if role in sample.files]
    return {IMAGE_ROLE: sample.image_sha256} | {role: sample.files[role].sha256 for role in further}


def derived_files(
    samples: Iterable[Sample], files: EmbeddingFiles, places: Mapping[str, np.ndarray] | None = None
) -> Derived:
    """Yield the files of each sample, from what is kept.

    Args:
        samples: All embedded.
        files: Keep what was embedded.
        places: By sample key, tokens of its subjects, as `subject_places` returns them. None: there are none.
    """
    for sample in samples:
        pictures = {
            role: _kept(files, files.image_key(sha))[IMAGE_EMBEDDING] for role, sha in _pictures(sample).items()
        }
        arrays = _kept(files, files.text_key(sample.prompt.text)) | {IMAGE_EMBEDDING: pictures[IMAGE_ROLE]}
        if places and sample.key in places:
            shown = [pictures[role] for role in SUBJECT_IMAGES if role in pictures]
            arrays |= {SUBJECT_TOKENS: places[sample.key], SUBJECT_EMBEDDINGS: np.stack(shown)}
        if EDGE in pictures:
            arrays[EDGE_EMBEDDING] = pictures[EDGE]
        yield sample.key, {role: npy_file(arrays[role]) for role in roles_of(sample)}


def unembedded(root: Path, revision: Revision, fingerprint: str, replace: bool = False) -> list[Sample]:
    """List the samples that a revision trains on and that lack embeddings.

    Args:
        root: The dataset root.
        revision: One of its revisions.
        fingerprint: Of the embedder.
        replace: List those with embeddings of another embedder as well.

    Raises:
        UserError: Some have embeddings of another one, and are not to be replaced; or some came with their own.
    """
    trained = _trained(revision)
    made_by = {role: makers_of(root, revision, role) for role in _ALL_ROLES}
    others = sorted(
        {makers[s.key] for makers in made_by.values() for s in trained if makers.get(s.key)} - {fingerprint}
    )  # an empty name is nobody's: files that came with an import
    if others and not replace:
        count = sum(any(makers.get(s.key) in others for makers in made_by.values()) for s in trained)
        raise UserError(
            f"{count} of {len(trained)} samples of '{root}' have embeddings of another embedder, {others[0]}, not of "
            f"{fingerprint}. Allowed is one for all samples that are trained on. Take that embedder, or run "
            f"`evolvedirector embed {shlex.quote(str(root))} --replace` with the new one."
        )
    lacking = [s for s in trained if any(made_by[role].get(s.key, None) in (None, *others) for role in roles_of(s))]
    own = _own(trained, [made_by[role] for role in EMBEDDING_ROLES])
    if own and len(own) < len(trained):
        raise _not_alone(root, own, trained)
    for sample in lacking:
        if taken := sorted(set(roles_of(sample)) & sample.files.keys()):
            raise UserError(
                f"The sample '{sample.key}' came with its own '{taken[0]}', but not with all of "
                f"{', '.join(roles_of(sample))}. Allowed are all of these, or none. Import it again without --roles, "
                "or with all of them."
            )
    return lacking


def own_embeddings(root: Path, revision: Revision) -> list[Sample]:
    """List the samples that a revision trains on and that came with embeddings, of nobody knows whom.

    Args:
        root: The dataset root.
        revision: One of its revisions.
    """
    return _own(_trained(revision), [makers_of(root, revision, role) for role in EMBEDDING_ROLES])


def _trained(revision: Revision) -> list[Sample]:
    return [s for entry in revision.state.entries.values() if entry.state in _TRAINED for s in entry.samples]


def _own(trained: Sequence[Sample], made_by: Sequence[Mapping[str, str]]) -> list[Sample]:
    return [s for s in trained if all(makers.get(s.key) == "" for makers in made_by)]


def _not_alone(root: Path, own: Sequence[Sample], trained: Sequence[Sample]) -> UserError:
    """Return the refusal of embeddings beside others of which nobody knows who made them."""
    return UserError(
        f"{len(own)} of {len(trained)} samples of '{root}' came with embeddings of their own, and nobody knows of "
        "which embedder. Allowed is one for all samples that are trained on. Import all with their own, or import "
        "again without --roles and embed all."
    )


# ---- in a round


def check_embeddings(round: Round) -> None:
    """Refuse a round that would add embeddings of one embedder to those of another, before anything is bought.

    Args:
        round: The round.

    Raises:
        UserError: The revision has embeddings of another embedder, or of nobody knows whom.
    """
    part, store = round.parts.embedder, round.parts.store
    if part is not None:
        revision = store.revision(round.info.revision_sha)
        unembedded(store.root, revision, part.fingerprint)
        if own := own_embeddings(store.root, revision):
            raise _not_alone(store.root, own, own)


def embed(round: Round, change: RevisionChange) -> Derived:
    """Embed what a round is about to publish, and what its revision lacks; nothing where no embedder takes part.

    What was computed is kept until the round is closed, so that a killed one does not compute it again.

    Args:
        round: The round.
        change: What it is about to publish.

    Returns:
        The files of each sample, for `DatasetStore.publish`.
    """
    part, store = round.parts.embedder, round.parts.store
    if part is None:
        return iter(())
    lacking = unembedded(store.root, store.revision(round.info.revision_sha), part.fingerprint)
    staying = [s for s in lacking if change.states.get(s.prompt.id) != "retired"]
    samples = list({sample.key: sample for sample in chain(staying, change.samples)}.values())
    files = EmbeddingFiles(store.root, part.fingerprint)

    def read_file(sample: Sample, role: str) -> bytes:
        return store.blobs.get(sample.image_sha256 if role == IMAGE_ROLE else sample.files[role].sha256)

    places = subject_places(samples, read_file, part)
    embed_samples(samples, read_file, files, part, round.parts.executor, round.units)
    return derived_files(samples, files, places)


def forget_embedded(round: Round) -> None:
    """Delete what `embed` kept: a revision holds it now.

    Args:
        round: The round.
    """
    if round.parts.embedder is not None:
        EmbeddingFiles(round.parts.store.root, round.parts.embedder.fingerprint).discard()


def _kept(files: EmbeddingFiles, key: str) -> dict[str, np.ndarray]:
    arrays = files.read(key)
    if arrays is None:
        raise UserError(
            f"An embedding that was kept cannot be read any more ({key}). Its file must stay until it is published. "
            "Give the same command again; it is computed anew."
        )
    return arrays


def npy_file(array: np.ndarray) -> FileRef:
    """Return an array as a file of a sample.

    Args:
        array: Of plain numbers.
    """
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return FileRef.of(buffer.getvalue(), "application/x-npy")
