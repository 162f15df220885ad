"""The front door: the first word chooses a module of `evolvedirector.commands`, which is imported only then."""

from __future__ import annotations

import importlib
import io
import sys

from evolvedirector import __version__
from evolvedirector.commands.words import FURTHER_WORDS, HINTS, LIGHTNING_WORDS

HELP = f"""usage: evolvedirector WORD [options]        (each WORD has its own --help)

  fit       train a student:             evolvedirector fit -c configs/quickstart.yaml
            go on after a break:         the same command with --ckpt_path last
  validate  measure a student without training it (test and predict likewise)
  check     say what a run would do and cost, without starting it: the options of fit
  bench     measure speed and memory of a run on this machine: bench -c configs/quickstart.yaml --steps 10
  probe     look at what a student cannot draw, without teachers and training: probe -c configs/quickstart.yaml
  generate  draw prompts with a trained student: generate runs/quickstart --prompts "a red circle" --seeds 0-3
  export    write a trained student as a diffusers folder with a model card: export runs/quickstart my-model
  merge     make one LoRA of several: merge count.safetensors colour.safetensors -o both.safetensors
  compare   print the figures of runs side by side: compare runs/one runs/other
  report    write a run's page, compare runs, or watch one: report runs/quickstart, report --watch runs/quickstart
  data      bring prompts or captioned images in, edit and list a dataset: data import, add, export, keys, show, ...
  embed     embed a dataset's prompts and images for priors: embed ROOT --model openai/clip-vit-large-patch14
  pairs     build subject pairs in stages, look at them, export them: pairs build ROOT --builder FILE, show, export
  judge     measure judges on images with known answers: judge compare, judge calibrate
  teach     serve a teacher under the OpenAI Images protocol, or draw one image: teach --serve, teach --draw PROMPT
  work      serve judge or teachers of a run on another machine, through a shared folder: work runs/big/queue
  doctor    say what is installed, what this machine can do and what each recipe still needs
  assets    fetch optional artwork into the user cache folder: assets emoji
  copy-configs  copy the recipes that come with the package, to read and to change: copy-configs configs
  completion  print what lets a shell complete words, files and options: completion bash, zsh or fish

`-c configs/quickstart.yaml` and `-c quickstart` are the packaged recipe where no such file is here.
Options mirror the YAML: --trainer.max_steps 100, --model.init_args.seed 1; of several -c files the last wins.
EVOLVEDIRECTOR_DEBUG=1 shows a traceback where one sentence is printed otherwise. Version {__version__}."""


def main(args: list[str] | None = None) -> int | None:
    """Run one command line and return its exit code (None and 0: success).

    Args:
        args: Words after the program's name. None takes them from `sys.argv`.
    """
    words = sys.argv[1:] if args is None else list(args)
    for stream in (sys.stdout, sys.stderr):  # a name may hold what the terminal's encoding cannot write
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not words or words[0] in ("-h", "--help", "--version"):
        print(__version__ if words[:1] == ["--version"] else HELP)
        return 0
    from evolvedirector.commands.readable_errors import run_readably, unknown_word

    if words[0] in LIGHTNING_WORDS:
        return run_readably(lambda: importlib.import_module("evolvedirector.commands.lightning_cli").main(words))
    if words[0] in FURTHER_WORDS:
        module = f"evolvedirector.commands.{words[0].replace('-', '_')}"
        return run_readably(lambda: importlib.import_module(module).main(words[1:]))
    return unknown_word(words[0], [*LIGHTNING_WORDS, *FURTHER_WORDS], HINTS)
