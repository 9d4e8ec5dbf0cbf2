"""The text of a language model, line by line as it stands: nothing is split, joined or left out.

Text files (any name; packed with gzip or zstd, or not) give their lines, and so does each row of
JSON lines, CSV, parquet and data sets of the Hub. A line's end counts as one character, one byte
and one word (<eos>), as is the custom for the WikiText figures. A vocabulary of bytes takes text
files as they stand: a carriage return is a byte of theirs, and their last line may have no end.

Of a file, ``[start:stop]`` behind its name takes these bytes alone: enwik8 and text8 are single
files whose first 90 million bytes are for training, and 5 million each for validation and test.
"""

import hashlib
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nlpapp.errors import DataError
from nlpapp.text.source_bytes import (
    CHUNK_BYTES,
    LONGEST_LINE,
    Source,
    SourcePart,
    check_unchanged,
    open_source,
    read_line_chunks,
    reading_error,
)
from nlpapp.text.source_hub import PREFIX
from nlpapp.text.sources import ARCHIVES, SUFFIXES, InputFormat, find_files, find_sources
from nlpapp.text.vocabulary import ByteVocabulary, Vocabulary

RANGE = re.compile(r"(?P<path>.+)\[(?P<start>\d*):(?P<stop>\d*)\]")


@dataclass(frozen=True)
class TextCounts:
    """How long a text is; an end of a line counts in all of them."""

    characters: int
    bytes: int
    words: int
    """What blanks separate."""


class LanguageText:
    """Files, ranges, patterns, folders and data sets of the Hub, read as one stream of lines."""

    def __init__(self, inputs: Sequence[str] | str, *, text_column: str | None = None) -> None:
        """Find what ``inputs`` stand for; see `sources.find_sources`, whose errors are these.

        Args:
            inputs: files, ``file[start:stop]`` in bytes, patterns, folders, or
                ``hub:owner/name:config:split``.
            text_column: of tables and data sets; None: ``text``, or the only column of strings.

        Raises:
            DataError: as there; or a range that the file does not have.
        """
        inputs = [inputs] if isinstance(inputs, str) else inputs
        self.name = ", ".join(inputs)
        self.parts = [part for given in inputs for part in _find(given, text_column)]
        if not self.parts:
            raise DataError("no text is given: expected files, patterns, folders or data sets.")

    def lines(self) -> Iterator[str]:
        """Yield each line without its end.

        Raises:
            DataError: text that is no text, a row without text, a file that is damaged or has
                changed since it was found.
        """
        for part in self.parts:
            yield from _lines(part)

    def encode(self, vocabulary: Vocabulary) -> Iterator[Sequence[int] | np.ndarray]:
        """Yield the ids of the text, a line or more at a time.

        A vocabulary of bytes gets those of a text file as they are, so that it need not be UTF-8,
        nor end in a line end.

        Raises:
            DataError: as `lines`, but bytes may be any; or a word is unknown, and the vocabulary
                has no <unk>.
        """
        for part in self.parts:
            if _is_read_as_bytes(part, vocabulary):
                for data in _read(part):
                    yield np.frombuffer(data, dtype=np.uint8)
            else:
                yield from vocabulary.encode_lines(_lines(part), source=part.source.name)

    def counts(self, vocabulary: Vocabulary) -> TextCounts:
        """Return the characters, bytes and words that `encode` turns into ids.

        Args:
            vocabulary: that of the ids. For bytes, text files count as they stand, and what is no
                UTF-8 in them decodes to U+FFFD.

        Raises:
            DataError: as `lines`; for bytes, they may be any.
        """
        characters = encoded = words = 0
        for part in self.parts:
            as_bytes = _is_read_as_bytes(part, vocabulary)
            found = _count_bytes(part) if as_bytes else count_text(_lines(part))
            characters += found.characters
            encoded += found.bytes
            words += found.words
        return TextCounts(characters, encoded, words)

    def fingerprint(self) -> str:
        """Return the sha256 (hex) of what tells one text from another: names, sizes and times."""
        facts = [
            (s.name, s.format, s.size, s.modified, s.text_column, part.start, part.stop)
            for part in self.parts
            for s in (part.source,)
        ]
        return hashlib.sha256(repr(facts).encode()).hexdigest()


def count_text(lines: Iterable[str]) -> TextCounts:
    """Return the characters, bytes and words of ``lines``, the end of each line included."""
    characters = encoded = words = 0
    for line in lines:
        characters += len(line) + 1
        encoded += len(line.encode()) + 1
        words += len(line.split()) + 1
    return TextCounts(characters, encoded, words)


def _count_bytes(part: SourcePart) -> TextCounts:
    characters = encoded = words = 0
    for line in _read(part, by_line=True):
        text = line.decode(errors="replace")
        characters += len(text)
        encoded += len(line)
        words += len(text.split()) + text.endswith("\n")
    return TextCounts(characters, encoded, words)


def _find(given: str, text_column: str | None) -> Iterator[SourcePart]:
    if given.startswith(PREFIX):
        for source in find_sources(given, text_column=text_column):
            yield SourcePart(source, 0, source.size)
        return
    limits = None if Path(given).exists() else RANGE.fullmatch(given)
    for path in find_files(limits["path"] if limits else given):
        endings = [ending for ending in path.suffixes if ending not in ARCHIVES]
        is_table = endings and SUFFIXES.get(endings[-1]) not in (None, SUFFIXES[".txt"])
        # Whatever is no table is lines: there is no prose to tell from sentences.
        form: InputFormat = "auto" if is_table else "lines"
        for source in find_sources(str(path), input_format=form, text_column=text_column):
            whole = SourcePart(source, 0, source.size)
            yield _range(whole, given, limits) if limits else whole


def _range(whole: SourcePart, given: str, limits: re.Match[str]) -> SourcePart:
    """Return the bytes of a file that ``limits`` name, which need not be whole lines."""
    source = whole.source
    start, stop = int(limits["start"] or 0), int(limits["stop"] or source.size)
    if source.format != "lines" or source.compression != "none":
        raise DataError(f"{given}: a range of bytes is for plain text; unpack {source.name} first.")
    if not start < stop <= source.size:
        raise DataError(
            f"{given}: {source.name} has {source.size} bytes; expected a start below the stop, and "
            "a stop that is not beyond them."
        )
    return SourcePart(source, start, stop)


def _lines(part: SourcePart) -> Iterator[str]:
    source = part.source
    if source.format not in ("lines", "text"):
        yield from _row_lines(source)
    elif _is_whole(part):
        for chunk in read_line_chunks(part):
            yield from chunk.lines()
    else:
        yield from _range_lines(part)


def _is_read_as_bytes(part: SourcePart, vocabulary: Vocabulary) -> bool:
    return isinstance(vocabulary, ByteVocabulary) and part.source.format in ("lines", "text")


def _is_whole(part: SourcePart) -> bool:
    return (part.start, part.stop) == (0, part.source.size)


def _range_lines(part: SourcePart) -> Iterator[str]:
    for number, line in enumerate(_read(part, by_line=True), start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{part.source.name}, line {number} of the bytes from {part.start} on: not "
                f"UTF-8 ({error.reason}). Move the range so that it cuts no character, or use "
                "the vocabulary 'bytes'."
            ) from None
        yield text.removesuffix("\n").removesuffix("\r")


def _read(part: SourcePart, *, by_line: bool = False) -> Iterator[bytes]:
    """Yield the bytes of a part as they stand, in chunks or line by line.

    Raises:
        DataError: as `read_line_chunks`, but bytes may be any.
    """
    check_unchanged(part.source)
    with open_source(part.source) as file:
        read, most = (file.readline, LONGEST_LINE) if by_line else (file.read, CHUNK_BYTES)
        left, lines, offset = sys.maxsize, 0, 0
        try:
            # An archive is only ever whole, and its size is not that of its text.
            if not _is_whole(part):
                left, offset = part.stop - part.start, file.seek(part.start)
            while data := read(min(most, left)):
                yield data
                left -= len(data)
                lines += data.count(b"\n")
                offset += len(data)
        except (EOFError, zlib.error, OSError) as error:
            raise reading_error(part.source, error, lines, offset) from None


def _row_lines(source: Source) -> Iterator[str]:
    for number, text in enumerate(_rows(source), start=1):
        if not isinstance(text, str):
            raise DataError(
                f"{source.name}, row {number}: the value of '{source.text_column}' is a "
                f"{type(text).__name__}; expected text. Repair the row, or take it out."
            )
        yield from text.removesuffix("\n").split("\n")


def _rows(source: Source) -> Iterator[Any]:
    import datasets

    if source.format != "hub":
        check_unchanged(source)
    try:
        if source.format == "hub":
            path, config, split = source.name.removeprefix(PREFIX).rsplit(":", 2)
            data = datasets.load_dataset(path, config or None, split=split, streaming=True)
        else:
            kind = {"jsonl": "json"}.get(source.format, source.format)
            data = datasets.load_dataset(
                kind, data_files=source.name, split="train", streaming=True
            )
        for row in data:
            yield row[source.text_column]
    except Exception as error:  # Of the network, or of any of the file formats.
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{source.name} cannot be read ({type(error).__name__}: {why}).") from None
