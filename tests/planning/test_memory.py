"""What cannot fit a device is refused with figures."""

from __future__ import annotations

import pytest
import torch

from evolvedirector.planning.memory import (
    PhaseBytes,
    StudentBytes,
    WorkBytes,
    beside_training,
    gib,
    phases,
    state_bytes,
    student_bytes,
    too_large,
)

GIB = 2**30


def test_adam_in_fp32_takes_sixteen_bytes_per_weight_and_a_shard_its_part() -> None:
    whole = student_bytes(parameters=600, trainable=500, averaged_copies=1, frozen=7)
    assert (whole.weights, whole.gradients, whole.optimizer, whole.others) == (2400, 2000, 4000, 2007)
    part = student_bytes(parameters=600, trainable=500, shards=4, averaged_copies=1, frozen=7)
    assert part.staying("all") == (2000 + 2000) // 4  # frozen parts leave with the weights
    assert part.total == (2400 + 2000 + 4000 + 2000) // 4 + 7  # what is frozen stays whole on every device


def test_an_optimizer_that_knows_its_state_is_asked() -> None:
    class Mixed:
        def bytes_per_value(self) -> float:
            return 4.5

    assert student_bytes(20, 10, shards=2, optimizer_bytes=state_bytes(Mixed())).optimizer == 23
    assert state_bytes(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])) == 4


def test_a_frozen_base_takes_what_its_values_are_kept_in() -> None:
    lora = student_bytes(parameters=600, trainable=20, weight_bytes=580 // 2 + 20 * 4)
    assert (lora.weights, lora.gradients, lora.optimizer) == (370, 80, 160)


def test_a_frozen_base_lies_whole_on_every_device_where_only_the_adapter_is_sharded() -> None:
    rest = {"parameters": 600, "trainable": 20, "weight_bytes": 290 + 80, "shards": 4}
    assert student_bytes(**rest, base_is_whole=True).weights == 290 + 20
    assert student_bytes(**rest).weights == -(-370 // 4), "other strategies divide all of it"


def test_of_offloaded_shards_nothing_but_a_whole_base_lies_on_the_device() -> None:
    lora = {"parameters": 600, "trainable": 20, "weight_bytes": 290 + 80, "shards": 4, "averaged_copies": 1}
    assert student_bytes(**lora, base_is_whole=True, offloaded=True, frozen=7).total == 290 + 7


@pytest.mark.parametrize(("offload", "left"), [("none", 15), ("optimizer", 7), ("all", 3)])
def test_offloading_leaves_gradients_and_averages(offload: str, left: int) -> None:
    assert StudentBytes(4, 2, 8, 1).staying(offload) == left  # type: ignore[arg-type]


def test_what_caches_stand_in_for_is_elsewhere_while_it_trains() -> None:
    student = StudentBytes(4, 2, 8, others=6, frozen=6)
    listed = {
        phase.phase: phase.total for phase in phases(student, "none", {}, {}, {}, work=WorkBytes(10, 5, cached=6))
    }
    assert (listed["train"], listed["draw"]) == (24, 25)


def test_the_largest_tenant_of_each_phase_counts() -> None:
    listed = phases(StudentBytes(4, 2, 8), "all", {"judge": 9}, {"small": 3, "large": 30}, {"reader": 5})
    assert listed == [
        PhaseBytes("train", 14),
        PhaseBytes("judge", 2, 9, "judge"),
        PhaseBytes("teach", 2, 30, "large"),
        PhaseBytes("evaluate", 14, 5, "reader"),
    ]


def test_a_writer_works_beside_the_judge_or_the_whole_student() -> None:
    student = StudentBytes(4, 2, 8)
    assert phases(student, "all", {"judge": 9}, {}, {}, {"writer": 5})[1] == PhaseBytes("write", 14, 5, "writer")
    assert phases(student, "all", {"judge": 30}, {}, {}, {"writer": 5})[1] == PhaseBytes("write", 32, 5, "writer")


def test_what_cannot_fit_is_named_with_figures_and_a_line_to_write() -> None:
    student = StudentBytes(4 * GIB, 4 * GIB, 8 * GIB)
    kept = phases(student, "none", {"judge": 17 * GIB}, {}, {})
    said = too_large(kept, 24 * GIB, "none")
    assert said is not None
    assert "`judge` cannot fit: the student keeps 16.0 GiB and judge takes 17.0 GiB, 33.0 GiB in all" in said
    assert "has 24.0 GiB. Write `offload_student: all`" in said
    assert too_large(phases(student, "all", {"judge": 17 * GIB}, {}, {}), 24 * GIB, "all") is None
    assert "quantised" in str(too_large(phases(student, "all", {"judge": 40 * GIB}, {}, {}), 24 * GIB, "all"))
    assert "fsdp.yaml" in str(too_large(phases(student, "none", {}, {}, {}), 8 * GIB, "none"))
    assert gib(GIB // 2) == "512.0 MiB"


def test_in_the_background_the_largest_of_those_who_work_lies_beside_the_training() -> None:
    student = StudentBytes(4, 4, 8, 0)
    listed = phases(student, "none", {"the judge": 5}, {"a teacher": 9}, {}, {"the writer": 2})
    beside = {phase.phase: phase for phase in beside_training(listed)}
    assert set(beside) == {"train", "evaluate"}
    assert (beside["train"].total, beside["train"].who) == (16 + 9, "a teacher")
