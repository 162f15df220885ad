"""`evolvedirector teach`: serve a configured teacher to others, or draw one image with it."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from evolvedirector.commands.config_mistakes import explain_mistake
from evolvedirector.commands.readable_errors import ConfigurationMistake
from evolvedirector.commands.secret_arguments import written
from evolvedirector.records import ImageRequest, prompt_id_of
from evolvedirector.records.part import verify_parts
from evolvedirector.secrecy.guard import named_variables, refuse_secrets, secret_values
from evolvedirector.teachers.teacher import Teacher

_SHORT = re.compile(r"^--teacher\.(?!init_args\b|class_path\b)")
"""`--teacher.seed` for `--teacher.init_args.seed`."""


def main(args: list[str]) -> int:
    """Serve a teacher or draw one image.

    Args:
        args: The words after `teach`.

    Returns:
        Exit code: 0; 1 when the one image was refused or failed.

    Raises:
        ValueError: The teacher cannot be built or used, or an option is outside of what is allowed.
    """
    parser = _parser()
    options, further = parser.parse_known_args(args)
    # a single dash may begin a negative number, the value of the word before
    strange = next((word for word in further if word.startswith("--") and not word.startswith("--teacher.")), None)
    if strange is not None or (further and not further[0].startswith("--teacher.")):
        parser.error(f"unrecognized argument: {strange or further[0]}")
    if not re.fullmatch(r"[1-9][0-9]{0,3}x[1-9][0-9]{0,3}", options.size):
        raise ValueError(f"--size is {options.size!r}. Allowed is WIDTHxHEIGHT in pixels. Write 512x512, say.")
    teacher = build_teacher(options.teacher, further)
    verify_parts(teacher)
    return _serve(teacher, options) if options.serve else _draw(teacher, options)


def build_teacher(named: str, further: list[str]) -> Teacher:
    """Build a teacher from a YAML file or a class path, with flags that change single options.

    Args:
        named: Path of a YAML with `class_path` and `init_args` (or the same below `teacher:`), or a class path such
            as `evolvedirector.worlds.shapes.MiniatureTeacher`.
        further: Flags such as `--teacher.init_args.seed 1`.

    Raises:
        ConfigurationMistake: With what does not fit, in one paragraph.
        ValueError: A setting holds a secret of the environment.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    is_file = Path(named).suffix in (".yaml", ".yml", ".json")
    node = _read_teacher(Path(named)) if is_file else {"class_path": named}
    settings = [(named, node), *written(["teach", *further])]
    secrets = secret_values(set().union(*(named_variables(tree) for _, tree in settings)))
    for source, tree in settings:
        refuse_secrets(tree, source, secrets)
    words = ["--teacher", json.dumps(node), *(_SHORT.sub("--teacher.init_args.", word) for word in further)]
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--teacher", type=Teacher, required=True)
    try:
        config = parser.parse_args(words)
        # the second name is the older one
        build = getattr(parser, "instantiate", None) or parser.instantiate_classes
        return build(config).teacher
    except ArgumentError as error:
        where = f"{named}: " if is_file else ""
        raise ConfigurationMistake(where + explain_mistake(["teach", *words], {}, {"teacher"}, error)) from error


def _read_teacher(path: Path) -> Any:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(
            f"The teacher file '{path}' cannot be read: {' '.join(str(error).split())}. Allowed is a YAML with "
            "class_path and init_args. Correct its path or content."
        ) from error
    content = content.get("teacher", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not isinstance(content.get("class_path"), str):
        raise ValueError(
            f"The teacher file '{path}' names no class_path. Allowed is a YAML with class_path and init_args. Write "
            "`class_path: evolvedirector.worlds.shapes.MiniatureTeacher`, say."
        )
    return content


def _serve(teacher: Teacher, options: argparse.Namespace) -> int:
    from evolvedirector.serving.images_protocol import CallLimits
    from evolvedirector.serving.teacher_server import LOOPBACK, TeacherServer

    width, _, height = options.size.partition("x")
    if width != height:
        raise ValueError(f"--size is {options.size}. Allowed with --serve is a square. Write {width}x{width}, say.")
    server = TeacherServer(
        teacher,
        options.name or type(teacher).__name__,
        **{"host": options.host, "port": options.port, "api_key_env": options.api_key_env},
        **{"batch_size": options.batch_size, "limits": CallLimits(default_side_px=int(width))},
    )
    if options.host not in LOOPBACK:
        print(_exposure(options), file=sys.stderr, flush=True)
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        if ended.is_set():
            raise KeyboardInterrupt  # the second time: at once
        ended.set()

    earlier = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.start()
        print(f"Serving the model '{server.model}' at {server.address} - Ctrl-C ends it.", flush=True)
        ended.wait()
        counts = server.stop()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    print("Ended: " + ", ".join(f"{name} {count}" for name, count in counts.items()), flush=True)
    return 0


def _exposure(options: argparse.Namespace) -> str:
    if options.api_key_env is None:
        return (
            f"WARNING: whoever reaches {options.host} on this machine can draw with this teacher, at your cost: no key "
            "is asked for. Write --api_key_env NAME of a variable that holds one, or leave --host out."
        )
    return "The key crosses the network in plain text: let a proxy with TLS stand in front where others listen."


def _draw(teacher: Teacher, options: argparse.Namespace) -> int:
    width_px, _, height_px = options.size.partition("x")
    seed = options.seed
    request = ImageRequest(prompt_id_of(options.draw), options.draw, seed, int(width_px), int(height_px))
    try:
        reply = next(iter(teacher.generate([request])), None)
    finally:
        teacher.close()
    if reply is None or reply.image is None:
        status, reason = (reply.status, reply.reason) if reply is not None else ("failure", "no reply")
        print(f"No image: {status}: {reason}", file=sys.stderr, flush=True)
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(reply.image)
    cost = f" for {reply.cost_usd:.4f} US dollars" if reply.cost_usd else ""
    print(f"Drawn{cost}: {options.out}", flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evolvedirector teach",
        allow_abbrev=False,
        description="Serve a teacher under the OpenAI Images protocol, or draw one image with it.",
        epilog="Single options of the teacher: --teacher.init_args.seed 1, say.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--serve", action="store_true", help="answer calls until Ctrl-C")
    what.add_argument("--draw", metavar="PROMPT", help="draw one image, to try a key or a model")
    parser.add_argument(
        "--teacher", required=True, metavar="FILE|CLASS", help="YAML with class_path and init_args, or a class path"
    )
    parser.add_argument("--name", help="name of the model for clients (default: the class)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any that is free (default: 8000)")
    parser.add_argument("--api_key_env", metavar="NAME", help="environment variable with the key clients must send")
    parser.add_argument("--batch_size", type=int, default=8, help="images that are drawn together (default: 8)")
    parser.add_argument("--size", default="512x512", help="pixels; with --serve where a call names none")
    parser.add_argument("--seed", type=int, default=0, help="of --draw")
    parser.add_argument("--out", type=Path, default=Path("image.png"), metavar="FILE", help="of --draw")
    return parser
