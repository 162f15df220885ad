"""What `--print_config` prints is a config that runs as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

import evolvedirector.configs
from evolvedirector.cli import main
from evolvedirector.commands.lightning_cli import starter
from tests.parsed_config import ParsedConfig
from tests.test_configs import RECIPES, command_of

CONFIGS = evolvedirector.configs.path()
ROOT = CONFIGS.parent
SHRUNK = [
    "--trainer.max_steps=2", "--trainer.check_val_every_n_epoch=9", "--data.init_args.batches_per_epoch=2",
    "--data.init_args.global_batch_size=4", "--data.init_args.seeds.init_args.count=8",
    "--data.init_args.held_out.init_args.per_skill=1", "--model.init_args.sampling_steps=1",
    "--data.init_args.seeds.init_args.held_out.init_args.per_skill=1", "--model.init_args.lr_scheduler=null",
]  # fmt: skip


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*words, "--print_config"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def parsed(*words: str) -> object:
    config = ParsedConfig(list(words)).config.fit.as_dict()
    config.pop("config", None)  # the names of the files that were read
    return config


@pytest.mark.slow
def test_alone_it_prints_the_quickstart_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.yaml").write_text(printed(capsys, "fit"), encoding="utf-8")
    assert parsed("fit", "-c", str(tmp_path / "my.yaml")) == parsed("fit", "-c", str(CONFIGS / "quickstart.yaml"))


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--print_config", "-c", "x.yaml"],
        ["fit", "--print_config", "--config=x.yaml"],
        ["fit", "--print_config", "--model", "a.B"],
        ["validate", "--print_config"],
        ["fit", "--trainer.max_steps=3"],
    ],
)
def test_whoever_names_a_config_or_a_part_gets_no_other(words: list[str]) -> None:
    assert starter(words) == words


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_what_is_printed_means_the_same_as_what_was_read(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    words = command_of(recipe)
    (tmp_path / "my.yaml").write_text(printed(capsys, *words), encoding="utf-8")
    assert parsed("fit", "-c", str(tmp_path / "my.yaml")) == parsed(*words)


@pytest.mark.slow
def test_what_is_printed_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "1")
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(printed(capsys, "fit"), encoding="utf-8")
    assert main(["fit", "-c", "my.yaml", *SHRUNK]) == 0
    assert "Finished at step 2 after" in capsys.readouterr().out
