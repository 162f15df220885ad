"""What a driver of rounds keeps in memory over a long run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evolvedirector.callbacks._run.round_driver import RoundDriver
from evolvedirector.execution.metered import Asked


def test_calls_of_a_long_run_are_added_up_and_not_kept() -> None:
    plan: Any = SimpleNamespace(settings=SimpleNamespace(embedder=None))
    trainer: Any = SimpleNamespace(is_global_zero=True)
    driver = RoundDriver(plan, Path("data"), trainer, trainer)
    for _ in range(3):
        driver._meter.note(Asked("judge", 2, 2, 0.5, 0.1))
    assert driver._meter.totals() == {"judge": {"requests": 6, "answers": 6, "seconds": 1.5}}
    assert not driver._meter.asked, "a million prompts make millions of calls"
