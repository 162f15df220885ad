import numpy as np

from evolvedirector.datamodules.sample_cache import SampleCache


def sample(key: str) -> dict:
    return {"key": key, "image": np.zeros((2, 2, 3), np.uint8)}


def test_the_cache_fills_to_its_limit_and_makes_space_for_a_new_revision() -> None:
    cache = SampleCache(max_bytes=30)  # two images of 12 bytes
    for key in ("a", "a", "b", "c"):
        cache.add(sample(key))
    assert [cache.get(key) is not None for key in "abc"] == [True, True, False]
    cache.keep_only(["b", "c"])
    cache.add(sample("c"))
    assert [cache.get(key) is not None for key in "abc"] == [False, True, True]
