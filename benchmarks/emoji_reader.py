"""Measure how often the emoji judges agree with what the artists really drew, clean, blurred and noisy.

Prints one Markdown row per judge and render: share of images that are accepted for their own prompt, share of near
misses that are rejected (another number, relation, concept or background, or a missing object), images a second of
one processor.

    python benchmarks/emoji_reader.py --concepts 30 --size-px 48 64
    python benchmarks/emoji_reader.py --concepts all --size-px 64 --template-size-px 24 --images 200
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from evolvedirector.records import GoldItem, ImageAndPrompt
from evolvedirector.worlds.emoji.artist import encode_png
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from evolvedirector.worlds.emoji_scenes.feature_reader import EmojiFeatureReader
from evolvedirector.worlds.emoji_scenes.gold import EmojiGold
from evolvedirector.worlds.emoji_scenes.judge import EmojiSceneJudge
from evolvedirector.worlds.emoji_scenes.reading import EmojiReader
from evolvedirector.worlds.emoji_scenes.template_reader import EmojiTemplateReader
from evolvedirector.worlds.emoji_scenes.world import EmojiWorld

RENDERS = ("clean", "blur 1 px", "noise .05", "noise .10")


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", default="30", help="how many, or `all`")
    parser.add_argument("--size-px", type=int, nargs="+", default=[48, 64])
    parser.add_argument("--images", type=int, default=400, help="half of them near misses")
    parser.add_argument("--template-size-px", type=int, default=16)
    parser.add_argument("--judges", nargs="+", default=["templates", "features"])
    parser.add_argument("--renders", nargs="+", default=list(RENDERS), choices=RENDERS)
    parser.add_argument("--layout", default="tidy", choices=["tidy", "free"])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    concepts = None if options.concepts == "all" else int(options.concepts)
    world = EmojiWorld(EmojiVocabulary(concepts=concepts), held_out_share=0.0)
    readers: dict[str, EmojiReader] = {}
    if "templates" in options.judges:
        readers["templates"] = EmojiTemplateReader(world.vocabulary, options.template_size_px)
    if "features" in options.judges:
        readers["features"] = EmojiFeatureReader(world.vocabulary)
    titles = "judge | concepts | side | layout | render | images | accepts its prompt | rejects near misses"
    print(f"| {titles} | accepts, by skill | images per CPU s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for size_px in options.size_px:
        gold = EmojiGold(world, options.images, options.seed, size_px, options.layout).items()
        for name, reader in readers.items():
            judge = EmojiSceneJudge(world.vocabulary, reader)
            list(judge.check([ImageAndPrompt("first", gold[0].image, gold[0].prompt)]))  # builds what it compares with
            for render in options.renders:
                print(_row(judge, name, world, gold, size_px, render, options.layout), flush=True)


def _row(
    judge: EmojiSceneJudge,
    name: str,
    world: EmojiWorld,
    gold: Sequence[GoldItem],
    size_px: int,
    render: str,
    layout: str,
) -> str:
    items = [ImageAndPrompt(item.item_id, _rendered(item.image, render), item.prompt) for item in gold]
    start_s = time.process_time()
    yes = [look.probability > 0.5 for look in judge.check(items)]
    seconds = time.process_time() - start_s
    accepted = [answer for answer, item in zip(yes, gold, strict=True) if item.shows]
    rejected = [not answer for answer, item in zip(yes, gold, strict=True) if not item.shows]
    by_skill: dict[str, list[bool]] = {}
    for answer, item in zip(yes, gold, strict=True):
        if item.shows:
            by_skill.setdefault(world.skill_of(world.vocabulary.require(item.prompt)), []).append(answer)
    skills = ", ".join(f"{skill} {np.mean(answers):.2f}" for skill, answers in by_skill.items())
    return (
        f"| {name} | {len(world.labels)} | {size_px} | {layout} | {render} | {len(gold)} | {np.mean(accepted):.3f} | "
        f"{np.mean(rejected):.3f} | {skills} | {len(items) / seconds:.0f} |"
    )


def _rendered(image: bytes, render: str) -> bytes:
    kind, _, amount = render.partition(" ")
    if kind == "clean":
        return image
    with Image.open(io.BytesIO(image)) as opened:
        picture = opened.convert("RGB")
    if kind == "blur":
        return encode_png(picture.filter(ImageFilter.GaussianBlur(1)))
    pixels = np.asarray(picture, dtype=np.float32)
    noise = np.random.default_rng(len(image)).normal(0, 255 * float(amount), pixels.shape)
    return encode_png(Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)))


if __name__ == "__main__":
    main()
