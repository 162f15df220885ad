import subprocess
import sys

import pytest
import torch

PROGRAM = """
import sys
from evolvedirector.models.import_diffusers import import_diffusers
import_diffusers()
from diffusers import AutoencoderKL, PixArtTransformer2DModel
print("loaded" if "bitsandbytes" in sys.modules else "left out")
from transformers.utils import is_bitsandbytes_available
print("transformers finds it:", is_bitsandbytes_available())
import bitsandbytes
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator has a use for bitsandbytes")
def test_bitsandbytes_is_imported_only_where_it_works() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["left out", "transformers finds it: True"], "and it can still be imported"
