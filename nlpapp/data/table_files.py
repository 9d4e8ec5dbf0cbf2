"""TSV, CSV and JSONL files as rows of text, read as a stream; each fault names its file and line.

TSV is the format of GLUE and of most own data: a quote in it is a character like any other, and a
field cannot hold a tab or a line break. CSV follows RFC 4180 quoting. A JSONL line is one JSON
object. An empty line holds no row, in every format.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nlpapp.errors import DataError, nearest

FORMATS = {".tsv": "tsv", ".txt": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl"}
MAX_FIELD_CHARACTERS = 100_000_000
"""Longest CSV field; the default of Python's csv module (131,072) refuses long documents."""

csv.field_size_limit(MAX_FIELD_CHARACTERS)

Lines = Iterator[tuple[int, str]]
"""(line number, text); lines count from 1."""
Rows = Iterator[tuple[int, list[str]]]
"""(line number, one value for each column)."""


@dataclass(frozen=True)
class Table:
    """An open file: its column names, and its rows, which can be read once."""

    path: Path
    columns: tuple[str, ...]
    rows: Rows

    def position(self, column: str) -> int:
        """Return the position of ``column``.

        Raises:
            DataError: if there is no such column; lists those that are there.
        """
        if column not in self.columns:
            there = ", ".join(repr(name) for name in self.columns)
            hint = nearest(column, self.columns)
            raise DataError(f"{self.path}: there is no column '{column}'; there are {there}.{hint}")
        return self.columns.index(column)


def open_table(
    path: str | Path, *, columns: Sequence[str] | None = None, broken: list[int] | None = None
) -> Table:
    """Open a TSV (``.tsv``, ``.txt``), CSV or JSONL (``.jsonl``, ``.json``) file.

    Args:
        path: the file.
        columns: the names of the columns of a TSV file without a header line.
        broken: collects the line numbers of rows with a wrong number of columns; None refuses them.

    Raises:
        DataError: for an absent or empty file, a folder, another format, or a repeated column.
    """
    path = Path(path)
    lines = read_lines(path)
    match FORMATS.get(path.suffix.lower()):
        case "tsv":
            table = _open_tsv(path, lines, columns, broken)
        case "csv":
            table = _open_csv(path, lines)
        case "jsonl":
            table = _open_jsonl(path, lines)
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
                guess = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
                raise DataError(
                    f"{path}, line {number}: not UTF-8 at byte {offset + start} of the file "
                    f"(0x{raw[start]:02x}). Convert it first, for example: "
                    f"iconv -f {guess} -t UTF-8 {path.name} > {path.stem}-utf8{path.suffix}"
                ) from error
            offset += len(raw)
            yield number, text.removesuffix("\n").removesuffix("\r")


def _open_tsv(
    path: Path, lines: Lines, columns: Sequence[str] | None, broken: list[int] | None
) -> Table:
    rows = ((number, text.split("\t")) for number, text in lines if text)
    if columns is None:
        columns = next(rows, (1, [""]))[1]
    return Table(path, tuple(columns), _of_width(path, rows, len(columns), broken))


def _open_csv(path: Path, lines: Lines) -> Table:
    numbers: list[int] = []

    def text_lines() -> Iterator[str]:
        for number, text in lines:
            numbers.append(number)
            yield text + "\n"

    def rows() -> Rows:
        reader = csv.reader(text_lines(), strict=True)
        try:
            for values in reader:
                if values:
                    yield numbers[0], values  # of a row with quoted line breaks, the first line
                numbers.clear()
        except csv.Error as error:
            where = numbers[0] if numbers else 1
            raise DataError(
                f"{path}, line {where}: not sound CSV ({error}). A field with a quote, comma or "
                "line break must be quoted, its quotes doubled; bare quotes belong in a .tsv file."
            ) from error

    stream = rows()
    columns = next(stream, (1, [""]))[1]
    return Table(path, tuple(columns), _of_width(path, stream, len(columns), None))


def _of_width(path: Path, rows: Rows, width: int, broken: list[int] | None) -> Rows:
    for number, values in rows:
        if len(values) == width:
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


def _open_jsonl(path: Path, lines: Lines) -> Table:
    objects = ((number, _json_object(path, number, text)) for number, text in lines if text)
    first = next(objects, None)
    if first is None:
        raise DataError(f"{path}: the file holds no rows.")
    columns = tuple(first[1])

    def rows() -> Rows:
        yield first[0], _json_values(path, first[0], first[1], columns)
        for number, values in objects:
            yield number, _json_values(path, number, values, columns)

    return Table(path, columns, rows())


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


def _json_values(path: Path, number: int, values: dict, columns: Sequence[str]) -> list[str]:
    row = []
    for column in columns:
        if column not in values:
            raise DataError(f"{path}, line {number}: no key '{column}', which the first line has.")
        value = values[column]
        if isinstance(value, dict | list):
            raise DataError(
                f"{path}, line {number}: the value of '{column}' is a {type(value).__name__}; "
                "expected text or a number."
            )
        row.append(value if isinstance(value, str) else "" if value is None else json.dumps(value))
    return row
