"""The most memory of a phase is booked to whoever worked at that time."""

from __future__ import annotations

import time

import pytest
import torch

from evolvedirector.callbacks._run import phase_memory
from evolvedirector.callbacks._run.phase_memory import PhaseMemory, resident_bytes


def test_on_a_cpu_the_process_is_looked_at_while_somebody_works() -> None:
    held = resident_bytes()
    if held is None:
        pytest.skip("this system does not say what a process holds")
    with PhaseMemory(torch.device("cpu")) as memory:
        with memory.working("training"):
            pass
        with memory.working("judging"):
            block = torch.ones(64 * 2**20, dtype=torch.uint8)
            time.sleep(10 * phase_memory.SAMPLE_S)
            del block
    assert memory.kind == "resident memory of the process"
    assert memory.peak_bytes["judging"] - memory.peak_bytes["training"] > 32 * 2**20
    assert set(memory.peak_bytes) == {"training", "judging"}


def test_on_a_gpu_the_peak_between_two_changes_is_that_of_all_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases overlap in the background; the device counts from the last reset."""
    peaks = iter([7, 100, 300, 200, 50, 40])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: next(peaks))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    memory = PhaseMemory(torch.device("cuda", 0))
    with memory:
        memory.begin("training")  # 7 was before it, 100 as it begins
        memory.begin("judging")  # up to here 300 of training alone, 200 of both
        memory.end("judging")  # 50
        memory.end("training")  # 40
    assert memory.kind == "device memory" and memory.peak_bytes == {"training": 300, "judging": 200}
