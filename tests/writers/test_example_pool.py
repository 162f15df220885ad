"""Examples are drawn by seed and content, and the pool grows within its bound."""

from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.writers.example_pool import ExamplePool

TEXTS = ["a red fox", "two owls", "an old tram", "a blue whale"]


@settings(max_examples=30)
@given(st.permutations(TEXTS), st.integers(0, 2**63))
def test_a_draw_depends_on_content_and_seed_not_on_order(order, seed):
    assert ExamplePool({"s": order}).draw("s", 2, seed) == ExamplePool({"s": TEXTS}).draw("s", 2, seed)


def test_seeds_draw_different_examples_of_one_skill():
    pool = ExamplePool({"animals": TEXTS, "others": ["a chair"]})
    drawn = {pool.draw("animals", 2, seed) for seed in range(40)}
    assert len(drawn) > 4 and all(len(set(texts)) == 2 and set(texts) <= set(TEXTS) for texts in drawn)
    assert pool.draw("others", 3, 0) == ("a chair",) and pool.draw("none", 3, 0) == pool.draw(None, 3, 0) == ()


def test_it_grows_once_per_text_up_to_its_bound():
    pool = ExamplePool({"s": TEXTS[:1]}, most_per_skill=3)
    pool.add("s", ["The red fox.", "two owls", "two owls"])
    assert set(pool.draw("s", 9, 0)) == {"a red fox", "two owls"} and ("two", "owls") in pool.words("s")
    pool.add("s", TEXTS)
    assert len(pool.draw("s", 9, 0)) == 3
    pool.add(None, ["a chair"])
    assert pool.draw(None, 9, 0) == ("a chair",)


def test_given_examples_are_kept_over_the_bound():
    assert len(ExamplePool({"s": TEXTS}, most_per_skill=1).words("s")) == 4
