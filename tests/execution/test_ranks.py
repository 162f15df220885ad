"""The work of a round through a process group: shares, order and errors (one rank here, two in tests/distributed)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from evolvedirector.commands import lightning_cli
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.round_parts import tenants_of
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.execution.ranks import PeerFailed, RankExecutor, leaving_process_group
from evolvedirector.judges.calibrated_judge import CalibratedJudge
from evolvedirector.judges.panel_judge import PanelJudge
from evolvedirector.records import ImageAndPrompt, ImageRequest, OrderedPair, WriteRequest
from tests.toys import ToyJudge, ToyTeacher, ToyWriter, flat_png, tone_of


@pytest.fixture
def group(tmp_path: Path) -> Iterator[dist.ProcessGroup]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield dist.new_group(backend="gloo")
    dist.destroy_process_group()


def draw(requests: Sequence[ImageRequest]) -> list[bytes]:
    if any(tone_of(request.prompt) == 13 for request in requests):
        raise ValueError("13 is no tone")
    return [flat_png(tone_of(request.prompt)) for request in requests]


class Ranks:
    """An executor over a group, and the parts that it asks."""

    def __init__(self, group: dist.ProcessGroup, judge: Any = None, **teachers: Any) -> None:
        self.student, self.judge, self.writer = StudentPart(draw, chunk=2), judge or ToyJudge(), ToyWriter()
        self.teachers = teachers or {"toy": ToyTeacher()}
        self.reason: str | None = None
        tenants = tenants_of(self.student, self.teachers, self.judge, self.writer)
        self.local = LocalExecutor(tenants)
        self.executor = RankExecutor(self.local, group, lambda: self.reason)

    def render(self, *tones: int) -> list[bytes]:
        return [reply.image for reply in self.executor.ask(self.student, "generate", requests(*tones))]


def requests(*tones: int) -> list[ImageRequest]:
    return [ImageRequest(f"r{tone}", f"tone {tone}", 0, 8, 8) for tone in tones]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_images_come_in_the_order_of_the_requests(group: dist.ProcessGroup, count: int) -> None:
    tones = [40 * number for number in range(count)]
    assert Ranks(group).render(*tones) == [flat_png(tone) for tone in tones]


def test_every_part_of_a_round_passes_through(group: dist.ProcessGroup) -> None:
    ranks = Ranks(group)
    ask = ranks.executor.ask
    pairs = [OrderedPair("p", flat_png(200), flat_png(10), "tone 200")]
    assert [look.probability > 0.5 for look in ask(ranks.judge, "look", pairs)] == [True]
    checks = [ImageAndPrompt("c", flat_png(10), "tone 200")]
    assert [look.probability > 0.5 for look in ask(ranks.judge, "check", checks)] == [False]
    assert [reply.image for reply in ask(ranks.teachers["toy"], "generate", requests(7))] == [flat_png(7)]
    writes = [WriteRequest("w", "mutation", None, None, 2, 0)]
    assert [len(reply.texts) for reply in ask(ranks.writer, "write", writes)] == [2]


def test_a_service_is_asked_by_one_process_within_the_limits_of_its_key(group: dist.ProcessGroup) -> None:
    class Service(ToyTeacher):
        requests_in_flight = 40

    ranks = Ranks(group, toy=ToyTeacher(), service=Service())
    ranks.executor.enter("teach")
    ranks.reason = "rank 1 is gone"  # an order to the peers would fail
    ranks.executor._world_size = 8
    assert ranks.executor.unit_of(ranks.teachers["service"]) == 40
    assert ranks.executor.unit_of(ranks.teachers["toy"]) == 8 * ranks.local.unit_of(ranks.teachers["toy"])
    drawn = ranks.executor.ask(ranks.teachers["service"], "generate", requests(7))
    assert [reply.image for reply in drawn] == [flat_png(7)]


@pytest.mark.parametrize("wrap", [CalibratedJudge, lambda judge: PanelJudge({"one": judge, "two": ToyJudge()})])
def test_a_judge_that_wraps_a_service_is_asked_by_one_process_too(group: dist.ProcessGroup, wrap: Any) -> None:
    class Service(ToyJudge):
        requests_in_flight = 40

    item = ImageAndPrompt("a", flat_png(7), "tone 7")
    ranks = Ranks(group, wrap(Service()))
    ranks.executor.enter("judge")
    ranks.reason = "rank 1 is gone"  # an order to the peers would fail
    ranks.executor._world_size = 8
    assert ranks.executor.unit_of(ranks.judge) == 40
    assert [look.item_id for look in ranks.executor.ask(ranks.judge, "check", [item])] == ["a"]
    here = Ranks(group, wrap(ToyJudge()))
    here.executor.enter("judge")
    here.reason = "rank 1 is gone"
    with pytest.raises(PeerFailed):
        list(here.executor.ask(here.judge, "check", [item]))


def test_an_error_names_the_rank_the_work_and_the_cause(group: dist.ProcessGroup) -> None:
    with pytest.raises(PeerFailed, match=r"Rank 0 .* asked to render: ValueError: 13 is no tone") as failure:
        Ranks(group).render(13)
    assert failure.value.in_step


def test_what_was_finished_is_handed_on_before_a_failure(group: dist.ProcessGroup) -> None:
    class Tiring(ToyTeacher):
        def generate(self, requests: Sequence[ImageRequest]) -> Iterator[Any]:
            yield from super().generate(requests[:2])
            raise OSError("tired")

    ranks = Ranks(group, toy=Tiring())
    replies = ranks.executor.ask(ranks.teachers["toy"], "generate", requests(1, 2, 3))
    assert [next(replies).image, next(replies).image] == [flat_png(1), flat_png(2)]
    with pytest.raises(PeerFailed, match="asked to teach: OSError: tired"):
        next(replies)


def test_no_order_goes_out_once_a_peer_is_gone(group: dist.ProcessGroup) -> None:
    ranks = Ranks(group)
    ranks.reason = "rank 1 has been silent for 12 s"
    with pytest.raises(PeerFailed, match="rank 1 has been silent") as failure:
        ranks.render(1)
    assert not failure.value.in_step


def join(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}", rank=0, world_size=1)


def test_a_group_joined_inside_is_left_but_not_after_a_failure(tmp_path: Path) -> None:
    with leaving_process_group():
        join(tmp_path / "one")
    assert not dist.is_initialized()
    with leaving_process_group():
        pass
    with pytest.raises(RuntimeError, match="in between"), leaving_process_group():
        join(tmp_path / "two")
        raise RuntimeError("in between")
    assert dist.is_initialized()  # leaving would wait for what no peer answers
    dist.destroy_process_group()


def test_a_group_of_before_stays(group: dist.ProcessGroup) -> None:
    with leaving_process_group():
        pass
    assert dist.is_initialized()


def test_a_command_that_trains_leaves_its_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning_cli, "run_until_signal", lambda *_: join(tmp_path / "store"))
    lightning_cli.main(["fit", "-c", "configs/quickstart.yaml"])
    assert not dist.is_initialized()
