"""A disk that fails, a process that dies, a power cut, at every operation: nothing is lost, nothing torn is read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import POINTS
from tests.crash.faulty_disk import (
    Fault,
    FaultyDisk,
    RecordingDisk,
    after_power_cut,
    faults_of,
    in_a_child,
)
from tests.crash.operations import OPERATIONS, Reference, copy_of, folder_in_memory, prepared, wrong_after

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SAMPLE = pytest.mark.slow
Note = Callable[[str, object], None]
POWER_CUTS = [("none", "lost"), ("all", "zeros"), ("seed 1", "half"), ("all", "lost"), ("seed 2", "kept")]
WRITERS = {"evolvedirector.store.durable", "evolvedirector.store.keyed_files"}
"""Who may open a file of a root for writing."""


@pytest.fixture(params=list(OPERATIONS))
def reference(request: pytest.FixtureRequest) -> Iterator[Reference]:
    with folder_in_memory() as folder:
        yield prepared(OPERATIONS[request.param], Path(folder).resolve())


def counted(reference: Reference) -> dict[str, int]:
    """Count the operations of an uninterrupted run, and see who writes."""
    root = copy_of(reference, "counted")
    disk = FaultyDisk(root)
    with disk.under_the_store():
        reference.operation.work(root)
    assert disk.writers <= WRITERS, f"written past store/durable.py: {disk.writers - WRITERS}"
    return disk.counts


def tried(reference: Reference, fault: Fault) -> list[str]:
    """Let one thing go wrong; list what does not hold then."""
    root = copy_of(reference, "tried")

    def work() -> None:
        disk = FaultyDisk(root, fault)
        try:
            with disk.under_the_store():
                reference.operation.work(root)
        finally:
            assert disk.was_hit

    code, error = in_a_child(work)
    wrong = []
    if fault.name == "SIGKILL":
        wrong += [] if code == -9 else [f"it ended with {code}, {error}"]
    elif code not in (0, 1) or error.startswith("AssertionError"):
        wrong.append(f"it ended with {code}, {error}")
    return [f"{fault}: {line}" for line in wrong + wrong_after(reference, root)]


def try_all(reference: Reference, faults: Sequence[Fault], note: Note) -> None:
    wrong = [line for fault in faults for line in tried(reference, fault)]
    note(POINTS, len(faults))
    assert not wrong, "\n".join(wrong)


@pytest.mark.crash
@pytest.mark.timeout(3600)
def test_every_operation_fails_or_dies_once(reference: Reference, record_property: Note) -> None:
    faults = faults_of(counted(reference))
    assert faults
    try_all(reference, faults, record_property)


@SAMPLE
def test_a_sample_of_operations_fails_or_dies(reference: Reference, record_property: Note) -> None:
    faults = faults_of(counted(reference))
    try_all(reference, faults[:: max(1, len(faults) // 9)], record_property)


def power_cuts(reference: Reference, every: int, kinds: Sequence[tuple[str, str]]) -> tuple[int, list[str]]:
    """Cut the power after each `every`-th operation; returns how many states of the disk were tried, what was wrong.

    Args:
        reference: What is interrupted.
        every: Of the operations.
        kinds: Which names and which contents are found, as `after_power_cut` takes them.
    """
    root = copy_of(reference, "recorded")
    disk = RecordingDisk(root)
    with disk.under_the_store():
        reference.operation.work(root)
    wrong, states = [], 0
    for point in range(0, len(disk.events) + every, every):
        for names, contents in kinds:
            target = copy_of(reference, "cut")
            after_power_cut(disk, point, target, contents, names)
            where = f"cut at {point} of {len(disk.events)}, names {names}, contents {contents}"
            wrong += [f"{where}: {line}" for line in wrong_after(reference, target)]
            states += 1
    return states, wrong


@pytest.mark.crash
@pytest.mark.timeout(3600)
def test_the_power_fails_after_every_operation(reference: Reference, record_property: Note) -> None:
    states, wrong = power_cuts(reference, 1, POWER_CUTS)
    record_property(POINTS, states)
    assert not wrong, "\n".join(wrong)


@SAMPLE
def test_the_power_fails_here_and_there(reference: Reference, record_property: Note) -> None:
    states, wrong = power_cuts(reference, 29, POWER_CUTS[:3])
    record_property(POINTS, states)
    assert not wrong, "\n".join(wrong)
