"""The text of a language model, line by line as it stands: nothing is split, joined or left out.

Text files (any name; packed with gzip or zstd, or not) give their lines, and so does each row of
JSON lines, CSV, parquet and data sets of the Hub. A line's end counts as one character, one byte
and one word (<eos>), as is the custom for the WikiText figures.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlpapp.errors import DataError
from nlpapp.text.source_bytes import (
    CHUNK_BYTES,
    Source,
    SourcePart,
    open_source,
    read_line_chunks,
)
from nlpapp.text.source_hub import PREFIX
from nlpapp.text.sources import ARCHIVES, SUFFIXES, InputFormat, find_files, find_sources
from nlpapp.text.vocabulary import ByteVocabulary, Vocabulary


@dataclass(frozen=True)
class TextCounts:
    """How long a text is; the end of each line is counted in all of them."""

    characters: int
    bytes: int
    words: int
    """What blanks separate."""


class LanguageText:
    """Files, patterns, folders and data sets of the Hub, read as one stream of lines."""

    def __init__(self, inputs: Sequence[str] | str, *, text_column: str | None = None) -> None:
        """Find what ``inputs`` stand for; see `sources.find_sources`, whose errors are these.

        Args:
            inputs: files, patterns, folders, or ``hub:owner/name:config:split``.
            text_column: of tables and data sets; None: ``text``, or the only column of strings.
        """
        inputs = [inputs] if isinstance(inputs, str) else inputs
        self.name = ", ".join(inputs)
        self.sources = [source for given in inputs for source in _find(given, text_column)]
        if not self.sources:
            raise DataError("no text is given: expected files, patterns, folders or data sets.")

    def lines(self) -> Iterator[str]:
        """Yield each line without its end.

        Raises:
            DataError: text that is no text, a damaged file, a row without text.
        """
        for source in self.sources:
            yield from _lines(source)

    def encode(self, vocabulary: Vocabulary) -> Iterator[Sequence[int] | np.ndarray]:
        """Yield the ids of the text, a line or more at a time.

        A file of bytes is read as it is, so that it need not be UTF-8, nor end in a line end.

        Raises:
            DataError: as `lines`; or a word is unknown, and the vocabulary has no <unk>.
        """
        for source in self.sources:
            if isinstance(vocabulary, ByteVocabulary) and source.format in ("lines", "text"):
                with open_source(source) as file:
                    while data := file.read(CHUNK_BYTES):
                        yield np.frombuffer(data, dtype=np.uint8)
            else:
                yield from vocabulary.encode_lines(_lines(source), source=source.name)

    def counts(self) -> TextCounts:
        """Return the characters, bytes and words of the text.

        What is no UTF-8 in a file of bytes counts as U+FFFD.
        """
        return count_text(line for source in self.sources for line in _any_lines(source))

    def fingerprint(self) -> str:
        """Return the sha256 (hex) of what tells one text from another: names, sizes and times."""
        facts = [(s.name, s.format, s.size, s.modified, s.text_column) for s in self.sources]
        return hashlib.sha256(repr(facts).encode()).hexdigest()


def count_text(lines: Iterable[str]) -> TextCounts:
    """Return the characters, bytes and words of ``lines``, the end of each line included."""
    characters = encoded = words = 0
    for line in lines:
        characters += len(line) + 1
        encoded += len(line.encode()) + 1
        words += len(line.split()) + 1
    return TextCounts(characters, encoded, words)


def _find(given: str, text_column: str | None) -> Iterator[Source]:
    if given.startswith(PREFIX):
        yield from find_sources(given, text_column=text_column)
        return
    for path in find_files(given):
        endings = [ending for ending in path.suffixes if ending not in ARCHIVES]
        is_table = endings and SUFFIXES.get(endings[-1]) not in (None, SUFFIXES[".txt"])
        # Whatever is no table is lines: there is no prose to tell from sentences.
        form: InputFormat = "auto" if is_table else "lines"
        yield from find_sources(str(path), input_format=form, text_column=text_column)


def _lines(source: Source) -> Iterator[str]:
    if source.format in ("lines", "text"):
        for chunk in read_line_chunks(SourcePart(source, 0, source.size)):
            yield from chunk.lines()
        return
    for number, text in enumerate(_rows(source), start=1):
        if not isinstance(text, str):
            raise DataError(
                f"{source.name}, row {number}: the value of '{source.text_column}' is a "
                f"{type(text).__name__}; expected text. Repair the row, or take it out."
            )
        yield from text.removesuffix("\n").split("\n")


def _any_lines(source: Source) -> Iterator[str]:
    if source.format not in ("lines", "text"):
        yield from _lines(source)
        return
    with open_source(source) as file:
        for line in file:
            yield line.decode(errors="replace").removesuffix("\n").removesuffix("\r")


def _rows(source: Source) -> Iterator[Any]:
    import datasets

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
