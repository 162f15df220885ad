"""Write captioned emoji pictures as plain files, as anybody's own data would look."""

from __future__ import annotations

import os
from pathlib import Path

from evolvedirector.worlds.emoji.artist import EmojiArtist, encode_png
from evolvedirector.worlds.emoji.concept import EmojiStyle
from evolvedirector.worlds.emoji.prompts import EmojiPrompts
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary


def export_captioned(
    folder: str | os.PathLike[str],
    vocabulary: EmojiVocabulary,
    style: EmojiStyle,
    count: int,
    size_px: int = 48,
    seed: int = 0,
) -> list[Path]:
    """Write `00000.png` with its caption in `00000.txt` and so on, and return the paths of the pictures.

    Args:
        folder: Created if missing; files of the same names are replaced.
        vocabulary: What is drawn; its held-out combinations are not.
        style: Art style.
        count: How many pictures.
        size_px: Width and height.
        seed: Chooses prompts, sizes, places and tints.

    Raises:
        ValueError: The vocabulary has fewer prompts, or the size is out of range.
        AssetError: The assets are missing.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    artist = EmojiArtist(vocabulary, style)
    paths = []
    for number, prompt in enumerate(EmojiPrompts(vocabulary, count, seed).prompts()):
        scene = vocabulary.parse(prompt.text)
        if scene is None:
            raise ValueError(f"{prompt.text!r} is written by the vocabulary and not understood by it.")
        path = target / f"{number:05d}.png"
        path.write_bytes(encode_png(artist.draw(scene, seed + number, size_px, size_px)))
        path.with_suffix(".txt").write_text(prompt.text + "\n", encoding="utf-8")
        paths.append(path)
    return paths
