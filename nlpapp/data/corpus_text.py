"""Sources to plain text put aside: the first half of make-data, the same for every input format.

    sources -> documents -> ranges of some 128 kB -> zstd frames, which can be read in any order

Reading, decompressing and sentence splitting happen here, once, in parallel over parts of the
sources. What follows knows neither files nor formats, and can take text from all over the corpus.
A long document is cut into slices, each a range of its own, so that nothing depends on how long
documents are.

Each task leaves three files: its frames, a table of its documents, and a record, written last.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import struct
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import zstandard

from nlpapp.disk import (
    damage,
    disk_errors,
    file_sha256,
    read_json,
    write_json,
    written_whole,
)
from nlpapp.text.documents import Document
from nlpapp.text.sources import Source, SourcePart, read_part, split_source

SMALLEST_RANGE, LARGEST_RANGE = 128_000, 500_000
"""Text of a range, in bytes: small ones mix better, large ones keep the index of a web small."""
MOST_RANGES = 65_536
"""Ranges are small as long as there are no more than these."""
SMALLEST_TASK = 4_000_000
"""Bytes of the sources that are read in one task, at least."""
MOST_TASKS = 1024

DOCUMENTS = np.dtype(
    [("digest", "<u8", 2), ("part", "<u4"), ("sentences", "<u4"), ("place", "<u8")]
)
"""What is kept of each document: its hash, the part it is from, the number of its sentences, and
its place in that part."""
_PLACE = struct.Struct("<IIQ")
"""The end of a row of these."""

REPORTED_AT_ONCE = 1_000_000
HASHES_AT_ONCE = 4_000_000
"""Documents whose hashes are compared at once."""

Report = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """What is done with documents before anything else; stored in the manifest."""

    min_document_characters: int = 0
    """Shorter documents are dropped."""
    drop_duplicates: bool = False
    """Of documents with the same text, keep the first."""


@dataclass(frozen=True, kw_only=True)
class TextContext:
    """What every task of reading has to know."""

    folder: str
    options: TextOptions
    range_bytes: int


@dataclass(frozen=True, kw_only=True)
class TextTask:
    """Parts of sources that are read by one worker."""

    index: int
    parts: tuple[SourcePart, ...]


def plan_reading(sources: Sequence[Source]) -> tuple[int, list[TextTask]]:
    """Return the bytes of a range, and the tasks: both follow from the sources alone."""
    total = sum(source.size for source in sources)
    range_bytes = min(max(total // MOST_RANGES, SMALLEST_RANGE), LARGEST_RANGE)
    task_bytes = max(total // MOST_TASKS, SMALLEST_TASK)
    groups: list[list[SourcePart]] = []
    room = 0
    for source in sources:
        for part in split_source(source, task_bytes):
            whole = part.source.format in ("lines", "jsonl") and source.compression == "none"
            size = part.stop - part.start if whole else source.size
            if not groups or size > room or source.format == "hub":
                groups.append([])
                room = task_bytes
            groups[-1].append(part)
            room -= size
    return range_bytes, [TextTask(index=i, parts=tuple(g)) for i, g in enumerate(groups)]


def put_text_aside(context: TextContext, task: TextTask, report: Report) -> None:
    """Read the documents of ``task``, and write its files.

    Those of an earlier run are kept if they are sound and the sources as they were.
    """
    known = read_json(_path(context.folder, task.index, "json"))
    if known is not None and _is_current(known, context, task):
        report(known["counts"].get("text_bytes_read", 0), 0)
        return
    paths = {name: _path(context.folder, task.index, name) for name in ("zst", "documents")}
    with disk_errors(context.folder, "What was read is kept"):
        with written_whole(paths["zst"]) as file:
            writer = _RangeWriter(context, file)
            for number, part in enumerate(task.parts):
                for place, document in enumerate(read_part(part)):
                    writer.add(document, number, place, report)
            writer.close_range()
            report(writer.unreported, 0)
        documents = np.frombuffer(writer.documents, dtype=DOCUMENTS)
        with written_whole(paths["documents"]) as file:
            file.write(documents.tobytes())
        digests = np.ascontiguousarray(documents["digest"]).tobytes()
        record = {
            **_described(context, task),
            "counts": dict(writer.counts),
            "content": hashlib.sha256(digests).hexdigest(),
            "sha256": {name: file_sha256(path) for name, path in paths.items()},
            "ranges": writer.ranges,
        }
        write_json(_path(context.folder, task.index, "json"), record)


def _is_current(record: dict[str, Any], context: TextContext, task: TextTask) -> bool:
    described = _described(context, task)
    return {name: record.get(name) for name in described} == described and all(
        damage(_path(context.folder, task.index, suffix), sha256) is None
        for suffix, sha256 in record["sha256"].items()
    )


def _described(context: TextContext, task: TextTask) -> dict[str, Any]:
    """Return, as JSON has it, all that the text put aside by a task depends on."""
    described: dict[str, Any] = json.loads(
        json.dumps(
            {
                "options": dataclasses.asdict(context.options),
                "range_bytes": context.range_bytes,
                "parts": [dataclasses.asdict(part) for part in task.parts],
            }
        )
    )
    return described


def _path(folder: str | Path, index: int, suffix: str) -> Path:
    return Path(folder) / f"text-{index:05d}.{suffix}"


class _RangeWriter:
    """Gathers documents into ranges, and writes each, compressed, as soon as it is full."""

    def __init__(self, context: TextContext, file: BinaryIO) -> None:
        self.context = context
        self.file = file
        self.counts: Counter[str] = Counter()
        self.ranges: list[dict[str, Any]] = []
        self.documents = bytearray()
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.held: list[bytes] = []
        self.held_bytes = 0
        self.unreported = 0

    def add(self, document: Document, part: int, place: int, report: Report) -> None:
        """Take one document, or drop it."""
        text = "\n".join(document.sentences).encode() + b"\n\n"
        self.counts["documents_read"] += 1
        self.counts["sentences_read"] += len(document.sentences)
        self.counts["text_bytes_read"] += len(text)
        self.unreported += len(text)
        if self.unreported > REPORTED_AT_ONCE:
            report(self.unreported, 0)
            self.unreported = 0
        shortest = self.context.options.min_document_characters
        if shortest and sum(map(len, document.sentences)) < shortest:
            self.counts["dropped_documents_short"] += 1
            self.counts["dropped_sentences_short"] += len(document.sentences)
            return
        long = len(text) > self.context.range_bytes
        if long:
            self.close_range()
        digest = hashlib.blake2b(text, digest_size=16).digest()
        self.documents += digest + _PLACE.pack(part, len(document.sentences), place)
        if long:
            for order, piece in enumerate(_slices(text, self.context.range_bytes)):
                self._store(piece, documents=int(order == 0), document=digest.hex())
            return
        self.held.append(text)
        self.held_bytes += len(text)
        if self.held_bytes >= self.context.range_bytes:
            self.close_range()

    def close_range(self) -> None:
        """Write the documents that are held."""
        if self.held:
            self._store(b"".join(self.held), documents=len(self.held), document=None)
            self.held, self.held_bytes = [], 0

    def _store(self, text: bytes, *, documents: int, document: str | None) -> None:
        frame = self.compressor.compress(text)
        num_documents = len(self.documents) // DOCUMENTS.itemsize
        self.ranges.append(
            {
                "offset": self.file.tell(),
                "stored": len(frame),
                "bytes": len(text),
                "first": num_documents - max(documents, 1),
                "documents": documents,
                "document": document,
            }
        )
        self.file.write(frame)


def _slices(text: bytes, size: int) -> Iterator[bytes]:
    """Cut one document into slices of whole lines, of ``size`` bytes or a little more."""
    start, end = 0, len(text) - 1  # Without the empty line that ends the document.
    while start < end:
        stop = text.find(b"\n", start + size) + 1
        # What is left over is not worth a slice of its own.
        if not stop or end - stop < size // 2:
            stop = end
        yield text[start:stop] + b"\n"
        start = stop


class CorpusText:
    """The text put aside by all tasks: its ranges, by number."""

    def __init__(self, folder: str | Path, num_tasks: int) -> None:
        """Index what `put_text_aside` left in ``folder``, a task at a time."""
        self.folder = str(folder)
        self.num_tasks = num_tasks
        self.counts: Counter[str] = Counter()
        digest = hashlib.sha256()
        rows = array("q")
        groups: dict[str, int] = {}
        for task in range(num_tasks):
            record = _read_record(self.folder, task)
            self.counts.update(record["counts"])
            digest.update(record["content"].encode())
            for order, entry in enumerate(record["ranges"]):
                group = -1
                if entry["document"] is not None or entry["documents"] == 1:
                    group = groups.setdefault(entry["document"] or f"{task} {order}", len(groups))
                values = (entry["bytes"], entry["first"], entry["documents"])
                rows.extend((task, order, group, *values))
        self.content = digest.hexdigest()
        """sha256 of all documents in their order."""
        columns = np.frombuffer(rows, dtype=np.int64).reshape(-1, 6).T
        self.task, self.order, self.group, self.bytes, self.first, self.documents = columns
        """For each range: its task and its number there; the number of the one document that it is,
        or is a slice of, or -1; its size; the number of its first document; how many begin here."""

    def __len__(self) -> int:
        """Return the number of ranges."""
        return len(self.task)

    def distinct_documents(self) -> int:
        """Return the number of documents with different texts."""
        return int(self.documents.sum()) - sum(map(len, self.duplicates.values()))

    def duplicate_sentences(self) -> int:
        """Return the number of sentences in documents whose text came before."""
        return sum(
            int(document_table(self.folder, task)["sentences"][numbers].sum(dtype=np.int64))
            for task, numbers in self.duplicates.items()
        )

    @functools.cached_property
    def duplicates(self) -> dict[int, np.ndarray]:
        """For each task, the numbers of its documents whose text came before; int64, ascending.

        Only the hashes of one part of all documents are in memory at a time.
        """
        total = int(self.documents.sum())
        buckets = 1 + total // HASHES_AT_ONCE
        found: dict[int, list[np.ndarray]] = {}
        for bucket in range(buckets):
            keys, places = [], []
            for task in range(self.num_tasks):
                digests = document_table(self.folder, task)["digest"]
                chosen = np.flatnonzero(digests[:, 0] % buckets == bucket)
                keys.append(digests[chosen])
                places.append(np.stack([np.full(len(chosen), task), chosen], axis=1))
            key, place = np.concatenate(keys), np.concatenate(places)
            # A stable sort: of equal ones the first of the corpus comes first.
            order = np.lexsort((key[:, 1], key[:, 0]))
            again = (key[order][1:] == key[order][:-1]).all(axis=1)
            for task, number in place[np.sort(order[1:][again])]:
                found.setdefault(int(task), []).append(number)
        return {task: np.sort(np.array(numbers)) for task, numbers in found.items()}


def document_table(folder: str | Path, task: int) -> np.ndarray:
    """Return what is kept of each document of a task, as `DOCUMENTS`."""
    return np.fromfile(_path(folder, task, "documents"), dtype=DOCUMENTS)


def _read_record(folder: str, task: int) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(_path(folder, task, "json").read_text(encoding="utf-8"))
    return record


# A worker takes ranges from all over the corpus; its records are small beside its blocks.
_record = functools.lru_cache(maxsize=64)(_read_record)


def read_range(folder: str, task: int, order: int) -> tuple[bytes, str | None]:
    """Return the text of a range, and the identity of the document that it is a slice of."""
    entry = _record(folder, task)["ranges"][order]
    with open(_path(folder, task, "zst"), "rb") as file:
        file.seek(entry["offset"])
        frame = file.read(entry["stored"])
    return zstandard.ZstdDecompressor().decompress(frame), entry["document"]


def locate(folder: str, task: int, number: int) -> tuple[str, int]:
    """Return the source and the line at which a document of a task begins.

    Its part is read once more: this is for error messages.
    """
    row = document_table(folder, task)[number]
    described = _record(folder, task)["parts"][int(row["part"])]
    part = SourcePart(**described | {"source": Source(**described["source"])})
    document = next(itertools.islice(read_part(part), int(row["place"]), None))
    return document.source, document.line
