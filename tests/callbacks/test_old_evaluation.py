"""Three callbacks of before work under their names for one release, and read what they saved before."""

import pytest

from evolvedirector.callbacks import Forgetting, SkillAccuracy, WinRate
from tests import toys


def test_each_says_what_to_write_instead() -> None:
    for make, suite in (
        (lambda: SkillAccuracy(toys.ToyJudge(), seeds_per_prompt=3), "held_out.*HeldOutAccuracy"),
        (lambda: WinRate(toys.ToyJudge(), {"toy": toys.ToyTeacher()}), "win_rate.*TeacherComparison"),
        (lambda: Forgetting(toys.ToyJudge()), "forgetting.*MasteredPrompts"),
    ):
        with pytest.warns(FutureWarning, match=f"EvaluationCallback.*{suite}"):
            callback = make()
        assert callback.state_key in ("SkillAccuracy", "WinRate", "Forgetting[]")
        assert not any(place.startswith("suites") for place in callback.parts())
    with pytest.raises(ValueError, match="seeds_per_prompt is 0"), pytest.warns(FutureWarning):
        SkillAccuracy(toys.ToyJudge(), seeds_per_prompt=0)


@pytest.mark.filterwarnings("ignore:.*is an old name:FutureWarning")
def test_checkpoints_of_before_are_read() -> None:
    accuracy, win_rate = SkillAccuracy(toys.ToyJudge()), WinRate(toys.ToyJudge(), {"toy": toys.ToyTeacher()})
    forgetting = Forgetting(toys.ToyJudge())
    figures = {"accuracy": {"dark": 0.5}, "accuracy_mean": 0.5}
    accuracy.load_state_dict({"accuracy": {"dark": 0.5}, "figures": figures, "read_at": [4, 2]})
    assert accuracy.summary_entries() == figures
    history = [{"global_step": 4, "evaluation": {"toy": 0.5}, "training": {}}]
    win_rate.load_state_dict({"figures": {"win_rate_held_out": {}}, "read_step": 4, "history": history})
    assert win_rate.summary_entries() == {"win_rate_held_out": {}, "win_rate_history": history}
    forgetting.load_state_dict({"forgetting": {"share": 0.1}, "read_step": 4})
    assert forgetting.summary_entries() == {"forgetting": {"share": 0.1}}
    for callback in (accuracy, win_rate, forgetting):
        other = type(callback).__new__(type(callback))
        other.__dict__.update(callback.__dict__, _outcomes={})
        other.load_state_dict(callback.state_dict())
        assert other.summary_entries() == callback.summary_entries()
