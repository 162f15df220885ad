"""Parse a command line without showing or keeping a secret that someone wrote into it."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from evolvedirector.commands.config_sources import sources
from evolvedirector.commands.readable_errors import ConfigurationMistake
from evolvedirector.secrecy.guard import SecretFound, find_secrets, named_variables, refusal, secret_values


class SecretInConfig(ConfigurationMistake):
    """A secret that stands in a config; the message names the place and the variable, never the value."""


def parse_guarded(parser: ArgumentParser, words: list[str]) -> Namespace:
    """Parse a command line; refuse a secret before it is printed, saved or quoted in a message.

    Looked through are the files and flags as they were written, what `--print_config` would print, and the parsed
    config, in which interpolations (`${oc.env:NAME}`) are filled in.

    Args:
        parser: Knows the options.
        words: The command line, its first word included.

    Raises:
        SecretInConfig: A secret stands in it; the message names the place and the variable, never the value.
    """
    secrets = known_secrets(words)
    for source, tree in written(words):
        _refuse(tree, secrets, "The command line" if source == "command line" else source)
    _refuse(words, secrets, "The command line")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            config = parser.parse_args(words)
    except SystemExit:
        _refuse_printed(printed.getvalue(), secrets)
        raise
    finally:
        if not any(value in printed.getvalue() for value in secrets):
            sys.stdout.write(printed.getvalue())
    tree = config.as_dict().get(words[0]) or {}
    _refuse({key: value for key, value in tree.items() if key != "config"}, secrets, "The config")
    return config


def known_secrets(words: list[str]) -> dict[str, str]:
    """Return the secrets of the environment, with those that the `*_env` settings of files and flags name.

    Args:
        words: The command line.
    """
    return secret_values(set().union(*(named_variables(tree) for _, tree in written(words))))


def written(words: list[str]) -> list[tuple[str, Any]]:
    """List (name, tree) of each config file and flag that can be read; the parser explains what cannot.

    Args:
        words: The command line.
    """
    read = []
    with contextlib.suppress(ConfigurationMistake):
        for source in sources(words):
            read.append(source)
    return read


def _refuse(tree: Any, secrets: dict[str, str], source: str) -> None:
    if found := list(dict.fromkeys(find_secrets(tree, secrets))):
        raise SecretInConfig(refusal(found, source)) from None


def _refuse_printed(text: str, secrets: dict[str, str]) -> None:
    held = [name for value, name in secrets.items() if value in text]
    if not held:
        return
    with contextlib.suppress(yaml.YAMLError):
        _refuse(yaml.safe_load(text), secrets, "The config")
    raise SecretInConfig(refusal([SecretFound("the printed config", held[0])], "The config")) from None
