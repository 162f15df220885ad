"""The larger size that the GPU recipe of the emoji world documents, edited in as its comment says."""

from __future__ import annotations

import re

import yaml

import evolvedirector.configs

RECIPE = evolvedirector.configs.path() / "experiment" / "emoji_gpu.yaml"


def test_the_documented_larger_size_reaches_every_part() -> None:
    lines = RECIPE.read_text(encoding="utf-8").splitlines(keepends=True)
    (documented,) = (line for line in lines if line.startswith("# 128 px in place of 64:"))
    text = "".join(line for line in lines if not line.startswith("#"))
    edits = re.findall(r"`([^`]+)` -> `([^`]+)`", documented)
    assert len(edits) == 2
    for old, new in edits:
        assert text.count(old) == 1
        text = text.replace(old, new)
    config = yaml.safe_load(text)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    family = model["family"]["init_args"]
    callbacks = [callback.get("init_args", {}) for callback in config["trainer"]["callbacks"]]
    (health,) = (arguments["judge_health"] for arguments in callbacks if "judge_health" in arguments)
    gold_px = health["gold"]["init_args"]["image_size_px"]
    sizes_px = (family["sample_size"], model["image_size_px"], data["image_size_px"])
    assert (*sizes_px, gold_px, family["patch_size"]) == (128, 128, 128, 128, 16)
