"""A key in a config is refused before anything of it is written, printed or quoted."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest

from evolvedirector.cli import main
from evolvedirector.secrecy.guard import redacted, refuse_secrets, secret_values

CANARY = "sk-canary-7f3a/b+c91"
RUN = """
trainer:
  default_root_dir: run
  max_steps: 1
model: {class_path: lightning.pytorch.demos.boring_classes.BoringModel}
data: {class_path: lightning.pytorch.demos.boring_classes.BoringDataModule}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a runnable `run.yaml`, made the current one, and a key in the environment."""
    (tmp_path / "run.yaml").write_text(RUN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANARY_API_KEY", CANARY)
    return tmp_path


def logger(folder: str, name: str) -> str:
    return f"""
trainer:
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
    init_args: {{save_dir: {folder!r}, name: {name!r}}}
"""


@pytest.mark.parametrize("word", ["fit", "check", "validate"])
@pytest.mark.parametrize(
    ("yaml", "flags", "place"),
    [
        (logger("logs", CANARY), [], "`trainer.logger.init_args.name`"),
        (logger(f"https://host/?key={CANARY}", "logs"), [], "`trainer.logger.init_args.save_dir`"),
        (logger("logs", "${oc.env:CANARY_API_KEY}"), [], "`trainer.logger.init_args.name`"),
        ("", [f"--trainer.default_root_dir={CANARY}"], "`trainer.default_root_dir`"),
        ("", ["--trainer.default_root_dir", f"x{CANARY}x"], "`trainer.default_root_dir`"),
        (f"trainer: {{{CANARY!r}: 1}}", [], "`a key of trainer`"),
        ("", [f"--{CANARY}=1"], "`a key of the top level`"),
        ("", [f"--trainer.max_steps={CANARY}"], "`trainer.max_steps`"),
    ],
)
def test_a_key_is_refused_by_place_and_name(
    word: str, yaml: str, flags: list[str], place: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "more.yaml").write_text(yaml, encoding="utf-8")
    assert main([word, "-c", "run.yaml", "-c", "more.yaml", *flags]) == 2
    captured = capsys.readouterr()
    said = " ".join(captured.err.split())
    assert place in said and "CANARY_API_KEY" in said
    assert CANARY not in captured.out + captured.err
    assert sorted(path.name for path in here.iterdir()) == ["more.yaml", "run.yaml"], "something was written"


@pytest.mark.parametrize("value", [CANARY, "${oc.env:CANARY_API_KEY}"])
def test_print_config_prints_no_key(value: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "more.yaml").write_text(logger("logs", value), encoding="utf-8")
    try:
        code = main(["fit", "--print_config", "-c", "run.yaml", "-c", "more.yaml"])
    except SystemExit as ended:  # an interpolation that is printed as it was written shows nothing
        assert ended.code == 0 and value != CANARY
    else:
        assert code == 2
    captured = capsys.readouterr()
    assert CANARY not in captured.out + captured.err


@pytest.mark.parametrize(
    "broken",
    [
        f"trainer: *{CANARY.replace('/', '').replace('+', '')}",
        f"trainer: {{max_steps: '{CANARY}'",
        f"trainer: !{CANARY} 1",
    ],
)
def test_a_file_that_cannot_be_read_is_not_quoted(
    broken: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_TOKEN", CANARY.replace("/", "").replace("+", ""))
    (here / "more.yaml").write_text(broken, encoding="utf-8")
    assert main(["fit", "-c", "run.yaml", "-c", "more.yaml"]) == 2
    captured = capsys.readouterr()
    assert "more.yaml" in captured.err
    assert "canary" not in captured.out + captured.err


def test_a_variable_that_the_config_names_is_secret_whatever_it_is_called(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOUSE_WORD", "open-sesame-open")
    (here / "more.yaml").write_text(logger("logs", "open-sesame-open"), encoding="utf-8")
    (here / "named.yaml").write_text("trainer: {logger: {init_args: {key_env: HOUSE_WORD}}}", encoding="utf-8")
    assert main(["fit", "-c", "run.yaml", "-c", "more.yaml", "-c", "named.yaml"]) == 2
    assert "HOUSE_WORD" in capsys.readouterr().err


def test_a_traceback_shows_no_key_of_a_refused_config(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLVEDIRECTOR_DEBUG", "1")
    with pytest.raises(ValueError, match="holds a secret") as refused:
        main(["fit", "-c", "run.yaml", f"--trainer.default_root_dir={CANARY}"])
    error: BaseException | None = refused.value
    while error is not None:
        assert CANARY not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize("value", ["sk-" + "a1" * 12, "Bearer abcdefgh12345678", "https://me:word@host/v1"])
def test_what_has_the_shape_of_a_key_is_refused_though_no_variable_holds_it(
    value: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "more.yaml").write_text(logger("logs", value), encoding="utf-8")
    assert main(["fit", "-c", "run.yaml", "-c", "more.yaml"]) == 2
    captured = capsys.readouterr()
    assert "`trainer.logger.init_args.name` (it looks like a key)" in " ".join(captured.err.split())
    assert value not in captured.out + captured.err


def test_the_place_of_a_key_file_is_no_secret(tmp_path: Path) -> None:
    environment = {"SSL_KEY_FILE": str(tmp_path), "OTHER_KEY_FILE": str(tmp_path / "missing")}
    assert secret_values(environment=environment) == {str(tmp_path / "missing"): "OTHER_KEY_FILE"} | {
        spelt: "OTHER_KEY_FILE" for spelt in (quote(str(tmp_path / "missing"), safe=""),)
    }


def test_what_a_config_named_is_redacted_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIN_VAR", "open-sesame-plain")
    refuse_secrets({"judge": {"endpoint": {"api_key_env": "PLAIN_VAR"}}})
    assert redacted("sent open-sesame-plain twice") == "sent (value of PLAIN_VAR) twice"
