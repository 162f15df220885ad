import pytest

from evolvedirector.evolution.summary import SUMMARY_KEYS, wilson_interval

KEYS = """
rounds revisions live mastered retired expanded deleted mutated teacher_calls judge_calls lost_calls cost_usd
images_seen wall_s accuracy accuracy_interval accuracy_mean accuracy_mean_interval win_rate win_rate_interval
win_rate_held_out forgetting evaluation_teacher_calls evaluation_cost_usd teacher_share teacher_table judge_health
rounds_detail budget
"""


def test_the_keys_are_fixed() -> None:
    assert list(SUMMARY_KEYS) == KEYS.split()


def test_the_interval_is_wilsons() -> None:
    assert wilson_interval(0, 0) is None
    low, high = wilson_interval(5, 10) or (0, 0)
    assert (low, high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))  # Wilson 1927, z = 1.96
    assert wilson_interval(0, 10)[0] == 0.0  # type: ignore[index]
    assert wilson_interval(10, 10)[1] == 1.0  # type: ignore[index]
