"""The completion scripts know every word and option, and bash runs the one for bash."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from evolvedirector.cli import FURTHER_WORDS, LIGHTNING_WORDS, main
from evolvedirector.commands.completion import SHELLS, options_by_word, script

WORDS = (*LIGHTNING_WORDS, *FURTHER_WORDS)


def completed(folder: Path, *words: str) -> list[str]:
    """Return what bash offers for the last of some words."""
    (folder / "script").write_text(script("bash"), encoding="utf-8")
    ask = (
        'source ./script; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _evolvedirector; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", ask, "bash", "evolvedirector", *words],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    for name in ("configs/quick start.yaml", "configs/other.yml", "configs/notes.txt", "runs/one/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["do"], ["doctor"]),
        (["fit", "-c", "conf"], ["configs"]),
        (["fit", "-c", "configs/"], ["configs/quick start.yaml", "configs/other.yml"]),
        (["check", "--trainer.max_s"], ["--trainer.max_steps"]),
        (["fit", "--ckpt_path", "la"], ["last"]),
        (["compare", "runs/"], ["runs/one"]),
        (["assets", "e"], ["emoji"]),
        (["fit", "--nothing.like.it"], [""]),
    ],
)
def test_bash_completes(here: Path, words: list[str], offered: list[str]) -> None:
    assert completed(here, *words) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_every_script_knows_all_words_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert printed == script(shell)
    assert all(word in printed.split("fit validate", 1)[1] for word in WORDS[2:])
    assert "--trainer.default_root_dir" in printed and "--ckpt_path" in printed


def test_the_options_of_every_word_exist(capsys: pytest.CaptureFixture[str]) -> None:
    options = options_by_word()
    assert tuple(options) == WORDS
    for word in FURTHER_WORDS:
        if word == "check":  # the words of fit
            continue
        helps = []
        for below in (
            [],
            *(
                [below]
                for below in {
                    "data": [
                        "import",
                        "add",
                        "retire",
                        "export",
                        "keys",
                        "verify",
                        "diff",
                        "compact",
                        "collect",
                        "push",
                    ],
                    "assets": ["emoji", "joint-space"],
                    "judge": ["compare"],
                    "pairs": ["build", "show", "export"],
                }.get(word, [])
            ),
        ):
            with pytest.raises(SystemExit):
                main([word, *below, "--help"])
            helps.append(capsys.readouterr().out)
        of_fit = options["fit"] if word in ("probe", "bench") else ()
        missing = [c for c in options[word] if c not in of_fit and not any(c in text for text in helps)]
        assert missing == [], word


@pytest.mark.slow
def test_the_options_of_a_run_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.parsed_config import ParsedConfig

    monkeypatch.chdir(Path(__file__).parents[2])
    values = {"--data.init_args.root": "runs/x", "--trainer.max_steps": "3", "--seed_everything": "1"}
    values |= {"--data.init_args.batches_per_epoch": "2", "--data.init_args.global_batch_size": "2"}
    values |= {"--model.init_args.guidance_scale": "1.0", "--model.init_args.sampling_steps": "2"}
    assert set(values) <= set(options_by_word()["fit"])
    flags = [f"{name}={value}" for name, value in values.items()]
    assert ParsedConfig(["fit", "-c", "configs/quickstart.yaml", *flags]).config.subcommand == "fit"


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "csh"])
    assert "invalid choice: 'csh'" in capsys.readouterr().err
