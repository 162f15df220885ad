"""The work of a round through a process group: shares, order and errors (one rank here, two in tests/distributed)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from evolvedirector.execution.executor import LocalCrew
from evolvedirector.execution.ranks import PeerFailed, RankCrew
from evolvedirector.judges.calibrated_judge import CalibratedJudge
from evolvedirector.judges.panel_judge import PanelJudge
from evolvedirector.records import ImageAndPrompt, ImageRequest, OrderedPair
from tests.toys import ToyJudge, ToyTeacher, flat_png, tone_of


@pytest.fixture
def group(tmp_path: Path) -> Iterator[dist.ProcessGroup]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield dist.new_group(backend="gloo")
    dist.destroy_process_group()


def draw(requests: Sequence[ImageRequest]) -> list[bytes]:
    if any(tone_of(request.prompt) == 13 for request in requests):
        raise ValueError("13 is no tone")
    return [flat_png(tone_of(request.prompt)) for request in requests]


def crew_of(group: dist.ProcessGroup, reason: str | None = None) -> RankCrew:
    return RankCrew(LocalCrew(draw, {"toy": ToyTeacher()}, ToyJudge(), chunk=2), group, lambda: reason)


def requests(*tones: int) -> list[ImageRequest]:
    return [ImageRequest(f"r{tone}", f"tone {tone}", 0, 8, 8) for tone in tones]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_images_come_in_the_order_of_the_requests(group: dist.ProcessGroup, count: int) -> None:
    tones = [40 * number for number in range(count)]
    assert crew_of(group).render(requests(*tones)) == [flat_png(tone) for tone in tones]


def test_every_part_of_a_round_passes_through(group: dist.ProcessGroup) -> None:
    crew = crew_of(group)
    crew.enter("judge")
    pairs = [OrderedPair("p", flat_png(200), flat_png(10), "tone 200")]
    assert [look.probability > 0.5 for look in crew.look(pairs)] == [True]
    checks = [ImageAndPrompt("c", flat_png(10), "tone 200")]
    assert [look.probability > 0.5 for look in crew.check(checks)] == [False]
    assert [reply.image for reply in crew.teach("toy", requests(7))] == [flat_png(7)]


def test_a_service_is_asked_by_one_process_within_the_limits_of_its_key(group: dist.ProcessGroup) -> None:
    class Service(ToyTeacher):
        requests_in_flight = 40

    local = LocalCrew(draw, {"toy": ToyTeacher(), "service": Service()}, ToyJudge(), chunk=2)
    crew = RankCrew(local, group, lambda: "rank 1 is gone")  # an order to the peers would fail
    crew._world_size = 8
    assert crew.unit_of("service") == 40 and crew.unit_of("toy") == 8 * local.unit
    assert [reply.image for reply in crew.teach("service", requests(7))] == [flat_png(7)]


@pytest.mark.parametrize("wrap", [CalibratedJudge, lambda judge: PanelJudge({"one": judge, "two": ToyJudge()})])
def test_a_judge_that_wraps_a_service_is_asked_by_one_process_too(group: dist.ProcessGroup, wrap: Any) -> None:
    class Service(ToyJudge):
        requests_in_flight = 40

    local = LocalCrew(draw, {}, wrap(Service()), chunk=2)
    crew = RankCrew(local, group, lambda: "rank 1 is gone")  # an order to the peers would fail
    crew._world_size = 8
    assert crew.unit_of(None) == 40
    assert [look.item_id for look in crew.check([ImageAndPrompt("a", flat_png(7), "tone 7")])] == ["a"]
    here = RankCrew(LocalCrew(draw, {}, wrap(ToyJudge()), chunk=2), group, lambda: "rank 1 is gone")
    with pytest.raises(PeerFailed):
        list(here.check([ImageAndPrompt("a", flat_png(7), "tone 7")]))


def test_an_error_names_the_rank_the_work_and_the_cause(group: dist.ProcessGroup) -> None:
    with pytest.raises(PeerFailed, match=r"Rank 0 .* asked to render: ValueError: 13 is no tone") as failure:
        crew_of(group).render(requests(13))
    assert failure.value.in_step


def test_no_order_goes_out_once_a_peer_is_gone(group: dist.ProcessGroup) -> None:
    with pytest.raises(PeerFailed, match="rank 1 has been silent") as failure:
        crew_of(group, "rank 1 has been silent for 12 s").render(requests(1))
    assert not failure.value.in_step
