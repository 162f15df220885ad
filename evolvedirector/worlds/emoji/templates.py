"""Match images with emoji pictures by normalised correlation; pure functions over arrays.

An image x of the emoji world is a picture with opacity a and colour c over a plain background b: x = a c + (1 - a) b.
So x - b = a (c - b), and an image is compared with a template by the cosine between its own difference from its
background and the template's difference from the same background:

    score = <x - b, a (c - b)> / (|x - b| |a (c - b)|)

It sees colours and silhouette, and does not see the background. Both products are linear in b, so that one
matrix product serves every background.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from evolvedirector.worlds.emoji.artist import EmojiArtist
from evolvedirector.worlds.emoji.concept import STYLES
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary

FloatArray = npt.NDArray[np.float32]

MAX_IMAGE_PX = 4096
PLACEMENTS = ((0.78, 4), (0.87, 3))
"""Size of the picture as a share of the canvas, and how many places along each axis are tried."""
MIN_CONTRAST = 0.03
"""Root mean square difference from the background, of 1, under which an image counts as blank."""
_OVERSAMPLING = 4


@dataclass(frozen=True)
class TemplateBank:
    """Templates of every concept, style, size and place; `n` of them at `size` x `size` px."""

    size_px: int
    premultiplied: FloatArray
    """a c, shape (n, 3 * size * size)."""
    opacity: FloatArray
    """a, shape (n, size * size)."""
    norms: FloatArray
    """The parts of |a (c - b)|^2 = norms[0] - 2 <norms[1:4], b> + norms[4] |b|^2, shape (5, n)."""
    concept_starts: npt.NDArray[np.intp]
    """First row of each concept; rows of a concept are neighbours, shape (concepts,)."""


def build_bank(vocabulary: EmojiVocabulary, size_px: int) -> TemplateBank:
    """Render the templates of a vocabulary in all five styles."""
    artists = [EmojiArtist(vocabulary, style) for style in STYLES]
    rows = []
    for concept in vocabulary.concepts:
        for artist in artists:
            rows.append(_placed(artist.raster(concept), size_px))
    return bank_of(np.concatenate(rows), size_px, len(vocabulary.concepts))


def bank_of(layers: FloatArray, size_px: int, concepts: int) -> TemplateBank:
    """Arrange rendered templates for scoring.

    Args:
        layers: Premultiplied colour and opacity from 0 to 1, shape (n, size, size, 4); equally many rows per concept,
            neighbours.
        size_px: Side of the templates.
        concepts: How many concepts the rows belong to.
    """
    opacity = np.ascontiguousarray(layers[..., 3]).reshape(len(layers), -1)
    colour = np.ascontiguousarray(layers[..., :3].transpose(0, 3, 1, 2)).reshape(len(layers), 3, -1)
    norms = np.stack(
        [(colour**2).sum((1, 2)), *(colour * opacity[:, None]).sum(2).T, (opacity**2).sum(1)], dtype=np.float32
    )
    starts = np.arange(concepts) * (len(layers) // concepts)
    return TemplateBank(size_px, colour.reshape(len(layers), -1), opacity, norms, starts)


def concept_scores(bank: TemplateBank, images: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Score images against every concept: the best cosine over its styles, sizes and places.

    Args:
        bank: Templates.
        images: Shape (batch, 3, size, size), values 0 to 1.

    Returns:
        Scores -1 to 1, shape (batch, concepts); and the backgrounds found, shape (batch, 3).
    """
    backgrounds = border_colours(images)
    return bank_scores(bank, smooth(images) - backgrounds[:, :, None, None], backgrounds), backgrounds


def bank_scores(bank: TemplateBank, residuals: FloatArray, backgrounds: FloatArray) -> FloatArray:
    """Score differences from a background against every concept.

    Args:
        bank: Templates.
        residuals: x - b, shape (batch, 3, size, size).
        backgrounds: b, shape (batch, 3).

    Returns:
        Scores -1 to 1, shape (batch, concepts).
    """
    flat = residuals.reshape(len(residuals), 3, -1)
    weighted = np.einsum("bcp,bc->bp", flat, backgrounds)
    products = flat.reshape(len(residuals), -1) @ bank.premultiplied.T - weighted @ bank.opacity.T
    squares = bank.norms[0] - 2 * backgrounds @ bank.norms[1:4] + (backgrounds**2).sum(1)[:, None] * bank.norms[4]
    floor = MIN_CONTRAST * np.sqrt(flat[0].size)
    lengths = np.maximum(np.sqrt((flat**2).sum((1, 2))), floor)[:, None]
    cosines = products / (lengths * np.sqrt(np.maximum(squares, floor**2)))
    scores: FloatArray = np.maximum.reduceat(cosines, bank.concept_starts, axis=1).astype(np.float32)
    return scores


def border_colours(images: FloatArray) -> FloatArray:
    """Estimate each image's background as the median colour of its one-pixel border, shape (batch, 3)."""
    edges = [images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]]
    median: FloatArray = np.median(np.concatenate(edges, axis=2), axis=2).astype(np.float32)
    return median


def smooth(images: FloatArray) -> FloatArray:
    """Blur with the kernel [1 2 1] / 4 along both axes, so that a place between two tried ones still matches.

    Args:
        images: Shape (..., height, width).
    """
    for axis in (-2, -1):
        padding = [(0, 0)] * images.ndim
        padding[axis] = (1, 1)
        padded = np.moveaxis(np.pad(images, padding, mode="edge"), axis, -1)
        blurred = (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4
        images = np.moveaxis(blurred, -1, axis).astype(np.float32, copy=False)
    return images


def read_image(data: bytes, size_px: int) -> FloatArray:
    """Decode an image and bring its most eventful square to the working size, shape (3, size, size).

    Raises:
        ValueError: The bytes are no PNG, JPEG or WebP image, or it is larger than 4096 px a side.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if max(image.size) > MAX_IMAGE_PX:
                raise ValueError(f"the image measures {image.size} px, more than {MAX_IMAGE_PX} px a side")
            colour = image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image cannot be read: {type(error).__name__}") from None
    if colour.width != colour.height:
        colour = _eventful_square(colour)
    colour = colour.resize(
        (size_px, size_px), Image.Resampling.BOX if colour.width > size_px else Image.Resampling.BICUBIC
    )
    return np.ascontiguousarray(np.asarray(colour, dtype=np.float32).transpose(2, 0, 1) / 255)


def _eventful_square(image: Image.Image) -> Image.Image:
    """Cut the square along the longer side that differs most from the border's median colour."""
    pixels = np.asarray(image, dtype=np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    events = np.abs(pixels - np.median(border, axis=0)).sum(2)
    side, wide = min(image.size), image.width > image.height
    sums = np.concatenate([[0.0], np.cumsum(events.sum(0 if wide else 1))])
    best = np.flatnonzero(sums[side:] - sums[:-side] >= (sums[side:] - sums[:-side]).max() - 1e-3)
    start = int(best[len(best) // 2])  # the middle of equally good ones keeps a margin on both sides
    return image.crop((start, 0, start + side, side) if wide else (0, start, side, start + side))


def _placed(picture: Image.Image, size_px: int) -> FloatArray:
    """Place a picture at every size and place tried: premultiplied RGBA from 0 to 1, (placements, size, size, 4)."""
    canvas_px = size_px * _OVERSAMPLING
    placed = []
    for share, places in PLACEMENTS:
        side_px = round(canvas_px * share)
        scaled = picture.resize((side_px, side_px), Image.Resampling.LANCZOS).convert("RGBa")
        pixels = np.asarray(scaled).astype(np.float32) / np.float32(255)
        offsets = [round((canvas_px - side_px) * (place + 0.5) / places) for place in range(places)]
        for left, top in ((left, top) for left in offsets for top in offsets):
            canvas = np.zeros((canvas_px, canvas_px, 4), dtype=np.float32)
            canvas[top : top + side_px, left : left + side_px] = pixels
            placed.append(canvas.reshape(size_px, _OVERSAMPLING, size_px, _OVERSAMPLING, 4).mean((1, 3)))
    return np.moveaxis(smooth(np.moveaxis(np.stack(placed), -1, 1)), 1, -1)
