"""Documents of JSON lines, CSV and parquet: each row's text is the prose of one document.

JSON lines hold one object a line. CSV follows RFC 4180 quoting, with the column names in its first
row. The line breaks of a text are respected: a blank line ends a paragraph.
"""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nlpapp.errors import DataError, nearest
from nlpapp.text.sentences import Document, split_prose
from nlpapp.text.source_bytes import (
    LONGEST_LINE,
    Source,
    SourcePart,
    check_unchanged,
    read_line_chunks,
)

DEFAULT_COLUMN = "text"

BATCH_ROWS = 256
"""Rows of a parquet file that are held in memory at once."""


def choose_text_column(columns: Mapping[str, bool], wanted: str | None, name: str) -> str:
    """Return the column that holds the text.

    Args:
        columns: column name -> whether its values are strings.
        wanted: the name asked for; None takes ``text``, or else the only column of strings.
        name: of the source, for the error.

    Raises:
        DataError: no such column, or it cannot be told which one is meant; lists what is there.
    """
    there = ", ".join(f"'{column}'" for column in columns) or "none"
    if wanted is not None:
        if wanted not in columns:
            raise DataError(
                f"{name}: there is no column '{wanted}'; there are {there}."
                f"{nearest(wanted, columns)}"
            )
        return wanted
    if DEFAULT_COLUMN in columns:
        return DEFAULT_COLUMN
    strings = [column for column, is_string in columns.items() if is_string]
    if len(strings) == 1:
        return strings[0]
    raise DataError(
        f"{name}: it cannot be told which column holds the text; there are {there}. Name it with "
        f"text_column.{nearest(DEFAULT_COLUMN, columns)}"
    )


def find_text_column(source: Source, wanted: str | None) -> str:
    """Return the text column of a jsonl, csv or parquet file, from its head; as above."""
    match source.format:
        case "jsonl":
            first = next(_json_rows(SourcePart(source, 0, source.size)), None)
            if first is None:
                raise DataError(f"{source.name} holds only blank lines: expected JSON objects.")
            columns = {key: isinstance(value, str) for key, value in first[1].items()}
        case "csv":
            header = next(_csv_rows(source), (1, []))[1]
            for column in header:
                if header.count(column) > 1:
                    raise DataError(
                        f"{source.name}, line 1: the header names column '{column}' more than once."
                    )
            columns = dict.fromkeys(header, True)
        case _:
            columns = _parquet_columns(source)
    return choose_text_column(columns, wanted, source.name)


def document_of(text: Any, source: Source, line: int | Callable[[], int]) -> Document:
    """Return the document of one row; it has no sentence if the text is empty.

    Raises:
        DataError: the value is no text, or text that cannot be written as UTF-8.
    """

    def refuse(what: str) -> DataError:
        where = f"{source.name}, line {Document((), '', line).line}"
        return DataError(
            f"{where}: the value of '{source.text_column}' {what}; expected text. Repair the row, "
            "or take it out."
        )

    if not isinstance(text, str):
        raise refuse("is null" if text is None else f"is a {type(text).__name__}")
    if "\0" in text:
        raise refuse("holds a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise refuse("holds half of a surrogate pair") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return Document(tuple(split_prose(lines)), source.name, line)


def read_jsonl(part: SourcePart) -> Iterator[Document]:
    """Yield the documents of the lines of JSON that begin in ``part``."""
    source = part.source
    for line, row in _json_rows(part):
        if source.text_column not in row:
            keys = ", ".join(f"'{key}'" for key in row) or "none"
            raise DataError(
                f"{source.name}, line {Document((), '', line).line}: no key "
                f"'{source.text_column}'; there are {keys}.{nearest(source.text_column, row)}"
            )
        yield document_of(row[source.text_column], source, line)


def _json_rows(part: SourcePart) -> Iterator[tuple[int | Callable[[], int], dict[str, Any]]]:
    for chunk in read_line_chunks(part):
        if chunk.place == "after":
            return
        if chunk.place == "before":
            continue
        for index, text in enumerate(chunk.lines()):
            if text.strip():
                line = chunk.line(index)
                yield line, _json_object(part.source, line, text)


def _json_object(source: Source, line: int | Callable[[], int], text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
        where = f"{source.name}, line {Document((), '', line).line}{column}"
        raise DataError(f"{where}: not JSON ({why}); expected one JSON object a line.") from None
    if not isinstance(value, dict):
        where = f"{source.name}, line {Document((), '', line).line}"
        raise DataError(
            f'{where}: expected one JSON object a line, such as {{"text": "..."}}, found '
            f"{type(value).__name__}."
        )
    return value


def read_csv(part: SourcePart) -> Iterator[Document]:
    """Yield the documents of the rows of a CSV file; a quoted text may hold line breaks."""
    source = part.source
    rows = _csv_rows(source)
    header = next(rows, (1, []))[1]
    position = header.index(source.text_column)
    for line, values in rows:
        if len(values) != len(header):
            raise DataError(
                f"{source.name}, line {line}: found {len(values)} columns, expected "
                f"{len(header)}. A text with a comma or a line break must be quoted."
            )
        yield document_of(values[position], source, line)


def _csv_rows(source: Source) -> Iterator[tuple[int, list[str]]]:
    """Yield (line where it begins, values) of each row that is not empty."""
    chunks = read_line_chunks(SourcePart(source, 0, 1))
    csv.field_size_limit(min(LONGEST_LINE, sys.maxsize))  # Of 131,072 characters by default.
    reader = csv.reader((f"{line}\n" for chunk in chunks for line in chunk.lines()), strict=True)
    line = 1
    try:
        for values in reader:
            if values:
                yield line, values
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{source.name}, line {line}: not sound CSV ({error}) in the row that begins there. A "
            "text with a quote, a comma or a line break must be quoted, its quotes doubled."
        ) from None


def read_parquet(part: SourcePart) -> Iterator[Document]:
    """Yield the documents of some row groups of a parquet file; ``line`` is the row, from 1."""
    source = part.source
    check_unchanged(source)
    with _open_parquet(source) as file:
        groups = range(part.start, part.stop)
        if not sum(file.metadata.row_group(index).num_rows for index in groups):
            return  # pyarrow asks for rows to read
        row = 1 + sum(file.metadata.row_group(index).num_rows for index in range(part.start))
        batches = file.iter_batches(
            batch_size=BATCH_ROWS, row_groups=groups, columns=[source.text_column]
        )
        for batch in _readable(source, batches):
            for text in batch.column(0).to_pylist():
                yield document_of(text, source, row)
                row += 1


def parquet_group_sizes(source: Source) -> list[int]:
    """Return the bytes of each row group of a parquet file, before compression."""
    with _open_parquet(source) as file:
        count = file.metadata.num_row_groups
        return [file.metadata.row_group(index).total_byte_size for index in range(count)]


def _parquet_columns(source: Source) -> dict[str, bool]:
    import pyarrow.types as types

    def is_string(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return bool(types.is_string(kind) or types.is_large_string(kind))

    with _open_parquet(source) as file:
        return {column.name: is_string(column.type) for column in file.schema_arrow}


def _open_parquet(source: Source) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(source.name)
    except (pyarrow.ArrowException, OSError) as error:
        raise _parquet_error(source, error) from None


def _readable(source: Source, batches: Iterator[Any]) -> Iterator[Any]:
    import pyarrow

    try:
        yield from batches
    except (pyarrow.ArrowException, OSError) as error:
        raise _parquet_error(source, error) from None


def _parquet_error(source: Source, error: Exception) -> DataError:
    why = str(error).splitlines()[0].rstrip(".")
    return DataError(f"{source.name} is no sound parquet file ({why}). Get or write it again.")
