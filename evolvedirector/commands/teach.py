"""`evolvedirector teach`: serve a configured teacher to others, or draw one image with it."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import signal
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from evolvedirector.commands.config_mistakes import explain_mistake
from evolvedirector.commands.readable_errors import ConfigurationMistake
from evolvedirector.commands.secret_arguments import written
from evolvedirector.errors import UserError
from evolvedirector.records import MAX_PROMPT_CHARACTERS, ImageRequest, prompt_id_of
from evolvedirector.records.part import verify_parts
from evolvedirector.secrecy.guard import named_variables, refuse_secrets, secret_values
from evolvedirector.store.images import sniff_format
from evolvedirector.store.paths import user_path
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
        UserError: The teacher cannot be built or used, or an option is outside of what is allowed.
    """
    parser = _parser()
    options, further = parser.parse_known_args(args)
    # a single dash may begin a negative number, the value of the word before
    strange = next((word for word in further if word.startswith("--") and not word.startswith("--teacher.")), None)
    if strange is not None or (further and not further[0].startswith("--teacher.")):
        parser.error(f"unrecognized argument: {strange or further[0]}")
    if not re.fullmatch(r"[1-9][0-9]{0,3}x[1-9][0-9]{0,3}", options.size):
        raise UserError(f"--size is {options.size!r}. Allowed is WIDTHxHEIGHT in pixels. Write 512x512, say.")
    if options.serve:
        unused = {"--out": options.out, "--seed": options.seed, "--overwrite": options.overwrite or None}
        if given := [flag for flag, value in unused.items() if value is not None]:
            parser.error(f"{given[0]} belongs to --draw")
        teacher = build_teacher(options.teacher, further)
        verify_parts(teacher)
        return _serve(teacher, options)
    _check_prompt(options.draw)
    out = Path("image.png") if options.out is None else user_path(options.out)
    check_picture_path(out, options.overwrite)
    teacher = build_teacher(options.teacher, further)
    verify_parts(teacher)
    return _draw(teacher, options, out)


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

    is_file = Path(named).suffix.lower() in (".yaml", ".yml", ".json")
    node = _read_teacher(user_path(named)) if is_file else {"class_path": named}
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
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(
            f"The teacher file '{path}' cannot be read: {' '.join(str(error).split())}. Allowed is a YAML with "
            "class_path and init_args. Correct its path or content."
        ) from error
    content = content.get("teacher", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not isinstance(content.get("class_path"), str):
        raise UserError(
            f"The teacher file '{path}' names no class_path. Allowed is a YAML with class_path and init_args. Write "
            "`class_path: evolvedirector.worlds.shapes.MiniatureTeacher`, say."
        )
    return content


def _serve(teacher: Teacher, options: argparse.Namespace) -> int:
    from evolvedirector.serving.images_protocol import CallLimits
    from evolvedirector.serving.teacher_server import LOOPBACK, TeacherServer

    width, _, height = options.size.partition("x")
    if width != height:
        raise UserError(f"--size is {options.size}. Allowed with --serve is a square. Write {width}x{width}, say.")
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


def _check_prompt(prompt: str) -> None:
    if not prompt.strip() or len(prompt) > MAX_PROMPT_CHARACTERS:
        raise UserError(
            f"--draw has {len(prompt.strip())} characters. Allowed are 1 to {MAX_PROMPT_CHARACTERS}. Write what the "
            "image should show."
        )


def check_picture_path(path: Path, overwrite: bool) -> None:
    """See that a picture can be written, before it is paid for; the folder is made where it is missing.

    Args:
        path: Of the picture.
        overwrite: A file that is there may be replaced.

    Raises:
        UserError: It cannot, or something is there already.
    """
    try:
        refusal = _refusal(path, overwrite)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        refusal = (
            f"which cannot be written ({reason}). Allowed is a file in a folder that takes one. Write another path."
        )
    if refusal:
        raise UserError(f"--out is '{path}', {refusal}")


def _refusal(path: Path, overwrite: bool) -> str:
    """Say why a picture cannot be written to a path; empty where it can."""
    if path.is_dir():
        return f"a folder. Allowed is a file. Write {path / 'image.png'}, say."
    if path.is_symlink() and not path.exists():
        return "a link to nothing. Allowed is a file. Write where the link should lead."
    if path.exists() and not path.is_file():
        return "a device. Allowed is a file. Write image.png, say."
    if path.exists() and not overwrite:
        return (
            "where a file is already. Allowed is a new name, so that no picture is lost. Write another name, or "
            "--overwrite to replace it."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:40]}."):
        return ""


def write_picture(path: Path, image: bytes, overwrite: bool) -> Path:
    """Write a picture that is paid for, whole or not at all; nothing that came in between is overwritten.

    Args:
        path: As it was checked.
        image: The encoded picture.
        overwrite: A file that is there may be replaced.

    Returns:
        Where it is: beside the path, or in the folder for temporary files, where it could not be written there.

    Raises:
        OSError: It could be written nowhere.
    """
    for folder in (path.parent, Path(tempfile.gettempdir())):
        try:
            file, name = tempfile.mkstemp(dir=folder, prefix=f"{path.stem[:40]}-", suffix=path.suffix or ".png")
            with os.fdopen(file, "wb") as sink:
                sink.write(image)
            written = Path(name)
            written.chmod(0o666 & ~_umask())
        except OSError:
            if folder != path.parent:
                raise
            continue
        if folder == path.parent and (overwrite or not path.exists()):
            written.replace(path)
            return path
        return written
    raise AssertionError  # the second folder returns or raises


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _draw(teacher: Teacher, options: argparse.Namespace, out: Path) -> int:
    width_px, _, height_px = options.size.partition("x")
    request = ImageRequest(prompt_id_of(options.draw), options.draw, options.seed or 0, int(width_px), int(height_px))
    try:
        reply = next(iter(teacher.generate([request])), None)
    finally:
        teacher.close()
    if reply is None or reply.image is None:
        status, reason = (reply.status, reply.reason) if reply is not None else ("failure", "no reply")
        print(f"No image: {status}: {reason}", file=sys.stderr, flush=True)
        return 1
    written = write_picture(out.resolve() if out.is_symlink() else out, reply.image, options.overwrite)
    cost = f" for {reply.cost_usd:.4f} US dollars" if reply.cost_usd else ""
    print(f"Drawn{cost}: {written}", flush=True)
    if written not in (out, out.resolve()):
        print(f"It could not be written to {out}.", file=sys.stderr, flush=True)
        return 1
    kind = sniff_format(reply.image)
    if out.suffix.lower() not in ("", f".{kind}", *((".jpeg",) if kind == "jpg" else ())):
        print(f"The picture is {kind.upper()}, whatever its name says.", file=sys.stderr, flush=True)
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
    parser.add_argument("--seed", type=int, help="of --draw (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="of --draw, a new file (default: image.png)")
    parser.add_argument("--overwrite", action="store_true", help="of --draw: replace the file that is there")
    return parser
