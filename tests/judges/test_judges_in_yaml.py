"""Every judge made of others is built from YAML as the docs write it, and printed back the same."""

import pytest
import yaml
from jsonargparse import ArgumentParser

from evolvedirector import judges
from evolvedirector.judges import Judge
from evolvedirector.judges.judge import Judge as Seam

SERVED = (
    '{class_path: evolvedirector.judges.OpenAIVisionJudge, init_args: {endpoint: {base_url: "http://127.0.0.1:9/v1"}, '
    "model: some-model, cost_usd_per_look: 0.001}}"
)
CONFIGS = {
    "FaithfulnessJudge": f"{{answerer: {SERVED}, judge: {SERVED}, expected_error: 0.1}}",
    "PanelJudge": f"{{judges: {{a: {{class_path: tests.toys.ToyJudge}}, b: {SERVED}}}, weights: {{a: 1.0, b: 2.0}}}}",
    "CalibratedJudge": f"{{judge: {SERVED}, temperature: 2.0}}",
    "OCRGate": f"{{judge: {SERVED}, reader: {{class_path: evolvedirector.judges.RapidOCRReader}}}}",
}
PRICES_USD = {"FaithfulnessJudge": 0.025, "PanelJudge": 0.001, "CalibratedJudge": 0.001, "OCRGate": 0.001}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_built_and_printed_back(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--judge", type=Judge)
    content = {"class_path": f"evolvedirector.judges.{name}", "init_args": yaml.safe_load(CONFIGS[name])}
    config = parser.parse_object({"judge": content})
    judge = parser.instantiate_classes(config).judge
    assert type(judge) is getattr(judges, name) and isinstance(judge, Seam)
    assert judge.price_usd() == pytest.approx(PRICES_USD[name])
    again = parser.instantiate_classes(parser.parse_string(parser.dump(config))).judge
    assert again.fingerprint == judge.fingerprint
