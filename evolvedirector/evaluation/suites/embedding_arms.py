"""What a prior predicts in its joint space, beside arms that learn little or nothing."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from evolvedirector.errors import UserError
from evolvedirector.evaluation.kept_pictures import keep_picture
from evolvedirector.evaluation.negatives import HardNegatives
from evolvedirector.evaluation.prompt_choice import refuse_below, requests_to_draw, spread_over_skills
from evolvedirector.evaluation.suite import Asked, Drawn, Figure, Offered, Outcome, Readings, Sitting
from evolvedirector.judges.judge import Judge
from evolvedirector.models.embedder import IMAGE_EMBEDDING, TEXT_EMBEDDING, Embedder
from evolvedirector.models.embedding_decoder import EmbeddingDecoder
from evolvedirector.records import ImageAndPrompt, ImageRequest, Prompt, digest
from evolvedirector.records.looks import reading_of
from evolvedirector.records.part import Part
from evolvedirector.store.images import decode_image
from evolvedirector.teachers.teacher import Teacher

if TYPE_CHECKING:
    from torch import Tensor

TRUE, TEXT, RIDGE, PRIOR = "true embedding", "text itself", "ridge", "prior"
"""Arms: the embedding of the artist's image; the text's own embedding, unchanged; a linear map; the student."""
PICTURES = "embedding_arms"
"""Folder of the kept pictures, below that of the evaluation; also the key of `summary.json`."""
SHOWN = 8
"""Prompts whose pictures are kept."""


class EmbeddingArms:
    """Decode what a prior predicts, and set it beside the true embedding, the text's own and a linear map.

    For each prompt an artist draws the true image. Each arm gives an embedding, the decoder draws it, and the reader
    says whether the picture shows the prompt (`accuracy`). Beside it stand the cosines to the text and to the true
    image, the squared distance to the latter, and how often an embedding lies nearer to its own text than to each of
    its hard negatives, one attribute swapped (`own text first`): by construction the unchanged text always does, so
    that figure ranks it above every prior and says nothing about what is drawn.

    The gate comes first: where decoder and reader fail on true embeddings, nothing about priors can be read off, and
    the other figures are left out. Ridge regression is fitted on the training pairs in closed form; a prior that does
    not beat it was not worth training.

    Example:
        ```yaml
        - class_path: evolvedirector.callbacks.EvaluationCallback
          init_args:
            suites:
              arms:
                class_path: evolvedirector.evaluation.suites.EmbeddingArms
                init_args:
                  reader: {class_path: evolvedirector.worlds.shapes.MiniatureJudge}
                  embedder: ${model.init_args.embedder}
                  decoder: ${model.init_args.decoder}
                  artist: {class_path: evolvedirector.worlds.joint.SceneArtist}
                  pairs: runs/joint-pairs
        ```

    Args:
        reader: Judge of single images.
        embedder: The prior's.
        decoder: The prior's.
        artist: Draws the true image of a prompt; a prompt that it refuses is left out.
        negatives: Of each prompt. None: `own text first` is not measured.
        pairs: Root of the dataset that the prior is trained on, for the ridge. None: no ridge.
        penalty: Of the ridge.
        gate: Least accuracy of true embeddings.
        max_prompts: Held-out prompts at most, spread over skills. None: all.
        seed: Root of the seeds of images.
        every_n_epochs: Epochs between further evaluations. None: only when training ends.

    Raises:
        UserError: A number out of range.
    """

    reads_alone = False
    reads_embeddings = True

    def __init__(
        self,
        reader: Judge,
        embedder: Embedder,
        decoder: EmbeddingDecoder,
        artist: Teacher,
        negatives: HardNegatives | None = None,
        pairs: str | Path | None = None,
        penalty: float = 1.0,
        gate: float = 0.93,
        max_prompts: int | None = None,
        seed: int = 0,
        every_n_epochs: int | None = None,
    ) -> None:
        refuse_below(1, max_prompts=max_prompts, every_n_epochs=every_n_epochs)
        if not 0.0 <= gate <= 1.0 or not penalty >= 0.0:
            raise UserError(
                f"gate is {gate} and penalty {penalty}. Allowed are a gate of 0 to 1 and a penalty of 0 or more. "
                "Write `gate: 0.93` and `penalty: 1.0`."
            )
        self.reader = reader
        self.embedder = embedder
        self.decoder = decoder
        self.artist = artist
        self.negatives = negatives
        self.pairs = None if pairs is None else Path(pairs)
        self.penalty = penalty
        self.gate = gate
        self.max_prompts = max_prompts
        self.seed = seed
        self.every_n_epochs = every_n_epochs

    @property
    def fingerprint(self) -> str:
        """Name reader, space, artist and rule."""
        parts = [part.fingerprint for part in (self.reader, self.embedder, self.decoder, self.artist)]
        negatives = "" if self.negatives is None else self.negatives.fingerprint
        rule = repr((self.penalty, self.gate, self.max_prompts, None if self.pairs is None else str(self.pairs)))
        return f"embedding-arms-2/{digest(*parts, negatives, rule, self.seed)}"

    def prompts(self, offered: Offered) -> Sequence[Prompt]:
        """List the held-out prompts, or some of each skill."""
        held_out = list({prompt.id: prompt for prompt in offered.held_out}.values())
        return held_out if self.max_prompts is None else spread_over_skills(held_out, self.max_prompts, self.seed)

    def requests(self, offered: Offered) -> Asked:
        """Ask for one image of each."""
        return requests_to_draw(self.prompts(offered), 1, self.seed, offered.size_px, "embedding arms")

    def read(self, drawn: Sequence[Drawn], sitting: Sitting) -> Readings:
        """Decode the arms of each prompt, and read them."""
        import torch

        true = {reply.request_id: reply.image for reply in self._true(drawn, sitting) if reply.image is not None}
        kept = [one for one in drawn if one.request_id in true]
        if not kept:
            return {}
        requests = [sitting.asked[one.request_id][0] for one in kept]
        images = [torch.from_numpy(decode_image(true[one.request_id]).copy()).permute(2, 0, 1) for one in kept]
        texts = self.embedder.embed_texts([one.prompt.text for one in kept]).pooled
        arms: dict[str, Tensor] = {TRUE: self.embedder.embed_images(images), TEXT: texts}
        if self.pairs is not None:
            arms[RIDGE] = _ridge(self.pairs, self.penalty)(texts)
        pictures = {name: self._pictures(embeddings, requests) for name, embeddings in arms.items()}
        if sitting.embeddings:
            arms[PRIOR] = torch.tensor([list(sitting.embeddings[one.request_id]) for one in kept])
            pictures[PRIOR] = [one.image for one in kept]
        negatives = self._embedded_negatives(kept)
        told: dict[str, Any] = {one.request_id: {"prompt": one.prompt.id, "arms": {}, "pictures": {}} for one in kept}
        shown, folder = list(sitting.asked)[:SHOWN], sitting.folder / PICTURES
        for name, embeddings in arms.items():
            figures = _figures(embeddings, texts, arms[TRUE], negatives)
            right = self._right(kept, pictures[name])
            for one, row, is_right, picture in zip(kept, figures, right, pictures[name], strict=True):
                told[one.request_id]["arms"][name] = row | {"accuracy": float(is_right)}
                if one.request_id in shown:
                    told[one.request_id]["pictures"][name] = keep_picture(folder, picture)
        for one in kept:
            if one.request_id in shown:
                told[one.request_id]["pictures"]["drawn"] = keep_picture(
                    sitting.folder / PICTURES, true[one.request_id]
                )
        return told

    def figures(self, readings: Readings, sitting: Sitting) -> Outcome:
        """Return the figures by arm; those of the gate alone where it is not passed."""
        by_arm: dict[str, list[Mapping[str, float]]] = {}
        for reading in readings.values():
            for name, row in reading["arms"].items():
                by_arm.setdefault(name, []).append(row)
        if not by_arm:
            return Outcome({})
        gate = Figure.of_mean([row["accuracy"] for row in by_arm[TRUE]])
        if gate.value is None or gate.value < self.gate:
            return Outcome({f"{TRUE}, accuracy": gate}, {PICTURES: None})
        names = [name for name in (PRIOR, RIDGE, TEXT, TRUE) if name in by_arm]
        rows = {
            f"{name}, {figure.replace('_', ' ')}": Figure.of_mean([row[figure] for row in by_arm[name]])
            for name in names
            for figure in ("accuracy", *(key for key in by_arm[name][0] if key != "accuracy"))
        }
        shown = [
            {
                "prompt": sitting.asked[key][1].text,
                "skill": sitting.asked[key][1].skill,
                "pictures": readings[key]["pictures"],
                "right": {name: bool(row["accuracy"]) for name, row in readings[key]["arms"].items()},
            }
            for key in list(sitting.asked)[:SHOWN]
            if key in readings
        ]
        return Outcome(rows, {PICTURES: shown})

    def parts(self) -> Mapping[str, Part]:
        """Name reader, embedder, decoder and artist."""
        return {"reader": self.reader, "embedder": self.embedder, "decoder": self.decoder, "artist": self.artist}

    def looks(self, held_out: int) -> Mapping[str, int]:
        """Count one look for each arm of each prompt."""
        prompts = held_out if self.max_prompts is None else min(held_out, self.max_prompts)
        return {"reader": prompts * (3 + (self.pairs is not None))}

    def _true(self, drawn: Sequence[Drawn], sitting: Sitting) -> Any:
        requests = [sitting.asked[one.request_id][0] for one in drawn]
        return self.artist.generate(requests)

    def _pictures(self, embeddings: Tensor, requests: Sequence[ImageRequest]) -> list[bytes]:
        found = self.decoder.decode(embeddings, None, requests)
        return [_png(image.permute(1, 2, 0).numpy()) for image in found]

    def _right(self, kept: Sequence[Drawn], pictures: Sequence[bytes]) -> list[bool]:
        items = [
            ImageAndPrompt(one.request_id, picture, one.prompt.text)
            for one, picture in zip(kept, pictures, strict=True)
        ]
        shown = {look.item_id for look in self.reader.check(items) if reading_of(look) == "shows"}
        return [one.request_id in shown for one in kept]

    def _embedded_negatives(self, kept: Sequence[Drawn]) -> list[Tensor] | None:
        """Return, per prompt, Float[negative, embedding]; None where there are no negatives to take."""
        import torch

        if self.negatives is None:
            return None
        lists = [list(self.negatives.negatives(one.prompt.text)) for one in kept]
        texts = list(dict.fromkeys(text for of in lists for text in of))
        place = {text: number for number, text in enumerate(texts)}
        embedded = self.embedder.embed_texts(texts).pooled
        return [embedded[torch.tensor([place[text] for text in of], dtype=torch.long)] for of in lists]


def _figures(
    embeddings: Tensor, texts: Tensor, images: Tensor, negatives: Sequence[Tensor] | None
) -> list[dict[str, float]]:
    from torch.nn.functional import cosine_similarity

    to_text = cosine_similarity(embeddings, texts)
    values = {
        "cosine_to_text": to_text,
        "cosine_to_image": cosine_similarity(embeddings, images),
        "squared_distance": ((embeddings - images) ** 2).sum(-1),
    }
    rows = [{name: float(of[row]) for name, of in values.items()} for row in range(len(embeddings))]
    for number, others in enumerate(negatives or ()):
        nearest = float(cosine_similarity(embeddings[number][None], others).max()) if len(others) else -1.0
        rows[number]["own_text_first"] = float(rows[number]["cosine_to_text"] > nearest)
    return rows


def _ridge(root: Path, penalty: float) -> Any:
    """Fit the linear map on the pairs of the newest revision."""
    import torch

    from evolvedirector.evaluation.ridge import ridge
    from evolvedirector.store.files import decode_file
    from evolvedirector.store.reader import RevisionReader
    from evolvedirector.store.revision import RevisionFiles

    roles = (TEXT_EMBEDDING, IMAGE_EMBEDDING)
    sha = RevisionFiles(root).current()
    if sha is None:
        raise UserError(
            f"'{root}' has no revision, so there are no pairs to fit a ridge on. Allowed is the dataset that the prior "
            "is trained on. Write its root as `pairs`, or leave it out."
        )
    reader = RevisionReader(root, sha, roles)
    rows = [reader.raw(row, with_image=False) for row in range(len(reader))]
    texts, images = (
        torch.from_numpy(np.stack([decode_file(row[f"{role}.npy"], "npy", role) for row in rows]))  # type: ignore[arg-type]
        for role in roles
    )
    return ridge(texts, images, penalty)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
