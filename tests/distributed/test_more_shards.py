"""Two ranks with shards, at more length: a resume from main memory, a base in 8 bits, a disk that fills up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.distributed import lora_ranks
from tests.distributed.cli_ranks import write_config
from tests.distributed.launched import accelerators, launch
from tests.distributed.test_lora_ranks import differs
from tests.distributed.test_ranks import SCRIPT, assert_equal
from tests.distributed.test_sharded_checkpoints import fit, run

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("accelerator", accelerators(2))
def test_shards_in_main_memory_resume_exactly(tmp_path: Path, accelerator: str) -> None:
    found = []
    for name, resume in (("whole", "-"), ("again", tmp_path / "whole/middle.ckpt")):
        (tmp_path / name).mkdir()
        launch(SCRIPT, "offloaded", tmp_path / name, resume, "32-true", accelerator, ranks=2)
        found.append(torch.load(tmp_path / name / "result.pt", weights_only=True))
    assert_equal(*found)


@pytest.mark.parametrize("accelerator", accelerators(2))
def test_ranks_train_beside_a_base_in_eight_bits_as_one_process_does(tmp_path: Path, accelerator: str) -> None:
    found = []
    for strategy, ranks in (("single", 1), ("fsdp", 2)):
        (tmp_path / strategy).mkdir()
        words = (strategy, "adamw+int8", tmp_path / strategy, "-", accelerator)
        launch(Path(lora_ranks.__file__), *words, ranks=ranks)
        found.append(torch.load(tmp_path / strategy / "result.pt", weights_only=True))
    for part in ("weights", "average"):
        assert differs(found[1][part], found[0][part]) < 1e-3


def test_a_write_that_fails_on_one_rank_ends_all_and_leaves_the_earlier_one(tmp_path: Path) -> None:
    config = write_config(tmp_path / "run", fault="fails", asynchronous=True)
    told = r"The checkpoint step-00000004 could not be written \(\[Errno 28\] No space left on device\)"
    with pytest.raises(AssertionError, match=told):
        run(fit(config), ranks=2)
    assert [(tmp_path / f"run/rank{rank}.code").read_text() for rank in (0, 1)] == ["1", "1"]
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]
