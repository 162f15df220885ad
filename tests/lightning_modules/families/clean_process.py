"""A process that knows diffusers alone: it loads saved pipelines and draws with them.

One process serves all families, since importing diffusers takes seconds: it reads jobs from its input, a line of JSON
each, and answers each with a line. Every image is drawn twice, from the weights as they were loaded and from copies of
them: mapped weights are not aligned as others are, and take other kernels.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FLOAT_NOISE = 0.01  # levels of 255
_ANSWER = "answer "


@dataclass(frozen=True)
class StockDraw:
    """Name a pipeline folder and what its pipeline is called with.

    Args:
        folder: Written by `save_pretrained`.
        seed: Of the CPU generator.
        arguments: JSON values for `__call__`: prompt, steps, guidance, sides.
        pictures: Arguments that are pictures, as paths of PNG files.
    """

    folder: str
    seed: int
    arguments: Mapping[str, Any]
    pictures: Mapping[str, str] = field(default_factory=dict)


class Drawn(NamedTuple):
    """What came back.

    `mapped` and `cloned` are Float[height, width, 3] in 0...1: from weights as loaded, and from copies.
    """

    pipeline: str
    mapped: Any
    cloned: Any


class CleanProcess:
    """A process for stock pipelines.

    Args:
        work: Folder for what passes between the processes.
        imports: Modules it imports first, for classes that diffusers does not have.
    """

    def __init__(self, work: Path, imports: Sequence[str] = ()) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self._work, self._jobs = work, 0
        self._errors = (work / "errors.txt").open("w", encoding="utf-8")
        # -I: neither this checkout nor the environment's paths
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).resolve()), *imports],
            **{"cwd": work, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors, "text": True},
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )

    def draw(self, job: StockDraw) -> Drawn:
        """Draw an image.

        Args:
            job: What to draw.

        Raises:
            ValueError: The pipeline is refused; with the reason.
        """
        import numpy as np

        assert self._process.stdin is not None and self._process.stdout is not None
        file = self._work / f"{self._jobs}.npz"
        self._jobs += 1
        self._process.stdin.write(json.dumps(asdict(job) | {"file": str(file)}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(_ANSWER):
                break
        else:
            raise AssertionError((self._work / "errors.txt").read_text(encoding="utf-8")[-2000:])
        answer = json.loads(line.removeprefix(_ANSWER))
        if "refused" in answer:
            raise ValueError(answer["refused"])
        with np.load(file) as images:
            return Drawn(answer["pipeline"], images["mapped"], images["cloned"])

    def close(self) -> None:
        """End it."""
        self._process.communicate()
        self._errors.close()


def clone_weights(pipeline: Any) -> None:
    """Copy every weight of a pipeline to memory of its own, aligned as the kernels like it."""
    import torch

    for part in pipeline.components.values():
        for weight in [*part.parameters(), *part.buffers()] if isinstance(part, torch.nn.Module) else ():
            weight.data = weight.data.clone()


def levels_apart(ours: Any, theirs: Any) -> float:
    """Return by how many of 255 levels an image is off the rounding of another; 0 where it is that rounding.

    Under `FLOAT_NOISE` the two are equal: the last bits of a float decide where a value between two levels falls.

    Args:
        ours: uint8 (3, height, width).
        theirs: In [0, 1] (height, width, 3), not rounded.
    """
    import torch

    apart = (ours.permute(1, 2, 0).double() - torch.from_numpy(theirs).double() * 255).abs().max()
    return max(0.0, float(apart) - 0.5)


def _draw(job: Mapping[str, Any]) -> dict[str, str]:
    import numpy as np
    import torch
    from diffusers import DiffusionPipeline
    from PIL import Image

    try:
        pipeline: Any = DiffusionPipeline.from_pretrained(job["folder"])
    except ValueError as error:
        return {"refused": str(error)}
    pipeline.set_progress_bar_config(disable=True)
    drawn = {}
    for kind in ("mapped", "cloned"):
        if kind == "cloned":
            clone_weights(pipeline)
        pictures = {name: Image.open(path) for name, path in job["pictures"].items()}
        generator = torch.Generator().manual_seed(job["seed"])
        drawn[kind] = pipeline(**job["arguments"], **pictures, generator=generator, output_type="np").images[0]
    np.savez(job["file"], **drawn)
    return {"pipeline": type(pipeline).__name__}


def _main(imports: Sequence[str]) -> None:
    import torch
    from diffusers import DiffusionPipeline  # noqa: F401  # takes seconds, in which the other process trains

    torch.set_num_threads(1)
    for name in imports:
        importlib.import_module(name)
    for line in sys.stdin:
        answer = _draw(json.loads(line))
        assert imports or not [name for name in sys.modules if name.startswith("evolvedirector")]
        print(_ANSWER + json.dumps(answer), flush=True)
    sys.stderr.flush()
    os._exit(0)  # tidying up a process with torch in it takes seconds


if __name__ == "__main__":
    _main(sys.argv[1:])
