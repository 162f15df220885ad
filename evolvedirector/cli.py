"""The front door: the first word chooses a module of `evolvedirector.commands`, which is imported only then."""

from __future__ import annotations

import importlib
import sys

from evolvedirector import __version__
from evolvedirector.commands.words import FURTHER_WORDS, LIGHTNING_WORDS

HELP = f"""usage: evolvedirector WORD [options]        (each WORD has its own --help)

  fit       train a student:             evolvedirector fit -c configs/quickstart.yaml
            go on after a break:         the same command with --ckpt_path last
  validate  measure a student without training it (test and predict likewise)
  check     say what a run would do and cost, without starting it: the options of fit
  compare   print the figures of runs side by side: compare runs/one runs/other
  report    write a run's page, compare runs, or watch one: report runs/quickstart, report --watch runs/quickstart
  data      import prompts or captioned images, show a dataset: data import, data show
  judge     measure judges on images with known answers: judge compare, judge calibrate
  teach     serve a teacher under the OpenAI Images protocol, or draw one image: teach --serve, teach --draw PROMPT
  doctor    say what is installed, what this machine can do and what each recipe still needs
  assets    fetch optional artwork into the user cache folder: assets emoji
  completion  print what lets a shell complete words, files and options: completion bash, zsh or fish

Options mirror the YAML: --trainer.max_steps 100, --model.init_args.seed 1; of several -c files the last wins.
EVOLVEDIRECTOR_DEBUG=1 shows a traceback where one sentence is printed otherwise. Version {__version__}."""


def main(args: list[str] | None = None) -> int | None:
    """Run one command line and return its exit code (None and 0: success).

    Args:
        args: Words after the program's name. None takes them from `sys.argv`.
    """
    words = sys.argv[1:] if args is None else list(args)
    if not words or words[0] in ("-h", "--help", "--version"):
        print(__version__ if words[:1] == ["--version"] else HELP)
        return 0
    from evolvedirector.commands.readable_errors import run_readably, unknown_word

    if words[0] in LIGHTNING_WORDS:
        return run_readably(lambda: importlib.import_module("evolvedirector.commands.lightning_cli").main(words))
    if words[0] in FURTHER_WORDS:
        return run_readably(lambda: importlib.import_module(f"evolvedirector.commands.{words[0]}").main(words[1:]))
    return unknown_word(words[0], [*LIGHTNING_WORDS, *FURTHER_WORDS])
