"""What every test runs under: one thread, and nothing left behind for the next one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.family_of_the_run import FAMILIES, VARIABLE, family_of_the_run

os.environ.setdefault("OMP_NUM_THREADS", "1")
# torch compiles with as many threads as there are cores, and leaves them running
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

POINTS = "points tried"
"""Property in which a test says how often it let something fail."""
_OF_PYTEST = {"PYTEST_CURRENT_TEST", "COV_CORE_SOURCE"}
# Lightning and libraries set these once, at import or first use; they change nothing for a later test.
_SET_ONCE = {
    "CUDA_MODULE_LOADING",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "PYTORCH_NVML_BASED_CUDA_CHECK",
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
    "RAY_CLIENT_MODE",
    "RAY_USAGE_STATS_ENABLED",
    "TOKENIZERS_PARALLELISM",
    "TORCHINDUCTOR_CACHE_DIR",
    "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR",
    "TRITON_CACHE_DIR",
}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def pytest_report_header() -> str:
    """Say which family of networks is tested whole."""
    return f"family tested whole in the fast tier: {family_of_the_run()} ({VARIABLE} chooses another)"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at how many points something was let fail."""
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome) if r.when == "call"]
    tried = [
        (r.nodeid.partition("::")[2], value) for r in reports for name, value in r.user_properties if name == POINTS
    ]
    for test, points in tried:
        terminalreporter.write_line(f"{points} {POINTS}: {test}")
    if tried:
        terminalreporter.write_line(f"{sum(points for _, points in tried)} {POINTS} in all")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests `in_turn` into the slow tier, but for those of one family."""
    chosen = family_of_the_run()
    for item in items:
        turn = item.get_closest_marker("in_turn")
        if turn is not None:
            assert turn.args[0] in FAMILIES, f"{item.nodeid}: {turn.args[0]} is no family"
            if turn.args[0] != chosen:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Leave the cores to other processes; small tensors are no faster on several threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Fail a test that leaves environment variables, signal handlers, a process group or a thread behind."""
    variables = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    threads = set(threading.enumerate())
    yield
    after = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    ignored = _OF_PYTEST | _SET_ONCE
    changed = {key for key in after.keys() | variables.keys() if after.get(key) != variables.get(key)} - ignored
    left_handlers = [number.name for number in _SIGNALS if signal.getsignal(number) != handlers[number]]
    for number, handler in handlers.items():
        signal.signal(number, handler)
    started = [thread for thread in threading.enumerate() if thread not in threads and not thread.daemon]
    for thread in started:
        thread.join(timeout=5.0)  # transformers tells the threads that loaded weights to end, and does not wait
    started = [thread for thread in started if thread.is_alive()]
    assert not changed, f"the test left environment variables changed: {sorted(changed)}"
    assert not left_handlers, f"the test left handlers of {left_handlers} installed"
    assert not started, f"the test left threads running: {started}"
    if "torch" in sys.modules:
        import torch.distributed

        left = torch.distributed.is_available() and torch.distributed.is_initialized()
        if left:
            torch.distributed.destroy_process_group()
        assert not left, "the test left a process group initialised"


@pytest.fixture
def rows_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bitsandbytes keep 4-bit weights in their plain form: where the CPU has AVX512-BF16 it packs them by rows of
    whole blocks of 64, which tiny models do not have."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
