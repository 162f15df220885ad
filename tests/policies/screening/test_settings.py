"""The groups of settings as a user writes them: in YAML, on the command line, and printed back."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import evolvedirector.configs
from evolvedirector.cli import main
from evolvedirector.policies import Mastery, Pace, Screening, ScreeningPolicy, Weighting
from tests.parsed_config import ParsedConfig

QUICKSTART = str(evolvedirector.configs.path() / "quickstart.yaml")
SETTINGS = "{pace: {early_share: 0.5}, mastery: {replay_share: 0}, without: [deletion, mutation], skills: [two]}"


def written(folder: Path, settings: str) -> list[str]:
    """Return a command line whose last file adds one evolution callback with these settings of its policy."""
    path = folder / "policy.yaml"
    policy = f"{{class_path: evolvedirector.policies.ScreeningPolicy, init_args: {settings}}}"
    parts = "teachers: {}, judge: {class_path: tests.toys.ToyJudge}, writer: {class_path: tests.toys.ToyWriter}"
    callback = f"{{class_path: evolvedirector.callbacks.EvolutionCallback, init_args: {{{parts}, policy: {policy}}}}}"
    path.write_text(f"trainer: {{callbacks: [{callback}]}}\n", encoding="utf-8")
    return ["fit", "-c", QUICKSTART, "-c", str(path)]


def test_groups_are_read_from_yaml_overridden_by_flags_and_read_again_as_they_are_saved(tmp_path: Path) -> None:
    flag = "--trainer.callbacks.init_args.policy.init_args.pace.buying_share=0.3"
    cli = ParsedConfig([*written(tmp_path, SETTINGS), flag])
    saved = cli.parser.dump(cli.config, skip_none=False)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(yaml.safe_load(saved)["fit"]), encoding="utf-8")
    for parsed in (cli, ParsedConfig(["fit", "-c", str(tmp_path / "again.yaml")])):
        settings = parsed.config.fit.trainer.callbacks[0].init_args.policy.init_args
        policy = ScreeningPolicy(
            settings.skills,
            Pace(**settings.pace.as_dict()),
            Screening(**settings.screening.as_dict()),
            Weighting(**settings.weighting.as_dict()),
            Mastery(**settings.mastery.as_dict()),
            settings.without,
        )
        assert policy.pace == Pace(early_share=0.5, buying_share=0.3)
        assert policy.mastery == Mastery(replay_share=0.0)
        assert (policy.screening, policy.weighting) == (Screening(), Weighting())
        assert (policy.without, policy.skills) == (("deletion", "mutation"), ["two"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("{pace: {early_shar: 0.5}}", "pace.early_shar` is not an option of Pace. Did you mean `early_share`?"),
        ("{pace: {early_share: much}}", "pace.early_share` is 'much'. It takes float | null."),
        ("{without: [deletio]}", "Expected one of 'discrimination', 'expansion', 'deletion', 'mutation'"),
    ],
)
def test_a_mistake_inside_a_group_names_its_place(
    settings: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(written(tmp_path, settings)) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
