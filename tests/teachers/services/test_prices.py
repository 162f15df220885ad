"""Prices are found, may be replaced by a list of one's own, and are never guessed."""

import pytest
import yaml

from evolvedirector.teachers.services.prices import PRICES_VARIABLE, SHIPPED, listed_price_usd, price_list


@pytest.fixture(autouse=True)
def no_own_list(monkeypatch):
    monkeypatch.delenv(PRICES_VARIABLE, raising=False)


def test_listed_models_have_a_price_with_source_and_date():
    assert listed_price_usd("bfl", "flux-pro-1.1") == 0.04
    assert listed_price_usd("fal", "fal-ai/flux/schnell") == 0.003
    for name, entry in yaml.safe_load(SHIPPED.read_text()).items():
        assert name.count("/") >= 1 and entry["source"] and str(entry["date"]) >= "2026"
    assert all(price > 0 for price in price_list().values())


def test_an_unknown_model_or_quality_has_no_price():
    assert listed_price_usd("bfl", "flux-9") is None
    assert listed_price_usd("nobody", "flux-pro-1.1") is None
    assert listed_price_usd("openai", "gpt-image-1.5", "superb") is None
    assert listed_price_usd("fal", "fal-ai") is None, "a part of a name is no model"


def test_a_quality_left_open_costs_the_dearest():
    assert listed_price_usd("openai", "gpt-image-1.5", "low") == 0.009
    dearest = listed_price_usd("openai", "gpt-image-1.5", "high")
    assert listed_price_usd("openai", "gpt-image-1.5") == listed_price_usd("openai", "gpt-image-1.5", "auto") == dearest


def test_a_list_of_ones_own_comes_first(tmp_path, monkeypatch):
    own = tmp_path / "prices.yaml"
    own.write_text("bfl/flux-pro-1.1: 0.05\nus/tiny: {usd_per_image: 0, source: contract}\n")
    monkeypatch.setenv(PRICES_VARIABLE, str(own))
    assert listed_price_usd("bfl", "flux-pro-1.1") == 0.05
    assert listed_price_usd("us", "tiny") == 0.0
    assert listed_price_usd("bfl", "flux-pro-1.1-ultra") == 0.06


@pytest.mark.parametrize(
    "text", ["a: -1", "a: .nan", "a: .inf", "a: cheap", "a: true", "- 1", "a: {usd: 1}", "{", "a: ["]
)
def test_a_list_that_cannot_be_used_is_told(tmp_path, monkeypatch, text):
    (tmp_path / "own.yaml").write_text(text)
    monkeypatch.setenv(PRICES_VARIABLE, str(tmp_path / "own.yaml"))
    with pytest.raises(ValueError, match=r"own\.yaml' cannot be used: .*unset EVOLVEDIRECTOR_PRICES"):
        listed_price_usd("bfl", "flux-pro-1.1")


def test_a_list_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv(PRICES_VARIABLE, str(tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match="No such file"):
        listed_price_usd("bfl", "flux-pro-1.1")
