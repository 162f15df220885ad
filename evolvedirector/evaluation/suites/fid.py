"""Distance between the student's images and a set of reference images, in the features of a network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.evaluation.feature_network import FeatureNetwork
from evolvedirector.evaluation.intervals import jackknife_interval
from evolvedirector.evaluation.prompt_choice import prompts_of, refuse_below, requests_to_draw, source_ids
from evolvedirector.evaluation.suite import Asked, Drawn, Figure, Offered, Outcome, Readings, Sitting
from evolvedirector.records import Prompt, digest, seed_of
from evolvedirector.records.part import Part
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import check_image
from evolvedirector.store.paths import matching_files
from evolvedirector.store.pictures import picture_extensions

Distance = Literal["fid", "kid"]
_GROUPS = 10
_CHUNK = 64


class FID:
    """Compare drawn images with reference images as two sets: FID and KID, as torchmetrics computes them.

    FID (Heusel et al. 2017): |m_r - m_d|^2 + tr(C_r + C_d - 2 (C_r C_d)^(1/2)) of the means and covariances of
    features. It is biased upwards for few images, and of no meaning where there are fewer than features: then it is
    refused. KID (Binkowski et al. 2018): the squared maximum mean discrepancy under a cubic kernel, without bias, the
    mean over subsets. 95 % intervals: of FID by a jackknife over ten groups of drawn images, the references taken as
    given; of KID by the spread over its subsets (`subset_half_width`).

    Published figures use 30,000 images, Inception features and COCO's validation images. Figures are comparable only
    where network, references, prompts and number of images are the same.

    Example:
        ```yaml
        fid:
          class_path: evolvedirector.evaluation.suites.FID
          init_args:
            references: data/coco_val_512
            features: {class_path: evolvedirector.evaluation.VisionFeatures, init_args: {model: facebook/dinov2-large}}
            prompts: data/coco_captions.txt
        ```

    Args:
        references: Folder of images (those below it too), or a pattern; the same for every figure that is compared.
        features: Network that turns images into vectors.
        prompts: A prompt file or a source. None: the datamodule's held-out prompts.
        distances: Which of `fid` and `kid`.
        images_per_prompt: Seeds of each prompt.
        max_prompts: Prompts at most, spread over skills. None: all.
        kid_subsets: Random subsets of KID.
        kid_subset_size: Images of each set in a subset; fewer than there are, or KID has no interval.
        every_n_epochs: Epochs between further evaluations. None: only when training ends.
        seed: Root of the choice of prompts, of the seeds and of KID's subsets.

    Raises:
        UserError: No distance, or a number below its least.
    """

    reads_alone = False

    def __init__(
        self,
        references: str | Path,
        features: FeatureNetwork,
        prompts: PromptSource | str | Path | None = None,
        distances: list[Distance] | None = None,
        images_per_prompt: int = 1,
        max_prompts: int | None = None,
        kid_subsets: int = 100,
        kid_subset_size: int = 1000,
        every_n_epochs: int | None = None,
        seed: int = 0,
    ) -> None:
        self.distances: list[Distance] = ["fid", "kid"] if distances is None else distances
        if not self.distances or not set(self.distances) <= {"fid", "kid"}:
            raise UserError(f"distances is {self.distances}. Allowed: fid, kid or both. Write `distances: [fid, kid]`.")
        refuse_below(1, images_per_prompt=images_per_prompt, max_prompts=max_prompts, every_n_epochs=every_n_epochs)
        refuse_below(2, kid_subsets=kid_subsets, kid_subset_size=kid_subset_size)
        self.references = references
        self.network = features
        self.source = prompts
        self.images_per_prompt = images_per_prompt
        self.max_prompts = max_prompts
        self.kid_subsets = kid_subsets
        self.kid_subset_size = kid_subset_size
        self.every_n_epochs = every_n_epochs
        self.seed = seed
        self._files: list[Path] | None = None
        self._width: int | None = None  # features of an image
        self._referred: Tensor | None = None

    @property
    def fingerprint(self) -> str:
        """Name network, references (by content), prompts of a source and choice."""
        contents = digest(*(digest(path.read_bytes()) for path in self._found()))
        options = (self.images_per_prompt, str(self.max_prompts), self.kid_subsets, self.kid_subset_size, self.seed)
        return f"fid-1/{digest(self.network.fingerprint, contents, *options, *source_ids(self.source))}"

    def verify(self) -> None:
        """Check references and network on two of the references: a wrong one is known before images are drawn.

        Raises:
            UserError: With what is wrong and what to write.
        """
        if self._width is not None:
            return
        files = self._found()
        self._enough(len(files), f"the reference images in {str(self.references)!r}", "add images")
        try:
            self._width = self._features([path.read_bytes() for path in files[:2]]).shape[1]
        finally:
            self.network.close()
        self._enough(len(files), f"the reference images in {str(self.references)!r}", "add images")

    def prompts(self, offered: Offered) -> Sequence[Prompt]:
        """List the prompts of the file, or the held-out ones.

        Raises:
            UserError: They make too few images for these distances.
        """
        prompts = prompts_of(self.source, offered.held_out, self.max_prompts, self.seed)
        drawn = len(prompts) * self.images_per_prompt
        self._enough(drawn, f"{len(prompts)} prompts times images_per_prompt {self.images_per_prompt}", "draw more")
        return prompts

    def requests(self, offered: Offered) -> Asked:
        """Ask for some images of each; the same for every step, so that steps are comparable."""
        return requests_to_draw(self.prompts(offered), self.images_per_prompt, self.seed, offered.size_px, "fid")

    def read(self, drawn: Sequence[Drawn], sitting: Sitting) -> Readings:
        """Turn each image into its features, as bytes of float32: lists would be ten times as large between ranks."""
        found: dict[str, bytes] = {}
        try:
            for start in range(0, len(drawn), _CHUNK):
                chunk = drawn[start : start + _CHUNK]
                rows = self._features([one.image for one in chunk]).numpy()
                found |= {one.request_id: row.tobytes() for one, row in zip(chunk, rows, strict=True)}
        finally:
            self.network.close()
        return found

    def figures(self, readings: Readings, sitting: Sitting) -> Outcome:
        """Return the distances of the drawn images to the references."""
        keys = sorted(readings)
        drawn = torch.from_numpy(np.stack([np.frombuffer(readings[key], np.float32) for key in keys]).copy())
        referred = self._of_references()
        rows: dict[str, Figure] = {}
        if "fid" in self.distances:
            value = frechet_distance(referred, drawn)
            without = [frechet_distance(referred, kept) for kept in _without_groups(drawn)]
            rows["fid"] = _figure(value, jackknife_interval(value, without), len(drawn))
        if "kid" in self.distances:
            seed = seed_of("kid", self.seed)
            value, spread = kernel_distance(referred, drawn, self.kid_subsets, self.kid_subset_size, seed)
            half = subset_half_width(spread, self.kid_subset_size, min(len(referred), len(drawn)))
            rows["kid"] = _figure(value, None if half is None else (value - half, value + half), len(drawn))
        return Outcome(rows)

    def parts(self) -> Mapping[str, Part]:
        """Name the network."""
        return {"features": self.network}

    def looks(self, held_out: int) -> Mapping[str, int]:
        """Count nothing: a network answers for nothing."""
        return {}

    def _found(self) -> list[Path]:
        if self._files is None:
            problems: list[str] = []
            known = set(picture_extensions())
            files = [path for path in matching_files(self.references, problems) if path.suffix.lower()[1:] in known]
            if not files or problems:
                why = problems[0] if problems else "there is no image"
                raise UserError(
                    f"references is {str(self.references)!r}: {why}. Allowed is a folder of images, or a pattern such "
                    "as 'data/coco/*.png'. Write its path."
                )
            self._files = files
        return self._files

    def _of_references(self) -> Tensor:
        if self._referred is None:
            rows = []
            try:
                files = self._found()
                for start in range(0, len(files), _CHUNK):
                    rows.append(self._features([_image(path) for path in files[start : start + _CHUNK]]))
            finally:
                self.network.close()
            self._referred = torch.cat(rows)
        return self._referred

    def _features(self, images: Sequence[bytes]) -> Tensor:
        """Ask the network, and see that it answers one finite vector of the same length for each image."""
        found: Any = self.network.features(images)
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        wide = isinstance(found, Tensor) and found.ndim == 2 and found.shape[0] == len(images) and found.shape[1] > 0
        if not wide or (self._width is not None and found.shape[1] != self._width):
            wanted = f"({len(images)}, {self._width or 'd'})"
            raise UserError(
                f"features of {type(self.network).__name__} returned {shape} for {len(images)} images. Allowed is a "
                f"tensor of shape {wanted}: one vector per image. Pool its maps, or write another network."
            )
        if not bool(found.isfinite().all()):
            raise UserError(
                f"features of {type(self.network).__name__} returned numbers that are not finite. Allowed are finite "
                "ones. Load its weights again, or write another network."
            )
        return found.detach().float().cpu()

    def _enough(self, images: int, what: str, remedy: str) -> None:
        if "kid" in self.distances and images < self.kid_subset_size:
            raise UserError(
                f"KID compares subsets of {self.kid_subset_size} images, and {what} make {images}. Allowed: at least "
                f"one subset. Write `kid_subset_size: {max(2, images // 2)}`, or {remedy}."
            )
        if "fid" in self.distances and self._width is not None and images <= self._width:
            raise UserError(
                f"FID in {self._width} features needs more than {self._width} images, and {what} make {images}: the "
                f"covariance would be singular. Allowed: more images than features. Write `distances: [kid]`, which "
                f"has no bias for few images, or {remedy}."
            )


def frechet_distance(referred: Tensor, drawn: Tensor) -> float:
    """Return FID of two sets of features by torchmetrics.

    Args:
        referred: Of the references, [n d].
        drawn: Of the drawn images, [m d].
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(referred.shape[1]))
    metric.update(referred, real=True)
    metric.update(drawn, real=False)
    return float(metric.compute())


def kernel_distance(referred: Tensor, drawn: Tensor, subsets: int, subset_size: int, seed: int) -> tuple[float, float]:
    """Return KID of two sets of features by torchmetrics, and its standard deviation over subsets.

    Args:
        referred: Of the references, [n d].
        drawn: Of the drawn images, [m d].
        subsets: How many.
        subset_size: Images of each set in one.
        seed: Names the subsets; the global random state stays as it is.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*save all extracted features in buffer")  # they are computed already
        metric = KernelInceptionDistance(feature=_Given(referred.shape[1]), subsets=subsets, subset_size=subset_size)
    metric.update(referred, real=True)
    metric.update(drawn, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, spread = metric.compute()
    return float(mean), float(spread)


def subset_half_width(spread: float, subset_size: int, images: int) -> float | None:
    """Return half of the 95 % interval of a mean over subsets; None where a subset holds all images.

    Subsets of b of n images without replacement spread by s_b = s sqrt(1 / b - 1 / n) where independent images would
    by s / sqrt(b), so 1.96 s / sqrt(n) = 1.96 s_b sqrt(b / (n - b)) (subsampling, Politis and Romano 1994).

    Args:
        spread: s_b, the standard deviation over subsets.
        subset_size: b.
        images: n, of the smaller set.
    """
    if images <= subset_size:
        return None
    return 1.96 * spread * math.sqrt(subset_size / (images - subset_size))


class _Given(nn.Module):
    """Stands where torchmetrics wants a network: features are computed before, on all ranks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def _without_groups(drawn: Tensor) -> list[Tensor]:
    groups = torch.arange(len(drawn)) % _GROUPS
    return [drawn[groups != group] for group in range(_GROUPS)] if len(drawn) > 2 * _GROUPS else []


def _figure(value: float, ends: tuple[float, float] | None, images: int) -> Figure:
    rounded = None if ends is None else (round(ends[0], 6), round(ends[1], 6))
    return Figure(round(value, 6), rounded, images, "images")


def _image(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        check_image(data)
    except StoreError as error:
        raise UserError(
            f"The reference image {str(path)!r} cannot be read: {error} Allowed is a whole picture. Take it away or "
            "save it again."
        ) from error
    return data
