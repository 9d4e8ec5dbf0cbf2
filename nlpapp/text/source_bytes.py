"""What a source of documents is, and its text as chunks of whole lines.

Chunks are decoded and checked at once, which is many times faster than line by line. Lines end at a
line feed; a carriage return before it goes with it, and one inside a line counts as a blank.
"""

import contextlib
import gzip
import io
import logging
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, cast

from nlpapp.errors import DataError

CHUNK_BYTES = 1 << 20
LONG_LINE = 10_000_000
"""Bytes; a longer line is read, with a warning."""
LONGEST_LINE = 1 << 28
"""Bytes; a longer line is refused, since it has to be held in memory as a whole."""

Format = Literal["lines", "text", "jsonl", "csv", "parquet", "hub"]
Compression = Literal["none", "gzip", "zstd"]
DocumentUnit = Literal["file", "paragraph"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A file, or a data set of the Hugging Face Hub, and how its documents are to be read."""

    name: str
    """The path, or for the Hub ``hub:owner/name:config:split``."""
    format: Format
    compression: Compression
    size: int
    """Bytes on disk; 0 for the Hub."""
    modified: int
    """Time of the last change in nanoseconds (st_mtime_ns); 0 for the Hub."""
    text_column: str
    """The column, or JSON key, that holds the text; empty where there are none."""
    document_unit: DocumentUnit
    """What a document is in ``text``: the file, or each paragraph between blank lines."""

    @property
    def splits_at_bytes(self) -> bool:
        """Say whether reading can begin anywhere in the file."""
        return self.format in ("lines", "jsonl") and self.compression == "none"


@dataclass(frozen=True)
class SourcePart:
    """The documents of a source that begin from ``start`` on and before ``stop``.

    The two are bytes for uncompressed ``lines`` and ``jsonl``, row groups for ``parquet``, and
    shards for the Hub. (0, 1) is the whole of anything else.
    """

    source: Source
    start: int
    stop: int


@dataclass
class LineNumbers:
    """Numbers of lines that are read from the byte ``begin`` of a file on."""

    path: str
    begin: int
    _before: int | None = field(default=None, repr=False)

    def number(self, index: int) -> int:
        """Return the number, from 1, of line ``index``, counted from 0 at ``begin``.

        The lines before ``begin`` are counted the first time.
        """
        if self._before is None:
            self._before = count_lines(self.path, self.begin)
        return self._before + index + 1


@dataclass(frozen=True)
class LineChunk:
    """Some lines that follow one another."""

    text: str
    first: int
    """Index of the first line, counted from where reading began."""
    place: Literal["before", "own", "after"]
    """before: the one line before the part; own: lines that begin in it; after: what follows."""
    numbers: LineNumbers

    def lines(self) -> list[str]:
        """Return the lines without their ends."""
        lines = self.text.split("\n")
        if not lines[-1]:  # The text ends with a line end, behind which there is no line.
            lines.pop()
        return lines

    def line(self, index: int) -> int | Callable[[], int]:
        """Return the number of line ``index`` of this chunk, or what tells it when called."""
        if self.numbers.begin == 0:
            return self.first + index + 1
        return partial(self.numbers.number, self.first + index)


def read_line_chunks(part: SourcePart) -> Iterator[LineChunk]:
    """Yield the line before a part (if there is one), the part's lines, and then those after it.

    What follows the part is yielded to the end of the file: the caller stops where it has enough.

    Raises:
        DataError: bytes that are not UTF-8 text, by line and offset; a damaged archive; a file that
            has changed since it was found.
    """
    source = part.source
    check_unchanged(source)
    # An archive is always read as a whole, whatever it holds.
    start, stop = (part.start, part.stop) if source.splits_at_bytes else (0, sys.maxsize)
    first, warned = 0, False
    with open_source(source) as file:
        offset = 0
        if start:
            offset = _line_begin(file, start - 1, source.name)
            file.seek(offset)
        numbers = LineNumbers(source.name, offset)
        place: Literal["before", "own", "after"] = "before" if start else "own"
        while True:
            if place == "own" and offset >= stop:
                place = "after"
            try:
                data = _whole_lines(file, source, place, stop - offset)
            except (EOFError, zlib.error, OSError) as error:
                raise reading_error(source, error, first, offset) from None
            if not data:
                return
            if len(data) > LONG_LINE and place == "own" and not warned:
                warned = _warn_if_long(data, source.name, numbers, first)
            yield LineChunk(_decoded(data, source, numbers, first, offset), first, place, numbers)
            first += data.count(b"\n")
            offset += len(data)
            if place == "before":
                place = "own"


def _whole_lines(file: IO[bytes], source: Source, place: str, left: int) -> bytes:
    """Read the line before a part, or about a chunk whose last line begins before ``left``."""
    size = {"before": 0, "own": min(CHUNK_BYTES, left), "after": CHUNK_BYTES // 16}[place]
    data = file.read(size)
    if not data.endswith(b"\n"):
        data += file.readline(LONGEST_LINE)
    if len(data) >= LONGEST_LINE:
        raise _line_error(source.name)
    return data


def reading_error(source: Source, error: Exception, lines: int, offset: int) -> DataError:
    """Return what to say of a source that could be read up to ``lines`` and byte ``offset``."""
    if source.compression == "none":
        return DataError(f"{source.name} cannot be read at byte {offset}: {error}.")
    return DataError(
        f"{source.name} is a truncated or damaged {source.compression} archive ({error}): it could "
        f"be read as far as line {lines} (byte {offset} of the unpacked text). Get the file again."
    )


def _line_error(name: str) -> DataError:
    return DataError(
        f"{name}: a line is longer than {LONGEST_LINE} bytes: expected text in lines. Check what "
        "kind of file this is (input_format), or put line ends in."
    )


def _line_begin(file: IO[bytes], offset: int, name: str) -> int:
    """Return where the line that holds the byte at ``offset`` begins."""
    end = offset
    while end > 0:
        begin = max(0, end - CHUNK_BYTES // 16)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        if offset - begin > LONGEST_LINE:
            raise _line_error(name)
        end = begin
    return 0


def _warn_if_long(data: bytes, name: str, numbers: LineNumbers, first: int) -> bool:
    # Only the last line of a chunk can be longer than a chunk.
    length = len(data) - (data.rfind(b"\n", 0, len(data) - 1) + 1)
    if length < LONG_LINE:
        return False
    log.warning(
        "%s, line %d is %d bytes long: expected a sentence or a document a line. Later long lines "
        "are not mentioned.",
        name, numbers.number(first + data.count(b"\n", 0, len(data) - 1)), length,
    )  # fmt: skip
    return True


def _decoded(data: bytes, source: Source, numbers: LineNumbers, first: int, offset: int) -> str:
    def where(index: int) -> str:
        line = numbers.number(first + data.count(b"\n", 0, index))
        unpacked = "" if source.compression == "none" else " of the unpacked text"
        return f"{source.name}, line {line}, byte offset {offset + index}{unpacked}"

    nul = data.find(b"\0")
    try:
        text = data[:nul].decode("utf-8") if nul >= 0 else data.decode("utf-8")
    except UnicodeDecodeError as error:
        guess = "utf-16" if _begins_as_utf16(source) else "latin1"
        raise DataError(
            f"{where(error.start)}: not UTF-8 (byte 0x{data[error.start]:02x}). Convert the file, "
            f"for example with `iconv -f {guess} -t utf-8`."
        ) from None
    if nul >= 0:
        raise DataError(
            f"{where(nul)}: a NUL byte, which is no text. Take such bytes out with "
            r"`tr -d '\000'`, or, if the file is UTF-16, convert it with "
            "`iconv -f utf-16 -t utf-8`."
        )
    if offset == 0:
        text = text.removeprefix("\ufeff")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", " ")
    return text


def _begins_as_utf16(source: Source) -> bool:
    with open_source(source) as file:
        return file.read(2) in (b"\xff\xfe", b"\xfe\xff")


def check_unchanged(source: Source) -> None:
    """Raise `DataError` if a file is gone, or has been written since it was found."""
    try:
        state = Path(source.name).stat()
    except OSError as error:
        raise DataError(f"{source.name} cannot be read any more: {error.strerror}.") from None
    if source.modified and state.st_mtime_ns != source.modified:
        raise DataError(
            f"{source.name} has changed since the inputs were looked at. Run again once it is "
            "written completely."
        )


_counted: dict[tuple[str, int], tuple[int, int]] = {}
"""(path, time of its last change) -> (stop, count) of the latest call of `count_lines`."""


def count_lines(path: str, stop: int) -> int:
    """Return how many line ends there are before the byte ``stop`` of a file.

    Goes on from where the count before stopped: a process that works through the parts of a file
    in their order reads the file once more in all, not once for each part.
    """
    with open(path, "rb") as file:
        key = (path, os.fstat(file.fileno()).st_mtime_ns)
        begin, count = _counted.get(key, (0, 0))
        if begin > stop:
            begin, count = 0, 0
        file.seek(begin)
        left = stop - begin
        while left > 0 and (data := file.read(min(CHUNK_BYTES, left))):
            count += data.count(b"\n")
            left -= len(data)
    _counted.clear()
    _counted[key] = stop - left, count
    return count


def find_compression(path: str | Path) -> Compression:
    """Return what a file is packed with, told from its first bytes and not from its name."""
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic[:2] == b"\x1f\x8b":
        return "gzip"
    # The second is a frame to be skipped, with which pzstd begins.
    zstd = magic == b"\x28\xb5\x2f\xfd" or (magic[1:] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5)
    return "zstd" if zstd else "none"


@contextlib.contextmanager
def open_source(source: Source) -> Iterator[IO[bytes]]:
    """Open a file for reading its unpacked bytes as a stream."""
    with open(source.name, "rb") as file:
        if source.compression == "gzip":
            yield cast(IO[bytes], gzip.GzipFile(fileobj=file))
        elif source.compression == "zstd":
            yield io.BufferedReader(_ZstandardStream(file), CHUNK_BYTES)
        else:
            yield file


class _ZstandardStream(io.RawIOBase):
    """The unpacked bytes of a zstd archive, of one or of several frames.

    The reader of `zstandard` takes the end of a cut archive for the end of the text; this one
    raises `EOFError`.
    """

    def __init__(self, file: IO[bytes]) -> None:
        import zstandard

        self._file = file
        # Archives made with `zstd --long=31` need windows this large.
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._frame: Any = None
        self._packed = b""
        self._unpacked = memoryview(b"")
        self._error = zstandard.ZstdError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            # Small pieces, because a piece is unpacked as a whole.
            self._packed = self._packed or self._file.read(1 << 15)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("ended inside a zstd frame")
                return 0
            self._frame = self._frame or self._unpacker.decompressobj()
            try:
                self._unpacked = memoryview(self._frame.decompress(self._packed))
            except self._error as error:
                raise OSError(str(error)) from None
            self._packed = b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._unpacked))
        buffer[:size] = self._unpacked[:size]
        self._unpacked = self._unpacked[size:]
        return size
