"""A folder on a shared disk through which a run hands batches of requests to workers on other machines.

```
driver.json                    the run that lays batches here, and its beat
workers/NAME.json              a worker, what it serves, and its beat
open/PLACE.BATCH.json          a batch that nobody has taken
taken/NAME/PLACE.BATCH.json    one that a worker has taken: the rename is what takes it, and only one can win
replies/BATCH/0007.json        its replies, each there whole or not at all
replies/BATCH/end.json         nothing more comes, and why not where it failed
```

Only renames inside of the folder are relied on, which NFS and Lustre do at once for everybody; no lock, no time of
another machine's clock. A beat is a number that changes: whoever watches measures with its own clock how long it stood.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evolvedirector.errors import RunError

BEAT_S = 2.0
MAX_FILE_BYTES = 512 * 2**20
DRIVER, WORKERS, OPEN, TAKEN, REPLIES, END = "driver.json", "workers", "open", "taken", "replies", "end.json"
_PLACE = r"[\w.-]{1,200}"
_BATCH = re.compile(rf"(?P<place>{_PLACE})\.(?P<session>[0-9a-f]{{8}})-(?P<number>\d{{1,12}})\.json")


def is_place(name: str) -> bool:
    """Say whether a place can stand in the name of a batch's file.

    Args:
        name: `teachers.flux`.
    """
    return re.fullmatch(_PLACE, name) is not None


def batch_file(place: str, session: str, number: int) -> str:
    """Return the name of a batch's file.

    Args:
        place: Of the part: `teachers.flux`.
        session: Of the run, 8 hexadecimal digits.
        number: Of the batch; a batch that is laid again has another one.
    """
    return f"{place}.{session}-{number}.json"


def read_batch_file(name: str) -> tuple[str, str, str] | None:
    """Return place, session and id of a batch from the name of its file; None for any other file.

    Args:
        name: Of a file in `open` or `taken`.
    """
    found = _BATCH.fullmatch(name)
    return None if found is None else (found["place"], found["session"], f"{found['session']}-{found['number']}")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all for everybody who reads the folder.

    Nothing is synced: a batch that a power cut takes is laid again.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_whole(path: Path) -> bytes | None:
    """Read a file; None where it is not there (any more).

    Raises:
        RunError: It is larger than any batch, or a link.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"'{path}' in the queue folder cannot be read ({error.strerror}). Remove it.") from error
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if size > MAX_FILE_BYTES:
            raise RunError(
                f"'{path}' in the queue folder has {size} bytes. A batch has at most {MAX_FILE_BYTES}. Lower "
                "batch_size of its placement."
            )
        return file.read()


def names_in(folder: Path) -> Iterator[str]:
    """Yield the names of the finished files of a folder, in order; none where there is no folder."""
    try:
        found = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    yield from (name for name in found if not name.startswith("."))


def clear(folder: Path) -> None:
    """Remove a folder with all that is in it, whoever else removes it meanwhile."""
    shutil.rmtree(folder, ignore_errors=True)


def write_beat(path: Path, about: dict[str, Any], number: int) -> None:
    """Say that somebody is alive.

    Args:
        path: Of the beat.
        about: What is said of them.
        number: Another one at each beat.
    """
    write_whole(path, json.dumps({**about, "beat": number}).encode())


def read_beat(path: Path) -> dict[str, Any] | None:
    """Return what somebody says of themselves; None where there is nobody, or nothing that can be read."""
    content = read_whole(path)
    try:
        said = None if content is None else json.loads(content)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


class Watch:
    """Measure, by the clock of this machine, for how long beats have stood still.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[object, float, bool]] = {}
        """Beat, since when, and whether it has changed."""

    def silent_s(self, name: str, beat: object, at_first: float = 0.0) -> float:
        """Return how long a beat has been this one; 0 where it is new.

        Args:
            name: Whose.
            beat: What it says now.
            at_first: Returned until the beat has changed once: a file may be left from somebody long dead.
        """
        now = self._clock()
        last = self._seen.get(name)
        if last is None:
            self._seen[name] = (beat, now, False)
        elif last[0] != beat:
            self._seen[name] = (beat, now, True)
        _, since, moved = self._seen[name]
        return now - since if moved else max(at_first, now - since)
