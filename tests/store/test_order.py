import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.store.order import (
    KeyedOrder,
    Stratum,
    aspect_bucket,
    interleave,
    keyed_permutation,
    slot_seeds,
    slots_per_period,
    weighted_pass,
)

counts_of_strata = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def order_over(
    counts: list[int], batch: int, seed: int = 0, buckets: list[int] | None = None, sha: str = "abc", **weights: object
) -> KeyedOrder:
    strata = [Stratum(buckets[k] if buckets else 0, f"skill{k}", "live") for k in range(len(counts))]
    rows = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return KeyedOrder(sha, seed, batch, strata, rows, **weights)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 500), st.integers(0, 2**63 - 1))
def test_a_permutation_holds_everything_once(size: int, key: int) -> None:
    assert sorted(keyed_permutation(size, key).tolist()) == list(range(size))


def test_a_permutation_never_changes() -> None:
    # stored positions name places in this order: another one would silently train on other samples after an update
    assert keyed_permutation(8, 12345).tolist() == [2, 6, 0, 3, 1, 5, 7, 4]


@settings(deadline=None, max_examples=50)
@given(counts_of_strata, st.integers(1, 17), st.integers(0, 5), st.integers(1, 3))
def test_with_equal_weights_every_row_comes_once_per_pass(
    counts: list[int], batch: int, seed: int, passes: int
) -> None:
    order, size = order_over(counts, batch, seed), sum(counts)
    slots = np.concatenate([order.global_batch(b) for b in range(-(-passes * size // batch))])
    for number in range(passes):
        assert sorted(slots[number * size : (number + 1) * size].tolist()) == list(range(size))


@settings(deadline=None, max_examples=50)
@given(counts_of_strata, st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 1000))
def test_ranks_share_a_batch_that_needs_no_history(counts: list[int], world_size: int, batch: int) -> None:
    used = order_over(counts, 12)
    for earlier in range(5):
        used.global_batch(earlier)
    parts = [used.rank_batch(batch, rank, world_size) for rank in range(world_size)]
    assert {len(part) for part in parts} == {12 // world_size}
    assert np.concatenate(parts).tolist() == order_over(counts, 12).global_batch(batch).tolist()


def test_seed_revision_and_pass_change_the_order() -> None:
    first = order_over([64], 64)
    orders = [first.global_batch(0), first.global_batch(1), order_over([64], 64, seed=1).global_batch(0)]
    orders.append(order_over([64], 64, sha="other").global_batch(0))
    assert len({tuple(order.tolist()) for order in orders}) == 4


def test_weights_set_the_share_of_each_skill_and_small_ones_repeat() -> None:
    order = order_over([100, 2], 10, skill_weights={"skill0": 1.0, "skill1": 3.0})
    rows = np.concatenate([order.global_batch(b) for b in range(400)])
    small = np.flatnonzero(order_over_rows([100, 2]) == 1)
    share = np.isin(rows, small).mean()
    assert share == pytest.approx(0.75, abs=0.005)
    passes = order.passes(400)
    assert passes[Stratum(0, "skill1", "live")] == pytest.approx(1500, rel=0.01)
    assert passes[Stratum(0, "skill0", "live")] == pytest.approx(10, rel=0.01)
    # within a skill, samples come equally often
    times = np.bincount(rows, minlength=102)
    assert times[small].max() - times[small].min() <= 1


def order_over_rows(counts: list[int]) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


weights_of_rows = st.lists(st.floats(0.125, 8.0), min_size=1, max_size=60)


@settings(deadline=None, max_examples=50)
@given(weights_of_rows, st.integers(0, 2**63 - 1), st.integers(1, 12))
def test_a_weighted_pass_draws_each_as_often_as_its_weight_says(weights: list[float], key: int, passes: int) -> None:
    size = len(weights)
    expected = size * np.array(weights) / sum(weights)
    drawn = np.zeros(size)
    for number in range(passes):
        order = weighted_pass(np.array(weights), number, key, key + number)
        times = np.bincount(order, minlength=size)
        assert len(order) == size
        assert (np.floor(expected - 1e-3) <= times).all() and (times <= np.ceil(expected + 1e-3)).all()
        drawn += times
    # what a pass rounds off evens out: over p passes no sample is further off than a few draws, and none is forgotten
    assert np.abs(drawn - passes * expected).max() < 3


def test_a_weighted_pass_never_changes_and_equal_weights_make_it_a_permutation() -> None:
    # stored positions name places in this order, as they do in that of a permutation
    assert weighted_pass(np.array([0.2, 1.0, 3.0, 0.8]), 5, 12345, 678).tolist() == [2, 3, 2, 1]
    assert sorted(weighted_pass(np.ones(9), 3, 1, 2).tolist()) == list(range(9))
    first, second = (weighted_pass(np.ones(64), number, 1, number).tolist() for number in range(2))
    assert first != second


def test_rows_are_drawn_by_weight_inside_their_skill_on_any_number_of_ranks() -> None:
    strata = [Stratum(0, "a", "live"), Stratum(1, "a", "live"), Stratum(0, "b", "live"), Stratum(0, "a", "mastered")]
    rows = np.repeat([0, 1, 2, 3], [8, 8, 40, 8])
    weights = np.where(rows == 1, 3.0, 1.0)
    weights[0] = 4.0
    order = KeyedOrder("sha", 0, 12, strata, rows, {"a": 1.0, "b": 1.0}, 0.25, weights)
    batches = [order.global_batch(b) for b in range(2000)]
    drawn = np.bincount(np.concatenate(batches), minlength=len(rows)) / (12 * len(batches))
    in_a = weights[:16] / weights[:16].sum()
    assert drawn[:16] == pytest.approx(0.375 * in_a, rel=0.03)  # both buckets of a skill share it by weight
    assert drawn[16:56] == pytest.approx(0.375 / 40, rel=0.05)
    assert drawn[56:] == pytest.approx(0.25 / 8, rel=0.05)
    for number in (0, 17, 1999):  # no batch needs those before it
        fresh = KeyedOrder("sha", 0, 12, strata, rows, {"a": 1.0, "b": 1.0}, 0.25, weights)
        parts = [fresh.rank_batch(number, rank, 3) for rank in range(3)]
        assert {len(part) for part in parts} == {4}
        assert np.concatenate(parts).tolist() == batches[number].tolist()


def test_without_weights_of_skills_rows_are_drawn_by_weight_overall() -> None:
    rows = np.repeat([0, 1], [10, 30])
    weights = np.where(rows == 0, 6.0, 1.0)
    strata = [Stratum(0, "a", "live"), Stratum(0, "b", "live")]
    order = KeyedOrder("sha", 0, 10, strata, rows, weight_of_row=weights)
    drawn = np.bincount(np.concatenate([order.global_batch(b) for b in range(2000)]), minlength=40) / 20_000
    assert drawn == pytest.approx(weights / weights.sum(), rel=0.03)


def test_shares_do_not_depend_on_the_order_in_which_weights_are_added_up() -> None:
    """Two strata of equal weight want the last slot of a period: not the rounding of a sum gives it to one of them."""
    weights, rows = np.array([409.2, 0.1, 0.3]), np.repeat([0, 1, 2], [3, 3, 1])
    assert weights.sum() != weights[::-1].sum(), "a float's sum has an order"
    strata = [Stratum(0, skill, "live") for skill in "abc"]
    first, second = (
        KeyedOrder("sha", 0, 10, strata, rows, weight_of_row=np.array([*there, *there[::-1], 0.22])).passes(1000)
        for there in (weights, weights[::-1])
    )
    assert first == second and first[strata[0]] != first[strata[1]]


def test_mastered_samples_take_the_replay_share() -> None:
    strata = [Stratum(0, "a", "live"), Stratum(0, "b", "live"), Stratum(0, "a", "mastered")]
    rows = np.repeat([0, 1, 2], [10, 30, 400])
    order = KeyedOrder("sha", 0, 8, strata, rows, {"a": 1.0, "b": 1.0}, replay_share=0.25)
    drawn = rows[np.concatenate([order.global_batch(b) for b in range(1000)])]
    assert (np.bincount(drawn) / len(drawn)).tolist() == pytest.approx([0.375, 0.375, 0.25], abs=0.005)
    equal = KeyedOrder("sha", 0, 8, strata, rows)
    drawn = rows[np.concatenate([equal.global_batch(b) for b in range(55)])]
    assert np.bincount(drawn).tolist() == [10, 30, 400]


def test_a_replay_share_without_mastered_samples_changes_nothing() -> None:
    order = order_over([5, 5], 5, replay_share=0.25)
    assert len(np.unique(np.concatenate([order.global_batch(b) for b in range(20)]))) == 10


def test_a_batch_has_one_aspect_bucket() -> None:
    order = order_over([40, 20, 4], 4, buckets=[0, 1, 0])
    bucket_of_row = np.array([0, 1, 0])[order_over_rows([40, 20, 4])]
    buckets = [set(bucket_of_row[order.global_batch(b)].tolist()) for b in range(300)]
    assert all(len(bucket) == 1 for bucket in buckets)
    assert np.mean([bucket == {1} for bucket in buckets]) == pytest.approx(20 / 64, abs=0.02)


def test_draws_of_a_stratum_are_spread_evenly() -> None:
    streams, draws = interleave(np.array([900, 90, 10]), 7)
    for stream, count in enumerate([900, 90, 10]):
        places = np.flatnonzero(streams == stream)
        assert draws[places].tolist() == list(range(count))
        # never further from its ideal place than one turn of its own and two slots
        assert np.abs(places - (np.arange(count) + 0.5) * 1000 / count).max() <= 500 / count + 3


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20).filter(lambda shares: sum(shares) > 0.01))
def test_slots_fill_a_period(shares: list[float]) -> None:
    exact = np.array(shares) / sum(shares)
    slots = slots_per_period(exact, 4096)
    assert slots.sum() == 4096
    assert (slots[exact > 0] >= 1).all()
    assert np.abs(slots - exact * 4096).max() <= len(shares) + 1


def test_seeds_depend_on_the_slot_alone() -> None:
    order = order_over([10], 6)
    slots = np.arange(12)
    assert (
        np.concatenate([order.sample_seeds(0), order.sample_seeds(1)]).tolist() == slot_seeds("abc", 0, slots).tolist()
    )
    many = slot_seeds("abc", 0, np.arange(100_000))
    assert many.min() >= 0 and len(np.unique(many)) == 100_000
    assert slot_seeds("abc", 1, slots).tolist() != slot_seeds("abc", 0, slots).tolist()


def test_nothing_to_order_is_an_error() -> None:
    with pytest.raises(ValueError, match="no order over 0 rows"):
        KeyedOrder("sha", 0, 4, [], np.empty(0, np.int64))


def test_aspect_buckets() -> None:
    assert [aspect_bucket(*size) for size in [(512, 512), (500, 512), (1024, 512), (512, 1024), (720, 512)]] == [
        0,
        0,
        2,
        -2,
        1,
    ]
