"""A run that draws by loss: it draws more of what is not learned yet, and resumes exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from evolvedirector.evolution import Budget
from evolvedirector.policies import ScreeningPolicy, Weighting
from evolvedirector.records import LossRequest
from evolvedirector.store import DatasetStore
from tests.callbacks import test_evolution_resume as resume
from tests.toys import ToyTeacher, mean_tone, tone_of

pytestmark = resume.pytestmark


class Measuring(resume.Student):
    """Its loss is that of its training."""

    def sample_losses(self, requests: Sequence[LossRequest]) -> list[float]:
        wanted = torch.tensor([[mean_tone(request.image) / 255] for request in requests])
        tones = torch.tensor([[tone_of(request.prompt) / 255] for request in requests])
        return (self.line(tones) - wanted).square()[:, 0].tolist()


def run_in(folder: Path, student: type[resume.Student], teacher: ToyTeacher | None = None) -> resume.Run:
    policy = ScreeningPolicy(weighting=Weighting(loss_power=1.0))
    run = resume.Run(folder, policy=policy, budget=Budget(30), teacher=teacher, every_n_train_steps=2, max_epochs=4)
    torch.manual_seed(0)
    run.student = student()
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> resume.Run:
    return run_in(tmp_path_factory.mktemp("whole"), Measuring).fit()


def test_weights_follow_the_losses_of_each_round(whole: resume.Run) -> None:
    with DatasetStore(whole.root) as store:
        rows = store.ledger.rounds.all()
        assert len(rows) == 3
        for row in rows:
            losses, state = store.ledger.rounds.losses(row.round_id), store.state(row.child_sha)
            assert losses.keys() == state.sample_weights.keys() == {e.sample.key for e in state.in_state("live")}
        first = store.state(rows[0].child_sha).sample_weights
        losses = store.ledger.rounds.losses(rows[0].round_id)
    by_loss = [first[key] for key in sorted(losses, key=losses.__getitem__)]
    assert by_loss == sorted(by_loss) and by_loss[-1] > 2 * by_loss[0]


@pytest.mark.parametrize(
    ("checkpoint", "step"), [("step-00000003-round", 3), ("step-00000004", 4), ("step-00000006", 6)]
)
def test_any_checkpoint_goes_on_as_if_never_interrupted(whole: resume.Run, checkpoint: str, step: int) -> None:
    again = run_in(whole.folder, Measuring).fit(checkpoint)
    assert again.student.seen == {at: batch for at, batch in whole.student.seen.items() if at >= step}
    assert again.data.revision_sha == whole.data.revision_sha
    assert all(torch.equal(a, b) for a, b in zip(again.student.parameters(), whole.student.parameters(), strict=True))
    assert again.teacher.asked == []


def test_a_module_without_losses_is_refused_before_anything_is_bought(tmp_path: Path) -> None:
    teacher = ToyTeacher()
    with pytest.raises(
        RuntimeError, match=r"Student has no `sample_losses`.*Add it, or write `weighting: \{loss_power"
    ):
        run_in(tmp_path, resume.Student, teacher).fit()
    assert teacher.asked == []


def test_a_module_that_returns_too_few_losses_is_told(tmp_path: Path) -> None:
    class Short(Measuring):
        def sample_losses(self, requests: Sequence[LossRequest]) -> list[float]:
            return super().sample_losses(requests)[1:]

    with pytest.raises(RuntimeError, match=r"Short.sample_losses returned 0 losses for 1 samples"):
        run_in(tmp_path, Short).fit()


class Broken(Measuring):
    """Measures nothing."""

    def sample_losses(self, requests: Sequence[LossRequest]) -> list[float]:
        raise KeyError("odd")


def test_a_loss_that_cannot_be_measured_is_known_before_a_purchase(tmp_path: Path) -> None:
    teacher = ToyTeacher()
    with pytest.raises(RuntimeError, match=r"loss of a sample failed: KeyError: 'odd'\. Nothing was bought"):
        run_in(tmp_path, Broken, teacher).fit()
    assert teacher.asked == []
