"""Documents of text files: ``lines`` and ``text``.

``lines``: a sentence a line, a blank line between documents. ``text``: prose as it comes, such as
novels; a file is a document, or each of its paragraphs is.
"""

import logging
from collections.abc import Iterator
from itertools import chain, islice

from nlpapp.errors import DataError
from nlpapp.text.sentences import Document, split_prose, wrapped_width
from nlpapp.text.source_bytes import SourcePart, read_line_chunks

LONGEST_DOCUMENT = 1_000_000
"""Sentences; a longer document in ``lines`` format is a corpus whose blank lines got lost."""
LONGEST_PROSE = 300_000_000
"""Characters; a longer file of prose is several documents, and too much to hold in memory."""
WIDTH_LINES = 5000
"""How many lines of a file tell the width that its paragraphs are wrapped at."""

log = logging.getLogger(__name__)


def read_lines(part: SourcePart) -> Iterator[Document]:
    """Yield the documents of the ``lines`` format that begin in ``part``."""
    name = part.source.name
    sentences: list[str] = []
    first = None  # Number of the line where the open document begins, if that is in this part.
    found = 0
    for chunk in read_line_chunks(part):
        lines = list(map(str.strip, chunk.lines()))
        begin = 0
        while begin < len(lines):
            try:
                end = lines.index("", begin)
            except ValueError:
                end = len(lines)
            if end > begin and not sentences:
                first = chunk.line(begin) if chunk.place == "own" else None
            if first is None and chunk.place == "after":
                return
            sentences += lines[begin:end]
            if first is None:
                del sentences[1:]  # Of another part: all that counts is where it ends.
            elif len(sentences) > LONGEST_DOCUMENT:
                raise _length_error(Document((), name, first))
            if sentences and end < len(lines):
                if first is not None:
                    found += 1
                    yield Document(tuple(sentences), name, first)
                sentences, first = [], None
            begin = end + 1
    if sentences and first is not None:  # The last document needs no blank line behind it.
        if part.start == 0 and not found and len(sentences) > 1:
            log.warning(
                "%s has no blank line, so its %d lines are one document. If they are several, put "
                "a blank line between them.", name, len(sentences),
            )  # fmt: skip
        yield Document(tuple(sentences), name, first)


def _length_error(document: Document) -> DataError:
    return DataError(
        f"{document.source}: no blank line in {LONGEST_DOCUMENT} lines from line {document.line} "
        "on, so all of this would be one document. Put a blank line between documents, or read it "
        "as prose with input_format: text."
    )


def read_text(part: SourcePart) -> Iterator[Document]:
    """Yield the documents of a file of prose: one, or its paragraphs between blank lines."""
    if part.source.document_unit == "paragraph":
        return _read_paragraphs(part)
    return _read_whole(part)


def _read_whole(part: SourcePart) -> Iterator[Document]:
    name = part.source.name
    lines: list[str] = []
    size = 0
    for chunk in read_line_chunks(part):
        lines += chunk.lines()
        size += len(chunk.text)
        if size > LONGEST_PROSE:
            raise DataError(
                f"{name} holds more than {LONGEST_PROSE} characters, which are too many for one "
                "document. Cut the file, or make its paragraphs documents with document_unit: "
                "paragraph."
            )
    sentences = split_prose(lines)
    if len(sentences) > LONGEST_DOCUMENT:
        raise DataError(
            f"{name} holds {len(sentences)} sentences, the most in one document are "
            f"{LONGEST_DOCUMENT}. Cut the file, or make its paragraphs documents with "
            "document_unit: paragraph."
        )
    if sentences:
        first = next(number for number, line in enumerate(lines, start=1) if line.strip())
        yield Document(tuple(sentences), name, first)


def _read_paragraphs(part: SourcePart) -> Iterator[Document]:
    name = part.source.name
    lines = (line for chunk in read_line_chunks(part) for line in chunk.lines())
    head = list(islice(lines, WIDTH_LINES))
    width = wrapped_width([line for line in head if line.strip()])
    paragraph: list[str] = []
    for number, line in enumerate(chain(head, lines, [""]), start=1):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            first = number - len(paragraph)
            sentences = split_prose(paragraph, width=width)
            if len(sentences) > LONGEST_DOCUMENT:
                raise DataError(
                    f"{name}, line {first}: a paragraph of {len(sentences)} sentences, the most "
                    f"are {LONGEST_DOCUMENT}. Put a blank line between paragraphs."
                )
            yield Document(tuple(sentences), name, first)
            paragraph = []
