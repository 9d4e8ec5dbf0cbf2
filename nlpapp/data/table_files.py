"""TSV, CSV, JSONL and parquet files as a stream of rows of text; a fault names its file and line.

TSV is the format of GLUE and of most own data: a quote in it is a character like any other, and a
field cannot hold a tab or a line break. CSV follows RFC 4180 quoting. A JSONL line is one JSON
object. An empty line holds no row, in every format. A "line" of parquet is a row, from 1.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from nlpapp.errors import ConfigError, DataError, nearest

FORMATS = {
    **{".tsv": "tsv", ".txt": "tsv", ".csv": "csv"},
    **{".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"},
}
BLANK = [""]
"""The fields of a line that is empty."""
PARQUET_BATCH_ROWS = 1024
"""Rows of a parquet file that are held in memory at once."""
MAX_FIELD_CHARACTERS = 100_000_000
"""Longest CSV field; the default of Python's csv module (131,072) refuses long documents."""

csv.field_size_limit(MAX_FIELD_CHARACTERS)

Lines = Iterator[tuple[int, str]]
"""(line number, text); lines count from 1."""
Rows = Iterator[tuple[int, list[str]]]
"""(line number, one text for each column)."""
RawRows = Iterator[tuple[int, Sequence[Any]]]
"""(line number, one value for each column as the file holds it, or `ABSENT`)."""
ABSENT = object()
"""The value of a key that a JSONL line lacks."""
LFS_POINTER = b"version https://git-lfs"
"""The first bytes of what a clone without git LFS holds in place of a large file."""


@dataclass(frozen=True)
class Table:
    """An open file: its column names, and its rows, which can be read once."""

    path: Path
    columns: tuple[str, ...]
    raw: RawRows
    list_separator: str | None = None
    """Put between the items of a list, which becomes one text; None refuses lists."""

    def rows(self, *columns: str) -> Rows:
        """Return an iterator over (line number, texts of ``columns``); other columns do not matter.

        Raises:
            DataError: if there is no such column; while reading, at a value that is no text.
        """
        chosen = [(self.position(column), column) for column in columns]
        return (
            (line, [self._text(line, values[position], column) for position, column in chosen])
            for line, values in self.raw
        )

    def _text(self, line: int, value: Any, column: str) -> str:
        if isinstance(value, str):
            return value
        if value is ABSENT:
            raise DataError(
                f"{self.path}, line {line}: no key '{column}', which the first line has."
            )
        if isinstance(value, list) and self.list_separator is not None:
            return self.list_separator.join(str(item) for item in value)
        if not isinstance(value, int | float | None):
            raise DataError(
                f"{self.path}, line {line}: the value of '{column}' is a {type(value).__name__}; "
                "expected text or a number."
            )
        return "" if value is None else json.dumps(value)

    def __contains__(self, column: str) -> bool:
        return column in self.columns or self._by_number(column) is not None

    def position(self, column: str) -> int:
        """Return the position of ``column``: its name or, where none has it, its number from 1.

        Raises:
            DataError: if there is no such column; lists those that are there.
        """
        if column in self.columns:
            return self.columns.index(column)
        position = self._by_number(column)
        if position is None:
            there = ", ".join(repr(name) for name in self.columns)
            hint = nearest(column, self.columns)
            raise DataError(f"{self.path}: there is no column '{column}'; there are {there}.{hint}")
        return position

    def _by_number(self, column: str) -> int | None:
        is_number = column.isdecimal() and 1 <= int(column) <= len(self.columns)
        return int(column) - 1 if is_number else None


def open_table(
    path: str | Path,
    *,
    header: bool = True,
    columns: Sequence[str] | None = None,
    broken: list[int] | None = None,
    list_separator: str | None = None,
) -> Table:
    """Open a TSV (``.tsv``, ``.txt``), CSV, JSONL (``.jsonl``, ``.json``) or parquet file.

    Args:
        path: the file.
        header: whether the first line of TSV or CSV names the columns; if not, their names are
            their numbers from 1.
        columns: the names of the columns of a TSV file without a header line.
        broken: collects the line numbers of rows with a wrong number of columns; None refuses them.
        list_separator: see `Table`; lists are in JSONL and parquet.

    Raises:
        ConfigError: JSONL or parquet without a header; they always name their columns.
        DataError: for an absent or empty file, a folder, another format, or a repeated column.
    """
    path = Path(path)
    lines = read_lines(path)
    kind = FORMATS.get(path.suffix.lower())
    if not header and kind in ("jsonl", "parquet"):
        raise ConfigError(f"{path}: {kind} names its columns; header false is for TSV and CSV.")
    match kind:
        case "tsv":
            table = _open_tsv(path, lines, columns, broken, header)
        case "csv":
            table = _open_csv(path, lines, header)
        case "jsonl":
            table = _open_jsonl(path, lines, list_separator)
        case "parquet":
            table = _open_parquet(path, list_separator)
        case _:
            known = ", ".join(FORMATS)
            raise DataError(f"{path}: '{path.suffix}' tells no known format; expected {known}.")
    repeated = sorted({name for name in table.columns if table.columns.count(name) > 1})
    if repeated:
        raise DataError(f"{path}, line 1: the header names column '{repeated[0]}' more than once.")
    return table


def read_lines(path: Path) -> Lines:
    """Return an iterator over (line number, text without line break) of a UTF-8 file.

    Raises:
        DataError: at once for a file that is absent or empty; while reading, at what is not UTF-8.
    """
    if path.is_dir():
        raise DataError(f"{path}: this is a folder; expected a file.")
    if not path.is_file():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: there is no such file.{nearest(path.name, siblings)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    return _decoded_lines(path)


def _decoded_lines(path: Path) -> Lines:
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                start = error.start + len(raw) - len(error.object)  # without a byte order mark
                raise DataError(
                    f"{path}, line {number}: not UTF-8 at byte {offset + start} of the file "
                    f"(0x{raw[start]:02x}). Convert it first, for example: iconv -f "
                    f"{_encoding(raw)} -t UTF-8 {path.name} > {path.stem}-utf8{path.suffix}"
                ) from error
            if "\0" in text:  # English in UTF-16 without a byte order mark is sound UTF-8.
                raise DataError(
                    f"{path}, line {number}: a NUL character; the file looks like UTF-16. Convert "
                    f"it first, for example: iconv -f {_utf16(raw)} -t UTF-8 {path.name} > "
                    f"{path.stem}-utf8{path.suffix}"
                )
            offset += len(raw)
            yield number, text.removesuffix("\n").removesuffix("\r")


def _encoding(raw: bytes) -> str:
    """Guess what ``raw``, a line that is not UTF-8, is encoded in."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16"
    # A Chinese character is two bytes or four, most of them over 0x7f; an accented letter of
    # Latin-1 is one, and rarely stands beside another.
    runs = re.findall(rb"[\x80-\xff]+", raw)
    with suppress(UnicodeDecodeError):
        if sum(map(len, runs)) >= 2 * len(runs) and raw.decode("gb18030"):
            return "GB18030"
    return "LATIN1"


def _utf16(raw: bytes) -> str:
    return "UTF-16BE" if raw.startswith(b"\0") else "UTF-16LE"


def _open_tsv(
    path: Path,
    lines: Lines,
    columns: Sequence[str] | None,
    broken: list[int] | None,
    header: bool,
) -> Table:
    rows: Rows = ((number, text.split("\t")) for number, text in lines)
    if columns is None:
        columns, rows = _names(rows, header)
    return Table(path, tuple(columns), _of_width(path, rows, len(columns), broken))


def _names(rows: Rows, header: bool) -> tuple[list[str], Rows]:
    """Return the names of the columns, and the rows that are data."""
    number, values = next((row for row in rows if row[1] != BLANK), (1, BLANK))
    if header:
        return values, rows
    return [str(column) for column in range(1, len(values) + 1)], chain([(number, values)], rows)


def _open_csv(path: Path, lines: Lines, header: bool) -> Table:
    numbers: list[int] = []

    def text_lines() -> Iterator[str]:
        for number, text in lines:
            numbers.append(number)
            yield text + "\n"

    def rows() -> Rows:
        reader = csv.reader(text_lines(), strict=True)
        try:
            for values in reader:
                yield numbers[0], values or BLANK  # with quoted line breaks, the first line
                numbers.clear()
        except csv.Error as error:
            where = numbers[0] if numbers else 1
            raise DataError(
                f"{path}, line {where}: not sound CSV ({error}). A field with a quote, comma or "
                "line break must be quoted, its quotes doubled; bare quotes belong in a .tsv file."
            ) from error

    columns, stream = _names(rows(), header)
    return Table(path, tuple(columns), _of_width(path, stream, len(columns), None))


def _of_width(path: Path, rows: Rows, width: int, broken: list[int] | None) -> Rows:
    """Check the number of columns; leave blank lines out.

    In a file of one column a blank line is a row with an empty text, but at the file's end.
    """
    blank: list[tuple[int, list[str]]] = []
    for number, values in rows:
        if values == BLANK:
            blank.append((number, values))
        elif len(values) == width:
            if width == 1:
                yield from blank
            blank.clear()
            yield number, values
        elif broken is not None:
            broken.append(number)
        else:
            raise DataError(
                f"{path}, line {number}: found {len(values)} column{'s' * (len(values) != 1)}, "
                f"expected {width}: {_shown(values)}"
            )


def _shown(values: list[str]) -> str:
    text = " | ".join(values)
    return text if len(text) <= 80 else text[:77] + "..."


def _open_jsonl(path: Path, lines: Lines, list_separator: str | None) -> Table:
    objects = ((number, _json_object(path, number, text)) for number, text in lines if text)
    first = next(objects, None)
    if first is None:
        raise DataError(f"{path}: the file holds no rows.")
    columns = tuple(first[1])
    raw = (
        (number, [values.get(column, ABSENT) for column in columns])
        for number, values in chain([first], objects)
    )
    return Table(path, columns, raw, list_separator)


def _json_object(path: Path, number: int, text: str) -> dict:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}, line {number}, column {error.colno}"
        raise DataError(f"{where}: not JSON ({error.msg}).") from error
    if not isinstance(value, dict):
        raise DataError(
            f'{path}, line {number}: expected one JSON object a line, such as {{"text": "..."}}, '
            f"found {type(value).__name__}."
        )
    return value


def _open_parquet(path: Path, list_separator: str | None) -> Table:
    file = open_parquet(path)
    batches = file.iter_batches(PARQUET_BATCH_ROWS)
    objects = chain.from_iterable(batch.to_pylist() for batch in batches)
    raw = ((number, list(values.values())) for number, values in enumerate(objects, start=1))
    return Table(path, tuple(file.schema_arrow.names), raw, list_separator)


def open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    """Open a parquet file.

    Raises:
        DataError: it is damaged, or git LFS has yet to fetch it.
    """
    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        with path.open("rb") as file:
            is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
        way_out = (
            "it is the pointer that git LFS keeps in its place: `git lfs pull` fetches the file"
            if is_pointer
            else str(error)
        )
        raise DataError(f"{path}: not a sound parquet file ({way_out}).") from error
