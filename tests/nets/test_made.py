"""Newly made networks, roots and runs give the figures that they gave when these were recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import numpy as np
import pytest
from PIL import Image

from tests.nets import made

LOSS_SHARE = 1e-4
"""By which a loss may differ from the recorded one: processors differ."""
GREY_LEVELS = 1
"""By which a channel of an image may differ, of 255."""


def recorded(name: str) -> Any:
    return json.loads((made.RECORDED / name).read_text(encoding="utf-8"))


def assert_drawn(image: np.ndarray, case: str) -> None:
    wanted = np.asarray(Image.open(made.RECORDED / made.image_name(case)))
    assert image.shape == wanted.shape
    assert np.abs(image.astype(int) - wanted).max() <= GREY_LEVELS


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.tiny_autoencoder(tmp_path_factory.mktemp("autoencoder"))


@pytest.mark.parametrize("case", made.CASES)
def test_a_perturbed_network_has_its_losses(case: str, autoencoder: Path) -> None:
    losses = made.losses_of_batches(case, autoencoder)
    assert losses == pytest.approx(recorded("losses.json")[case], rel=LOSS_SHARE)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("case", made.DRAWN)
def test_a_perturbed_network_draws_its_image(case: str, autoencoder: Path) -> None:
    assert_drawn(made.drawn(made.student(case, autoencoder)), case)


def test_two_revisions_have_their_shas_and_their_order(tmp_path: Path) -> None:
    assert made.order_of_root(tmp_path / "root") == recorded("order.json")


def test_a_short_run_has_its_losses_and_its_averaged_weights(tmp_path: Path) -> None:
    losses, averaged, trained = made.run_of_20_steps(tmp_path / "root")
    assert losses == pytest.approx(recorded("run.json"), rel=LOSS_SHARE)
    assert_drawn(averaged, "run, averaged")
    assert_drawn(trained, "run, trained")
    assert np.abs(averaged.astype(int) - trained).max() > 5 * GREY_LEVELS, "the average is the trained weights"
