"""Corpus files to documents: lists of sentences whose order means something.

Two formats. ``lines``: a sentence a line, a blank line between documents, read as a stream.
``text``: prose as it comes, such as novels; a file is a document, wrapped lines are joined into
paragraphs, and the paragraphs are split into sentences.
"""

import glob
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sentencex

from nlpapp.errors import ConfigError, DataError, nearest

InputFormat = Literal["auto", "lines", "text"]

SAMPLE_BYTES = 200_000
"""How much of a file is looked at to tell its format."""
LONGEST_DOCUMENT = 1_000_000
"""Sentences; a longer document in ``lines`` format is a corpus whose blank lines got lost."""

_END = re.compile(r"[.!?\u2026:;\u3002\uff01\uff1f][\"'\u2019\u201d)\]\s]*$")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Document:
    """Sentences that follow one another."""

    sentences: tuple[str, ...]
    source: str
    """The file it is from."""
    line: int
    """The line of that file where it begins, counted from 1."""


def read_documents(
    inputs: Sequence[str], *, input_format: InputFormat = "auto"
) -> Iterator[Document]:
    """Yield the documents of ``inputs`` (files, patterns such as ``*.txt``, folders) in order.

    Raises:
        DataError: a file is missing, empty, blank or not UTF-8, or a folder holds no text file.
        ConfigError: ``input_format`` is unknown.
    """
    if input_format not in ("auto", "lines", "text"):
        raise ConfigError(
            f"input_format '{input_format}' is unknown; expected auto, lines or text."
        )
    # Before the first document is asked for, so that bad input shows before any work is done.
    files = find_files(inputs)
    formats = [_choose_format(path) if input_format == "auto" else input_format for path in files]
    return _read_files(files, formats)


def find_files(inputs: Sequence[str]) -> list[Path]:
    """Return the files that ``inputs`` (files, patterns, folders) stand for, each once.

    A folder stands for the .txt files in it, at any depth.

    Raises:
        DataError: a file is missing or empty, or a pattern or a folder gives no file.
    """
    if not inputs:
        raise DataError(
            "No input given: expected files, patterns such as 'books/*.txt', or folders."
        )
    files: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*.txt") if p.is_file())
            if not found:
                raise DataError(
                    f"Folder '{given}' holds no .txt file. Name the files, or a pattern such as "
                    f"'{given}/*'."
                )
        elif path.is_file():
            found = [path]
        elif glob.has_magic(given):
            found = sorted(p for p in map(Path, glob.glob(given, recursive=True)) if p.is_file())
            if not found:
                raise DataError(f"No file matches the pattern '{given}'.")
        else:
            raise DataError(f"No file '{given}'.{_nearest_file(path)}")
        files += found
    files = list(dict.fromkeys(files))
    for path in files:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty (0 bytes): expected text. Remove it from the inputs.")
    return files


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" Its folder '{path.parent}' does not exist either."
    return nearest(path.name, (other.name for other in path.parent.iterdir()))


def _read_files(files: Sequence[Path], formats: Sequence[str]) -> Iterator[Document]:
    for path, form in zip(files, formats, strict=True):
        count = 0
        for document in _read_lines(path) if form == "lines" else _read_text(path):
            count += 1
            yield document
        if not count:
            raise DataError(
                f"{path} holds only blank lines: expected text. Remove it from the inputs."
            )


def decoded_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without their ends.

    Raises:
        DataError: bytes that are not UTF-8, by line and by offset in the file.
    """
    offset = 0
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}, byte offset {offset + error.start}: not UTF-8 "
                    f"(byte 0x{raw[error.start]:02x}). Convert the file, for example with "
                    f"`iconv -f latin1 -t utf-8`."
                ) from None
            offset += len(raw)
            yield (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")


def _read_lines(path: Path) -> Iterator[Document]:
    """Yield documents of the ``lines`` format, holding one document at a time."""
    sentences: list[str] = []
    first, number, documents = 1, 0, 0
    for number, line in enumerate(decoded_lines(path), start=1):
        sentence = line.strip()
        if sentence:
            if not sentences:
                first = number
            sentences.append(sentence)
            if len(sentences) > LONGEST_DOCUMENT:
                raise DataError(
                    f"{path}: no blank line in {LONGEST_DOCUMENT} lines from line {first} on, "
                    "so all of "
                    "this would be one document. Put a blank line between documents, or read it as "
                    "prose with input_format: text."
                )
        elif sentences:
            documents += 1
            yield Document(tuple(sentences), str(path), first)
            sentences = []
    if sentences:  # The last document needs no blank line behind it.
        if not documents and len(sentences) > 1:
            log.warning(
                "%s has no blank line, so its %d lines are one document. If they are several, put "
                "a "
                "blank line between them.", path, len(sentences),
            )  # fmt: skip
        yield Document(tuple(sentences), str(path), first)


def _read_text(path: Path) -> Iterator[Document]:
    """Yield the one document of a file of prose."""
    lines = list(decoded_lines(path))
    language = "zh" if len(_CJK.findall("".join(lines[:1000]))) > 500 else "en"
    sentences = [
        sentence.strip()
        for paragraph in join_paragraphs(lines)
        for sentence in sentencex.segment(language, paragraph)
    ]
    sentences = [sentence for sentence in sentences if sentence]
    if sentences:
        first = next(number for number, line in enumerate(lines, start=1) if line.strip())
        yield Document(tuple(sentences), str(path), first)


def join_paragraphs(lines: Sequence[str]) -> Iterator[str]:
    """Yield paragraphs, each on one line, of wrapped or of unwrapped prose.

    Where lines are wrapped, a paragraph ends at a blank line, or at a line much shorter than the
    others: some prints mark paragraphs in no other way, and a heading is no part of a sentence.
    """
    width = wrapped_width([line for line in lines if line.strip()])
    part: list[str] = []
    for line in lines:
        if line.strip():
            part.append(line.strip())
        if part and (not line.strip() or width == 0 or len(line) < 0.6 * width):
            yield " ".join(part)
            part = []
    if part:
        yield " ".join(part)


def wrapped_width(lines: Sequence[str]) -> int:
    """Return the width that ``lines`` are wrapped at, in characters; 0 if they are not wrapped."""
    if len(lines) < 4:
        return 0
    lengths = sorted(map(len, lines))
    width = lengths[int(0.9 * (len(lengths) - 1))]
    inside = [line for line in lines[:-1] if not _END.search(line)]
    broken = len(inside) / len(lines)  # Lines that break off in the middle of a sentence.
    full = sum(len(line) >= 0.75 * width for line in inside) / max(len(inside), 1)
    return width if 40 <= width <= 120 and broken >= 0.4 and full >= 0.5 else 0


def _choose_format(path: Path) -> Literal["lines", "text"]:
    with open(path, "rb") as file:
        # A whole line at the end, as far as there is one: cut characters would count as damage.
        sample = file.read(SAMPLE_BYTES) + file.readline(SAMPLE_BYTES)
    text = sample.decode("utf-8", errors="replace").removeprefix("\ufeff")
    form, why = guess_format([line.rstrip("\r") for line in text.split("\n")])
    log.info("%s is read as '%s': %s (input_format sets it).", path, form, why)
    return form


def guess_format(lines: Sequence[str]) -> tuple[Literal["lines", "text"], str]:
    """Return the format that ``lines``, the beginning of a file, seem to be in, and why."""
    filled = [line.strip() for line in lines if line.strip()]
    width = wrapped_width(filled)
    if width:
        return (
            "text",
            f"its lines are wrapped at about {width} characters, in the middle of sentences",
        )
    probe = filled[:: max(1, len(filled) // 200)][:200]
    several = sum(len(sentencex.segment("en", line)) > 1 for line in probe) / max(len(probe), 1)
    why = f"{several:.0%} of its lines hold more than one sentence"
    return ("text" if several > 0.15 else "lines"), why
