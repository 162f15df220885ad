"""What every test runs under: one thread, and nothing left behind for the next one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

_OF_PYTEST = {"PYTEST_CURRENT_TEST", "COV_CORE_SOURCE"}
# Lightning and libraries set these once, at import or first use; they change nothing for a later test.
_SET_ONCE = {
    "CUDA_MODULE_LOADING",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "PYTORCH_NVML_BASED_CUDA_CHECK",
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
    "TOKENIZERS_PARALLELISM",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


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
