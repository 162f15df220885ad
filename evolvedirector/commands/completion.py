"""`evolvedirector completion`: print a script that completes words, config files and options in a shell.

Not shtab: it reads finished parsers, while each word here builds its parser when it is called, and options such as
`--data.init_args.root` exist only once a class is named.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence

from evolvedirector.commands.words import FURTHER_WORDS, LIGHTNING_WORDS

SHELLS = ("bash", "zsh", "fish")
FILE_OPTIONS = ("-c", "--config", "--teacher", "--embedder")
"""Options that take a YAML."""
_RUN_OPTIONS = (
    *("-c", "--config", "--print_config", "--help", "--seed_everything", "--ckpt_path", "--weights_only"),
    *("--model", "--data", "--data.init_args.root", "--data.init_args.batches_per_epoch"),
    *("--data.init_args.global_batch_size", "--model.init_args.guidance_scale", "--model.init_args.sampling_steps"),
)
_OPTIONS = {
    "compare": ("--help",),
    "data": (
        *(
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
            "show",
            "--prompts",
            "--images",
            "--webdataset",
            "--roles",
            "--skill",
        ),
        *("--revision", "--samples-per-shard", "--tsv", "--json", "--left-out", "--quick", "--repair", "--help"),
        *("--dry-run", "--keep", "--runs", "--forget-missing-runs", "--caches", "--thorough"),
    ),
    "embed": (
        *("--embedder", "--model", "--revision", "--image-model", "--image-revision", "--projection-dim"),
        *("--batch-size", "--device", "--dtype", "--replace", "--help"),
    ),
    "assets": ("emoji", "joint-space", "--folder", "--from", "--help", "--replace", "--seed"),
    "report": ("--output", "--data", "--watch", "--port", "--no-browser", "--help"),
    "generate": (
        *("--prompts", "--file", "--seeds", "--size", "--steps", "--guidance", "--batch-size", "--raw", "--dtype"),
        *("--subject", "--edge", "--out", "--help"),
    ),
    "export": ("--raw", "--dtype", "--samples", "--license", "--teacher-license", "--help"),
    "merge": (
        *("--out", "--method", "--weights", "--names", "--base", "--rank", "--scale", "--density", "--seed"),
        *("--layout", "--fused", "--dtype", "--help"),
    ),
    "pairs": (
        *("build", "show", "export", "--builder", "--out", "--pairs", "--rejected", "--cause"),
        *("--samples-per-shard", "--help"),
    ),
    "judge": ("compare", "calibrate", "--gold", "--out", "--items", "--pairs", "--help"),
    "teach": (
        *("--serve", "--draw", "--teacher", "--name", "--host", "--port", "--api_key_env", "--batch_size", "--size"),
        *("--seed", "--out", "--help"),
    ),
    "work": ("--config", "--serve", "--idle-s", "--help"),
    "doctor": ("--help",),
    "completion": (*SHELLS, "--help"),
    "copy-configs": ("--help",),
}
_PROBE_OPTIONS = ("--looks", "--usd", "--within", "--skills", "--seed", "--untrained", "--plan")
"""Beside those of a run."""
_BENCH_OPTIONS = (
    *("--steps", "--peak-tflops", "--json", "--without-loop", "--calls", "--images", "--mode", "--epoch-batches"),
    "--run",
)
"""Likewise."""
_FOLDER_WORDS = ("compare", "report", "data", "embed", "generate", "export", "merge", "work", "copy-configs")
"""Words that take run folders or dataset roots."""

_BASH = """\
# Completion of evolvedirector for bash:
#   evolvedirector completion bash > ~/.local/share/bash-completion/completions/evolvedirector
_evolvedirector() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" choices="" folders=""
    local IFS=$'\\n'
    COMPREPLY=()
    case "$before" in
        {files})
            compopt -o filenames 2>/dev/null
            COMPREPLY=($(compgen -f -X '!*.yaml' -- "$current") $(compgen -f -X '!*.yml' -- "$current") \\
                $(compgen -d -- "$current"))
            return ;;
        --ckpt_path)
            compopt -o filenames 2>/dev/null
            COMPREPLY=($(compgen -W last -- "$current") $(compgen -f -- "$current"))
            return ;;
    esac
    if [ "$COMP_CWORD" -eq 1 ]; then
        choices="{words}"
    else
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    IFS=$' \\t\\n'
    COMPREPLY=($(compgen -W "$choices" -- "$current"))
    IFS=$'\\n'
    if [ -n "$folders" ]; then
        compopt -o filenames 2>/dev/null
        COMPREPLY+=($(compgen -d -- "$current"))
    fi
}}
complete -F _evolvedirector evolvedirector
"""
_ZSH = """\
#compdef evolvedirector
# Completion of evolvedirector for zsh, in a folder of $fpath:
#   evolvedirector completion zsh > ~/.zfunc/_evolvedirector
_evolvedirector() {{
    case "$words[CURRENT-1]" in
        {files}) _files -g '*.(yaml|yml)'; return ;;
        --ckpt_path) compadd -- last; _files; return ;;
    esac
    if (( CURRENT == 2 )); then
        compadd -- {words}
        return
    fi
    case "$words[2]" in
{cases}
    esac
}}
if [ "$funcstack[1]" = _evolvedirector ]; then
    _evolvedirector "$@"
else
    compdef _evolvedirector evolvedirector
fi
"""


def main(args: list[str]) -> int:
    """Print the script for one shell.

    Args:
        args: The words after `completion`.
    """
    parser = argparse.ArgumentParser(
        prog="evolvedirector completion",
        description="Print a script that lets a shell complete words, config files and options.",
        epilog="Where to: bash ~/.local/share/bash-completion/completions/evolvedirector; zsh ~/.zfunc/_evolvedirector "
        "(with ~/.zfunc in fpath, before compinit); fish ~/.config/fish/completions/evolvedirector.fish",
    )
    parser.add_argument("shell", choices=SHELLS)
    print(script(parser.parse_args(args).shell), end="")
    return 0


def script(shell: str) -> str:
    """Return the completion script of a shell.

    Args:
        shell: `bash`, `zsh` or `fish`.
    """
    options = options_by_word()
    if shell == "fish":
        return _fish(options)
    template, case = (_BASH, _bash_case) if shell == "bash" else (_ZSH, _zsh_case)
    cases = "\n".join(case(word, choices) for word, choices in options.items())
    return template.format(files="|".join(FILE_OPTIONS), words=" ".join(options), cases=cases)


def options_by_word() -> dict[str, tuple[str, ...]]:
    """List what can follow each word of the command line; the options of the trainer are read from it."""
    from lightning.pytorch import Trainer

    names = [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]
    run = (*_RUN_OPTIONS, *(f"--trainer.{name}" for name in names))
    own = {**_OPTIONS, "probe": (*_PROBE_OPTIONS, *run), "bench": (*_BENCH_OPTIONS, *run)}
    return {word: own.get(word, run) for word in (*LIGHTNING_WORDS, *FURTHER_WORDS)}


def _bash_case(word: str, choices: Sequence[str]) -> str:
    folders = " folders=1" if word in _FOLDER_WORDS else ""
    return f'            {word}) choices="{" ".join(choices)}"{folders} ;;'


def _zsh_case(word: str, choices: Sequence[str]) -> str:
    folders = "; _files -/" if word in _FOLDER_WORDS else ""
    return f"        {word}) compadd -- {' '.join(choices)}{folders} ;;"


def _fish(options: dict[str, tuple[str, ...]]) -> str:
    lines = [
        "# Completion of evolvedirector for fish:",
        "#   evolvedirector completion fish > ~/.config/fish/completions/evolvedirector.fish",
        "complete -c evolvedirector -f",
        f"complete -c evolvedirector -n __fish_use_subcommand -a '{' '.join(options)}'",
    ]
    for word, choices in options.items():
        seen = f"-n '__fish_seen_subcommand_from {word}'"
        lines.append(f"complete -c evolvedirector {seen} -a '{' '.join(c for c in choices if c not in FILE_OPTIONS)}'")
        if "--config" in choices:
            lines.append(f"complete -c evolvedirector {seen} -s c -l config -r -a '(__fish_complete_suffix .yaml)'")
        if "--teacher" in choices:
            lines.append(f"complete -c evolvedirector {seen} -l teacher -r -a '(__fish_complete_suffix .yaml)'")
        if "--embedder" in choices:
            lines.append(f"complete -c evolvedirector {seen} -l embedder -r -a '(__fish_complete_suffix .yaml)'")
        if word in _FOLDER_WORDS:
            lines.append(f"complete -c evolvedirector {seen} -a '(__fish_complete_directories)'")
    return "\n".join(lines) + "\n"
