"""Record the nets on newly made things again: `python -m tests.nets.record`, from the root of the checkout.

Only for a change that means to change what they hold, in a commit of its own that says why (README.md). The old run and
the old ledger are recorded by nothing: they are of their day.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from tests.nets import made


def record(names: list[str] | None = None) -> list[str]:
    """Write the values of today's code into `recorded/`.

    Args:
        names: Files to write. None: all.

    Returns:
        The files whose content is new.
    """
    torch.set_num_threads(1)
    changed = []
    with tempfile.TemporaryDirectory() as folder:
        for name, value in made.figures(Path(folder)):
            path = made.RECORDED / name
            data = made.png(value) if isinstance(value, np.ndarray) else (json.dumps(value, indent=1) + "\n").encode()
            if (names is None or name in names) and (not path.exists() or path.read_bytes() != data):
                path.write_bytes(data)
                changed.append(name)
    return changed


if __name__ == "__main__":
    import sys

    for changed_name in record(sys.argv[1:] or None):
        print(f"recorded {changed_name}")
