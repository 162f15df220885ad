"""Read foreign WebDataset tars: where the members of each sample lie; nothing is unpacked, decoded or executed.

Every member that GNU tar lists ends up in a sample or is named with the reason for which it does not; folders alone,
which hold nothing, are passed over. Python's own reader ends without an error at a header it cannot read and at the
end mark between two tars that were joined with `cat`; this one goes on to the next header and says what lies between.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import BinaryIO, NamedTuple

from evolvedirector.store.captions import MAX_CAPTION_BYTES, Caption, caption_of
from evolvedirector.store.errors import StoreError
from evolvedirector.store.pictures import picture_extensions

BLOCK_BYTES = tarfile.BLOCKSIZE
_SCAN_BLOCKS = 2048
_CHECK_SUM = re.compile(rb"[ 0]*[0-7]+[ \0]*")
_MAX_LONG_NAME_BYTES = 2**20
_MAX_LONG_NAMES = 8
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


class Span(NamedTuple):
    """Bytes of one member within a tar."""

    path: str
    offset: int
    size_bytes: int


class _Stretch(NamedTuple):
    """Headers that follow each other without damage or an end mark between them."""

    archive: int
    """Counts the end marks before it."""
    damage: int
    """Counts the damaged places before it."""


class TarSample(NamedTuple):
    """The members of one key."""

    path: str
    key: str
    """Unique within the tar."""
    parts: Mapping[str, Span]
    """By lower-case extension: everything after the first dot of the name."""

    @property
    def where(self) -> str:
        """Name the tar and its members, for messages: `x.tar:fox.{png,txt}`."""
        names = ",".join(self.parts)
        return f"{self.path}:{self.key}.{names if len(self.parts) == 1 else f'{{{names}}}'}"

    @property
    def picture(self) -> tuple[str, Span] | None:
        """Extension and place of its picture; None: it has none."""
        return next(((kind, self.parts[kind]) for kind in picture_extensions() if kind in self.parts), None)


def tar_samples(path: str, problems: list[str]) -> list[TarSample]:
    """List the samples of one tar in the order of their first members.

    Members of one key need not stand together. Within one tar, an extension that comes twice begins another sample of
    the key; so does each of several tars that were joined. Dots in names: see `_apart`.

    Args:
        path: A plain tar.
        problems: What belongs to no sample is noted here, as `tar:member: reason`; also a tar that cannot be read.
    """
    samples: list[TarSample] = []
    times: Counter[str] = Counter()
    try:
        archives = list(_archives(_members(path, problems)))
    except OSError as error:
        problems.append(f"{path}: it cannot be read ({error.strerror})")
        return []
    for archive in archives:
        open_ones: dict[str, dict[str, Span]] = {}
        for name, span in archive:
            key, extension = _split(name)
            if reason := _no_part(name, key, extension):
                problems.append(f"{path}:{name}: {reason}")
                continue
            if key not in open_ones or extension in open_ones[key]:
                times[key] += 1
                open_ones[key] = {}
                samples.append(TarSample(path, f"{key}#{times[key]}" if times[key] > 1 else key, open_ones[key]))
            open_ones[key][extension] = span
    return [part for sample in samples for part in _apart(sample, problems)]


def _archives(members: Iterable[tuple[_Stretch, str, Span]]) -> Iterator[list[tuple[str, Span]]]:
    """Tell tars apart that were joined: by end marks, and where one was cut by names that come again after the damage.

    Else the caption of one tar could be taken for a picture of another that has the same key.
    """
    joined: list[tuple[str, Span]] = []
    number = 0
    for stretch, group in groupby(members, key=itemgetter(0)):
        here = [(name, span) for _, name, span in group]
        if stretch.archive != number or {name for name, _ in joined} & {name for name, _ in here}:
            yield joined
            joined, number = [], stretch.archive
        joined += here
    yield joined


def _apart(sample: TarSample, problems: list[str]) -> list[TarSample]:
    """Find pictures whose own names have dots: `photo.v1.png` beside `photo.v1.txt`.

    WebDataset cuts a name at its first dot, so it reads both as parts of `photo`. Where `photo` has no picture of its
    own, each such pair is a sample; where it has one, the pair is named as left out, for it could be meant either way.
    """
    stems: dict[str, dict[str, Span]] = {}
    for extension, span in sample.parts.items():
        stem, dot, last = extension.rpartition(".")
        if dot:
            stems.setdefault(stem, {})[last] = span
    pairs = {stem: parts for stem, parts in stems.items() if parts.keys() & {"txt", "json"} and _has_picture(parts)}
    if not pairs:
        return [sample]
    if sample.picture is None:
        taken = {f"{stem}.{last}" for stem, parts in pairs.items() for last in parts}
        apart = [TarSample(sample.path, f"{sample.key}.{stem}", parts) for stem, parts in pairs.items()]
        rest = {extension: span for extension, span in sample.parts.items() if extension not in taken}
        return [*apart, sample._replace(parts=rest)] if rest else apart
    for stem, parts in pairs.items():
        pair = TarSample(sample.path, f"{sample.key}.{stem}", parts)
        problems.append(
            f"{pair.where}: WebDataset cuts names at the first dot, so it is a part of '{sample.key}', which has a"
            " picture of its own; rename it without a dot"
        )
    return [sample]


def _has_picture(parts: Mapping[str, Span]) -> bool:
    return any(kind in parts for kind in picture_extensions())


def tar_caption(sample: TarSample) -> Caption:
    """Read the caption of one sample by the rule of `captions`.

    Raises:
        StoreError: If it has none that can be read.
    """
    found = (sample.parts.get(kind) for kind in ("txt", "json"))
    return caption_of(*(None if span is None else read_span(span, MAX_CAPTION_BYTES) for span in found))


def read_span(span: Span, limit_bytes: int) -> bytes:
    """Read the content of one member.

    Raises:
        StoreError: If it has more bytes than the limit, or the tar has become shorter since it was listed.
    """
    if span.size_bytes > limit_bytes:
        raise StoreError(f"a member of it has {span.size_bytes} bytes; at most {limit_bytes} are allowed")
    with open(span.path, "rb") as file:
        content = os.pread(file.fileno(), span.size_bytes, span.offset)
    if len(content) != span.size_bytes:
        raise StoreError(
            f"'{span.path}' has become shorter since it was listed. Allowed are tars that stay as they are. Restore it "
            "from a copy."
        )
    return content


def _split(name: str) -> tuple[str, str]:
    """Split as WebDataset does: at the first dot of the last part of the name."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _no_part(name: str, key: str, extension: str) -> str:
    """Say why a member can be no part of a sample; empty where it can."""
    if posixpath.basename(name).startswith("._") or "__MACOSX" in name.split("/"):
        return "macOS adds such files; they are no part of a sample"
    if not key or key.endswith("/"):
        return "its name begins with a dot, so it has no key"
    return "" if extension else "its name has no extension, so WebDataset gives it to no sample"


def _members(path: str, problems: list[str]) -> Iterator[tuple[_Stretch, str, Span]]:
    """Yield stretch, normalised name and place of every plain file, and of hard links to one."""
    spans: dict[str, Span] = {}
    for stretch, header in _headers(path, problems):
        name = posixpath.normpath(header.name)  # `./a.png` and `a.png` are one name
        if header.isdir():
            continue
        if header.isreg() and not header.issparse():
            spans[name] = Span(path, header.offset_data, header.size)
        elif header.islnk() and posixpath.normpath(header.linkname) in spans:
            spans[name] = spans[posixpath.normpath(header.linkname)]
        else:
            problems.append(f"{path}:{name}: it is {_kind(header)}; pack plain files (`tar --dereference`)")
            continue
        yield stretch, name, spans[name]


def _kind(header: tarfile.TarInfo) -> str:
    if header.issparse():
        return "stored with holes (a sparse file)"
    if header.issym() or header.islnk():
        return f"a link to '{header.linkname}', whose content is not in the tar under that name"
    return f"no plain file (type {header.type!r})"


def _headers(path: str, problems: list[str]) -> Iterator[tuple[_Stretch, tarfile.TarInfo]]:
    """Yield each header that can be read, with the stretch it stands in."""
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        parser = _parser_of(file)
        position = archive = damage = 0
        ended, last = False, "its beginning"
        while position < end:
            if (after_zeros := _after_zeros(file, position)) > position:
                archive += after_zeros - position > BLOCK_BYTES  # an end mark has two blocks
                ended, position = True, after_zeros
                continue
            header, reason = _header_at(parser, file, position, end)
            if header is not None:
                ended, last, position = False, f"'{header.name}'", parser.offset
                yield _Stretch(archive, damage), header
                continue
            if not position and (packed := _packed(file)):
                problems.append(f"{path}: it is compressed ({packed}); unpack it to a plain tar first")
                return
            following = position
            while following < end and _header_at(parser, file, following, end)[0] is None:
                following = _next_header(file, following + BLOCK_BYTES, end)
            lost = f"{following - position} bytes are passed over" if following < end else "the rest cannot be read"
            what = "it is no tar" if (position, following) == (0, end) else f"damaged at byte {position}, after {last}"
            problems.append(f"{path}: {what}: {reason}; {lost}; restore the tar from a copy")
            ended, position, damage = True, following, damage + 1
        if not end or (archive and last == "its beginning"):
            problems.append(f"{path}: it is empty; restore it from a copy")
        elif not ended:
            problems.append(f"{path}: it has no end mark after {last}: it was cut short, and more may be missing")


def _parser_of(file: BinaryIO) -> tarfile.TarFile:
    """Make what knows the formats of headers, GNU's and POSIX's long names among them."""
    # made over an empty tar: over the file itself it would read on its own, and stop where it cannot
    empty = io.BytesIO(bytes(2 * BLOCK_BYTES))
    parser = tarfile.TarFile(fileobj=empty, encoding="utf-8", errors="surrogateescape")
    parser.fileobj = file
    return parser


def _header_at(parser: tarfile.TarFile, file: BinaryIO, position: int, end: int) -> tuple[tarfile.TarInfo | None, str]:
    """Parse the header at a position, with the long names before it; None and the reason where that fails.

    The offset of the parser is then that of the next header.
    """
    try:
        _check_long_names(file, position)
        file.seek(position)
        info = tarfile.TarInfo.fromtarfile(parser)
    except (tarfile.TarError, ValueError, ArithmeticError) as error:
        return None, f"a header cannot be read ({error})"
    there = end - info.offset_data
    if info.size < 0 or parser.offset <= position or (info.size > there and not info.issparse()):
        return None, f"'{info.name}' is cut short or damaged ({max(0, there)} of its {info.size} bytes are there)"
    return info, ""


def _check_long_names(file: BinaryIO, position: int) -> None:
    """Refuse long names that would fill the memory, or so many in a row that a parser never returns from them."""
    for _ in range(_MAX_LONG_NAMES + 1):
        file.seek(position)
        header = tarfile.TarInfo.frombuf(file.read(BLOCK_BYTES), "utf-8", "surrogateescape")
        if header.type not in _LONG:
            return
        if not 0 <= header.size <= _MAX_LONG_NAME_BYTES:
            raise ValueError(f"a long name claims {header.size} bytes")
        position += BLOCK_BYTES + -(-header.size // BLOCK_BYTES) * BLOCK_BYTES
    raise ValueError("too many long names in a row")


def _after_zeros(file: BinaryIO, position: int) -> int:
    """Return where the zero blocks at a position end; the position itself where there are none."""
    file.seek(position)
    data = file.read(BLOCK_BYTES)
    while data and not data.strip(b"\0"):
        position += len(data)
        data = file.read(BLOCK_BYTES * _SCAN_BLOCKS)
    return position + (len(data) - len(data.lstrip(b"\0"))) // BLOCK_BYTES * BLOCK_BYTES


def _next_header(file: BinaryIO, position: int, end: int) -> int:
    """Find the next block that is a header, by its check sum; the end where there is none."""
    file.seek(position)
    while data := file.read(BLOCK_BYTES * _SCAN_BLOCKS):
        for start in range(0, len(data) - BLOCK_BYTES + 1, BLOCK_BYTES):
            if _CHECK_SUM.fullmatch(data, start + 148, start + 156) and _is_header(data[start : start + BLOCK_BYTES]):
                return position + start
        position += len(data)
    return end


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


def _packed(file: BinaryIO) -> str:
    file.seek(0)
    start = file.read(8)
    return next((name for mark, name in _PACKED.items() if start.startswith(mark)), "")
