"""The judge behind a chat endpoint inside a round: answers are kept by content and paid once, within the money."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.round_parts import Round, RoundParts, tenants_of
from evolvedirector.evolution.steps import check, compare
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.judges.calibrated_judge import CalibratedJudge
from evolvedirector.judges.faithfulness_judge import FaithfulnessJudge
from evolvedirector.judges.openai_vision_judge import OpenAIVisionJudge
from evolvedirector.judges.panel_judge import PanelJudge
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.records import Prompt, RevisionChange, RoundInfo
from evolvedirector.store.dataset import DatasetStore
from tests.chat_server import ChatServer, chat_server, completion, error, images_of
from tests.toys import ToyWriter, flat_png

PROMPTS = [Prompt.create(f"tone {tone}") for tone in range(20, 120, 10)]


def reply(body):
    tones = [Image.open(io.BytesIO(image)).getpixel((0, 0))[0] for image in images_of(body)]
    if len(tones) == 1:
        return completion("Yes", tokens={"Yes": 0.9, "No": 0.1} if tones[0] < 100 else {"Yes": 0.1, "No": 0.9})
    return completion("A", tokens={"A": 0.8, "B": 0.2} if tones[0] < tones[1] else {"A": 0.2, "B": 0.8})


class Looking:
    """A dataset root with two images, and rounds that look at them."""

    def __init__(self, folder: Path, server: ChatServer, wrap=lambda judge: judge) -> None:
        self.folder, self.server, self.wrap = folder, server, wrap
        with DatasetStore(folder, create=True) as store:
            self.images = store.blobs.put_many([flat_png(20), flat_png(230)])
            self.sha = store.publish(None, "import", RevisionChange(prompts=tuple(PROMPTS)))

    def round(self, budget: Budget = Budget(), limit: int = 10):  # noqa: B008 - frozen
        """Look with a judge and a store of its own, as a resumed run would."""
        judge = self.wrap(OpenAIVisionJudge(self.server.endpoint(), "judge", image_size_px=32))
        dark, light = self.images
        with DatasetStore(self.folder) as store:
            info = RoundInfo("r", 0, None, 0, 0, self.sha)
            student, policy, writer = StudentPart(lambda requests: []), EvolveDirectorPolicy(), ToyWriter()
            executor = LocalExecutor(tenants_of(student, {}, judge, writer), unit=4)
            parts = RoundParts(store, executor, student, {}, judge, writer, policy, budget, image_size_px=32)
            context = Round(parts, info)
            found = check(context, [(prompt, dark) for prompt in PROMPTS[:limit]])
            found += compare(context, [(PROMPTS[0], light, dark)], both_orders=True)
            return found, store.ledger.spend()


def outcomes(found):
    return [item.reading or item.verdict for item in found]


def test_a_resumed_round_asks_only_what_was_not_answered(tmp_path):
    with chat_server(reply) as server:
        looking = Looking(tmp_path / "root", server)
        looking.round(limit=4)
        assert len(server.asked) == 4 + 2
        whole, spend = looking.round()
        assert len(server.asked) == 10 + 2 == spend.judge_calls and spend.lost_calls == 0
        again, _ = looking.round()
        assert len(server.asked) == 12 and again == whole
    assert outcomes(whole) == ["shows"] * 10 + ["teacher"]
    assert {look.rung for item in again for look in item.looks} == {"logprobs"}


def test_looks_are_booked_at_their_price_and_stop_where_the_money_ends(tmp_path):
    with chat_server(reply) as server:
        looking = Looking(tmp_path / "root", server)
        found, spend = looking.round(Budget(budget_cost_usd=0.07, price_per_look_usd=0.01))
        assert len(server.asked) == 7 == len(found) == spend.judge_calls
        assert spend.cost_usd == pytest.approx(0.07)


WRAPS = [
    lambda judge: judge,
    CalibratedJudge,
    lambda judge: PanelJudge({"one": judge}),
    lambda judge: FaithfulnessJudge(judge, ask_pairs=True),
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_an_outage_is_over_when_it_is_over_whatever_stands_before_the_judge(tmp_path, wrap):
    down = True
    with chat_server(lambda body: error(503, "down") if down else reply(body)) as server:
        looking = Looking(tmp_path / "root", server, wrap)
        found, spend = looking.round(limit=2)
        assert outcomes(found) == ["unreadable"] * 2 + ["invalid"] and spend.judge_calls == 0
        down = False
        found, spend = looking.round(limit=2)
        assert outcomes(found) == ["shows", "shows", "teacher"]
        assert (spend.judge_calls, spend.lost_calls) == (4, 0)


def test_a_look_that_broke_off_counts_and_is_asked_again(tmp_path):
    down = True
    with chat_server(lambda body: (200, b"<html>") if down else reply(body)) as server:
        looking = Looking(tmp_path / "root", server)
        found, spend = looking.round(limit=1)
        assert outcomes(found) == ["unreadable", "invalid"] and spend.judge_calls == 3
        down = False
        found, spend = looking.round(limit=1)
        assert outcomes(found) == ["shows", "teacher"]
        assert (spend.judge_calls, spend.lost_calls, len(server.asked)) == (6, 3, 6)
