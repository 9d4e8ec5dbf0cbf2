"""What the inputs of a run stand for: files and data sets, their formats, and parts of them.

Formats: ``lines`` and ``text`` (`source_formats`), ``jsonl``, ``csv`` and ``parquet``
(`source_tables`), and data sets of the Hugging Face Hub (`source_hub`). Any text file may be packed
with gzip or zstd.
"""

import dataclasses
import glob
import itertools
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from nlpapp.errors import ConfigError, DataError, nearest
from nlpapp.text.sentences import Document, guess_format
from nlpapp.text.source_bytes import (
    Compression,
    DocumentUnit,
    Format,
    Source,
    SourcePart,
    find_compression,
    open_source,
)
from nlpapp.text.source_formats import read_lines, read_text
from nlpapp.text.source_hub import PREFIX, count_hub_shards, find_hub_source, read_hub
from nlpapp.text.source_tables import (
    find_text_column,
    parquet_group_sizes,
    read_csv,
    read_jsonl,
    read_parquet,
)

InputFormat = Literal["auto", "lines", "text", "jsonl", "csv", "parquet"]
INPUT_FORMATS = ("auto", "lines", "text", "jsonl", "csv", "parquet")

SUFFIXES: dict[str, tuple[Format, ...]] = {
    ".txt": ("lines", "text"),
    ".jsonl": ("jsonl",),
    ".ndjson": ("jsonl",),
    ".json": ("jsonl",),
    ".csv": ("csv",),
    ".parquet": ("parquet",),
}
"""The formats that a file of this name can be in; files of other names are left out of folders."""
ARCHIVES = (".gz", ".zst")

SAMPLE_BYTES = 200_000
"""How much of a file is looked at to tell its format."""
SAMPLE_FILES = 1000
"""How many of many text files are looked at; all of them are, if these differ."""

Verdict = tuple[Literal["lines", "text"], str]
"""A format, and why a file is taken to be in it."""

MOST_VERDICTS = 5
"""Files whose formats are logged one by one."""

READERS: dict[Format, Callable[[SourcePart], Iterator[Document]]] = {
    "lines": read_lines,
    "text": read_text,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "parquet": read_parquet,
    "hub": read_hub,
}

log = logging.getLogger(__name__)


def find_sources(
    inputs: Sequence[str] | str,
    *,
    input_format: InputFormat = "auto",
    text_column: str | None = None,
    document_unit: DocumentUnit = "file",
) -> list[Source]:
    """Return what ``inputs`` stand for, each once, in the order given and by name in a folder.

    Args:
        inputs: files, patterns such as ``books/*.txt``, folders (their files of known names, at any
            depth), and data sets of the Hub: ``hub:owner/name`` or ``hub:owner/name:config:split``.
        input_format: of all files; ``auto`` goes by each file's name, and for text by its lines.
        text_column: the column, or JSON key, of the text; None takes ``text``, or else the only
            column of strings.
        document_unit: whether a file of prose is one document, or each of its paragraphs is.

    Raises:
        DataError: a file is missing or empty, a pattern or a folder gives no file, there is no such
            column, or a data set cannot be reached.
        ConfigError: an option is unknown.
    """
    if input_format not in INPUT_FORMATS:
        raise ConfigError(
            f"input_format '{input_format}' is unknown; expected one of {', '.join(INPUT_FORMATS)}."
        )
    if document_unit not in ("file", "paragraph"):
        raise ConfigError(f"document_unit '{document_unit}': expected file or paragraph.")
    inputs = _as_list(inputs)
    sources: list[Source] = []
    files: list[Path] = []
    for given in inputs:
        if given.startswith(PREFIX) and not Path(given).exists():
            sources += _file_sources(files, input_format, text_column, document_unit)
            sources.append(find_hub_source(given, text_column=text_column))
            files = []
        else:
            files += _matching_files(given, input_format)
    sources += _file_sources(files, input_format, text_column, document_unit)
    return list({source.name: source for source in sources}.values())


def _as_list(inputs: Sequence[str] | str) -> Sequence[str]:
    if not inputs:
        raise DataError(
            "No input given: expected files, patterns such as 'books/*.txt', folders, or data sets "
            "such as 'hub:owner/name'."
        )
    return [inputs] if isinstance(inputs, str) else inputs


def find_files(inputs: Sequence[str] | str, *, input_format: InputFormat = "auto") -> list[Path]:
    """Return the files that ``inputs`` (files, patterns, folders) stand for, each once.

    Raises:
        DataError: a file is missing or empty, or a pattern or a folder gives no file.
    """
    files = [path for given in _as_list(inputs) for path in _matching_files(given, input_format)]
    return list(dict.fromkeys(files))


def _matching_files(given: str, input_format: InputFormat) -> list[Path]:
    path = Path(given)
    if path.is_dir():
        found = _folder_files(path, input_format)
    elif path.is_file():
        found = [path]
    elif glob.has_magic(given):
        found = sorted(p for p in map(Path, glob.glob(given, recursive=True)) if p.is_file())
        if not found:
            raise DataError(f"No file matches the pattern '{given}'.")
    else:
        raise DataError(f"No file '{given}'.{_nearest_file(path)}")
    for path in found:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty (0 bytes): expected text. Remove it from the inputs.")
    return found


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" Its folder '{path.parent}' does not exist either."
    return nearest(path.name, (other.name for other in path.parent.iterdir()))


def _folder_files(folder: Path, input_format: InputFormat) -> list[Path]:
    """Return the files in a folder whose names fit the format; hidden ones are left out."""
    there = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(p[0] == "." for p in path.relative_to(folder).parts)
    ]
    found = sorted(
        path
        for path in there
        if (formats := _formats_by_name(path)) and input_format in ("auto", *formats)
    )
    if not found:
        known = [end for end, formats in SUFFIXES.items() if input_format in ("auto", *formats)]
        raise DataError(
            f"Folder '{folder}' holds no {' or '.join(known)} file (packed as .gz or .zst, or "
            f"not). Name the files, or a pattern such as '{folder}/*'."
        )
    if len(found) < len(there):
        log.info("%s: %d files of other names are left out.", folder, len(there) - len(found))
    return found


def _formats_by_name(path: Path) -> tuple[Format, ...]:
    """Return the formats that a file's name allows; none for a name that tells nothing."""
    suffix = path.suffix.lower()
    if suffix in ARCHIVES:
        suffix = Path(path.stem).suffix.lower() or ".txt"
    return SUFFIXES.get(suffix, ())


def _file_sources(
    files: Sequence[Path],
    input_format: InputFormat,
    text_column: str | None,
    document_unit: DocumentUnit,
) -> list[Source]:
    sources = []
    packed = {path: find_compression(path) for path in files}
    formats: dict[Path, Format] = (
        _choose_formats(packed) if input_format == "auto" else dict.fromkeys(packed, input_format)
    )
    for path, compression in packed.items():
        form = formats[path]
        state = path.stat()
        source = Source(
            str(path), form, compression, state.st_size, state.st_mtime_ns, "", document_unit
        )
        if form == "parquet" and compression != "none":
            raise DataError(
                f"{path}: a parquet file packed with {compression} cannot be read. Unpack it; "
                "parquet packs its columns itself."
            )
        if form not in ("lines", "text"):
            column = find_text_column(source, text_column)
            source = dataclasses.replace(source, text_column=column)
        sources.append(source)
    return sources


def _choose_formats(packed: Mapping[Path, Compression]) -> dict[Path, Format]:
    """Return the format of each file, by its name or else by its first lines, and log why."""
    named = {path: _formats_by_name(path) for path in packed}
    unclear = [path for path in packed if len(named[path]) != 1]
    looked = _look_at(unclear, packed)
    verdicts = {
        path: looked[path] if path in looked else (named[path][0], "so says its name")
        for path in packed
    }
    _log_verdicts(verdicts)
    return {path: form for path, (form, _) in verdicts.items()}


def _look_at(paths: Sequence[Path], packed: Mapping[Path, Compression]) -> dict[Path, Verdict]:
    """Return verdicts on text files; of very many alike, only a sample of them is looked at."""
    probe = paths[:: -(-len(paths) // SAMPLE_FILES)] if paths else []
    looked = {path: _look(path, packed[path]) for path in probe}
    forms = {form for form, _ in looked.values()}
    if len(forms) == 1:
        why = f"so are {len(probe)} of the {len(paths)} text files, evenly drawn"
        alike: Verdict = (forms.pop(), why)
        return {path: looked.get(path, alike) for path in paths}
    return {path: looked.get(path) or _look(path, packed[path]) for path in paths}


def _look(path: Path, compression: Compression) -> Verdict:
    source = Source(str(path), "text", compression, 0, 0, "", "file")
    try:
        with open_source(source) as file:
            # A whole line at the end, as far as there is one: cut characters count as damage.
            sample = file.read(SAMPLE_BYTES) + file.readline(SAMPLE_BYTES)
    except (EOFError, zlib.error, OSError):
        return "lines", "it cannot be looked at"  # Reading it says what is wrong.
    text = sample.decode("utf-8", errors="replace").removeprefix("\ufeff")
    return guess_format([line.rstrip("\r") for line in text.split("\n")])


def _log_verdicts(verdicts: Mapping[Path, tuple[Format, str]]) -> None:
    """Log each verdict, or for many files one of each kind and how many there are of it."""
    kinds = Counter(form for form, _ in verdicts.values())
    shown: set[str] = set()
    for path, (form, why) in verdicts.items():
        if len(verdicts) <= MOST_VERDICTS or form not in shown:
            log.info("%s is read as '%s': %s (input_format sets it).", path, form, why)
        shown.add(form)
    if len(verdicts) > MOST_VERDICTS:
        counts = ", ".join(f"{count} as '{form}'" for form, count in kinds.most_common())
        log.info("%d files are read: %s.", len(verdicts), counts)


def split_source(source: Source, part_bytes: int) -> list[SourcePart]:
    """Return the parts of a source, each of about ``part_bytes`` where it can be cut.

    Every document belongs to one part, the one in which it begins. Uncompressed ``lines`` and
    ``jsonl`` can be cut anywhere, parquet between row groups, and data sets of the Hub between
    their shards; anything else is one part.
    """
    if part_bytes < 1:
        raise ConfigError(f"part_bytes {part_bytes}: expected 1 or more.")
    if source.splits_at_bytes:
        starts = list(range(0, source.size, part_bytes))
        return _parts(source, [*starts, source.size])
    if source.format == "parquet":
        borders, filled = [0], 0
        sizes = parquet_group_sizes(source)
        for index, size in enumerate(sizes):
            if filled and filled + size > part_bytes:
                borders.append(index)
                filled = 0
            filled += size
        return _parts(source, [*borders, len(sizes)])
    if source.format == "hub":
        return _parts(source, list(range(count_hub_shards(source) + 1)))
    return [SourcePart(source, 0, 1)]


def _parts(source: Source, borders: Sequence[int]) -> list[SourcePart]:
    return [SourcePart(source, *pair) for pair in itertools.pairwise(borders)]


def read_part(part: SourcePart) -> Iterator[Document]:
    """Yield the documents of a part as a stream, one of them in memory at a time.

    Rows of a table whose text is empty are left out.

    Raises:
        DataError: text that is no text, a damaged file, a row without text: by file and line; or
            nothing but blanks in a file that is read as a whole.
    """
    count = 0
    for document in READERS[part.source.format](part):
        if document.sentences:
            count += 1
            yield document
    if not count and _is_whole(part):
        what = "rows without text" if part.source.text_column else "blank lines"
        raise DataError(
            f"{part.source.name} holds only {what}: expected text. Remove it from the inputs."
        )


def _is_whole(part: SourcePart) -> bool:
    source = part.source
    if source.format == "parquet":
        return part.stop - part.start == len(parquet_group_sizes(source))
    if source.splits_at_bytes:
        return part.start == 0 and part.stop >= source.size
    return source.format != "hub"


def read_source(source: Source) -> Iterator[Document]:
    """Yield the documents of a whole source in order; errors as for `read_part`."""
    for part in split_source(source, max(source.size, 1) if source.splits_at_bytes else 1 << 62):
        yield from read_part(part)
