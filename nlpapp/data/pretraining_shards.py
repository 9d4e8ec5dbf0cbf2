"""Pretraining data on disk: write it, go on after a kill, read it.

    files -> documents -> blocks of some 8 MB -> one parquet shard each -> manifest.json

A shard is written under another name and renamed when it is whole. Until all are there they lie in
``unfinished/`` with a record each; manifest.json comes last, so a folder with a manifest is
complete. Making it again with the same options builds only what is missing or damaged.
"""

import dataclasses
import errno
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from nlpapp.data.pretraining_data import (
    FORMAT,
    MANIFEST,
    UNFINISHED,
    PretrainingData,
    PretrainingExample,
    damage,
    file_sha256,
)
from nlpapp.data.pretraining_instances import PretrainingOptions, SpecialIds, build_table
from nlpapp.data.token_blocks import plain_encoder, split_blocks, text_bytes, tokenize_block
from nlpapp.errors import ConfigError, DataError
from nlpapp.text.documents import Document, InputFormat, find_files, read_documents
from nlpapp.text.wordpiece import fingerprint

__all__ = ["PretrainingData", "PretrainingExample", "PretrainingOptions", "write_pretraining_data"]

BLOCK_BYTES = 8_000_000
"""Text of one shard. Larger: more memory (some 50 times this), more documents to draw from."""

log = logging.getLogger(__name__)


def write_pretraining_data(
    folder: str | Path,
    *,
    inputs: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    options: PretrainingOptions,
    input_format: InputFormat = "auto",
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, Any]:
    """Write shards and manifest of ``inputs`` to ``folder``; finished sound shards are kept.

    Returns:
        The manifest.

    Raises:
        ConfigError: the folder holds data of other options, or they do not fit the tokenizer.
        DataError: bad input, a corpus of one document with next-sentence prediction, a full disk.
    """
    folder = Path(folder)
    special = SpecialIds.of(tokenizer, options)
    files = find_files(inputs)
    documents = read_documents(inputs, input_format=input_format)
    identity = {
        "format": FORMAT,
        "options": dataclasses.asdict(options)
        | {"input_format": input_format, "block_bytes": block_bytes},
        "tokenizer_fingerprint": fingerprint(tokenizer),
        "sources": [
            {"file": str(path), "bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in files
        ],
    }
    store = _ShardStore(folder, identity)
    encoder = plain_encoder(tokenizer)
    size = sum(path.stat().st_size for path in files)
    first_document = number = 0
    with tqdm(total=size, desc="make-data", unit="B", unit_scale=True) as progress:
        for number, block in enumerate(split_blocks(documents, block_bytes), start=1):
            index = number - 1
            if not store.has(index):
                tokens = tokenize_block(
                    block, encoder, first_document=first_document, longest=options.longest_sentence
                )
                if options.objective == "nsp":
                    _check_distinct(block, alone=number == 1)
                table, counts = build_table(tokens, options, special, index=index)
                counts["sentences"] = sum(len(document.sentences) for document in block)
                counts["text_bytes"] = sum(map(text_bytes, block))
                store.write(index, table, counts)
            first_document += len(block)
            progress.update(min(sum(map(text_bytes, block)), size - progress.n))
        progress.update(size - progress.n)
    return store.publish(number)


def _check_distinct(block: list[Document], *, alone: bool) -> None:
    if len({document.sentences for document in block}) > 1:
        return
    first = block[0]
    what = (
        f"The corpus is one document ({first.source}, {len(first.sentences)} sentences)"
        if len(block) == 1 and alone
        else f"All {len(block)} documents from {first.source}, line {first.line} on are equal"
    )
    raise DataError(
        f"{what}: next-sentence prediction draws its random sentences from another document. Put a "
        "blank line between documents, add other files, or make data with objective: none."
    )


class _ShardStore:
    """The shards of one folder: what is there already, and where new ones go."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        """Open ``folder``, and refuse it if it holds data of another identity."""
        self.folder = folder
        self.work = folder / UNFINISHED
        self.identity = json.loads(json.dumps(identity))
        self.records: dict[int, dict[str, Any]] = {}
        manifest = _read_json(folder / MANIFEST)
        if manifest is not None:
            self._refuse_other(manifest)
            self.work.mkdir(exist_ok=True)
            for index, record in enumerate(manifest["shards"]):
                problem = damage(folder / record["file"], record["sha256"])
                if problem is None:
                    self.records[index] = record
                else:
                    log.warning("%s is %s and is built again.", folder / record["file"], problem)
            return
        known = _read_json(self.work / "identity.json")
        if known is not None:
            self._refuse_other(known)
        self.work.mkdir(parents=True, exist_ok=True)
        self._write_json(self.work / "identity.json", self.identity)
        for path in sorted(self.work.glob("shard-*.json")):
            record = _read_json(path)
            if record and damage(self._current(record), record["sha256"]) is None:
                self.records[int(path.stem.split("-")[1])] = record
        if self.records:
            log.info("%d finished shards are kept.", len(self.records))

    def _refuse_other(self, known: dict[str, Any]) -> None:
        different = []
        for key in ("format", "tokenizer_fingerprint"):
            if known.get(key) != self.identity[key]:
                different.append(f"{key}: {known.get(key)!r} there, {self.identity[key]!r} now")
        there, now = known.get("options", {}), self.identity["options"]
        for key in sorted(there.keys() | now.keys()):
            if there.get(key) != now.get(key):
                different.append(f"{key}: {there.get(key)!r} there, {now.get(key)!r} now")
        contents = [
            [source["sha256"] for source in side.get("sources", [])]
            for side in (known, self.identity)
        ]
        if contents[0] != contents[1]:
            different.append("the content of the input files")
        if different:
            raise ConfigError(
                f"{self.folder} holds other pretraining data; different: {'; '.join(different)}. "
                "Give another output_dir, or remove that folder."
            )

    def _current(self, record: dict[str, Any]) -> Path:
        """Return where the file of a record lies: in the folder, or still among the unfinished."""
        final = self.folder / record["file"]
        return final if final.is_file() else self.work / record["file"]

    def has(self, index: int) -> bool:
        """Tell whether shard ``index`` is there and sound."""
        return index in self.records

    def write(self, index: int, table: pa.Table, counts: Counter[str]) -> None:
        """Write one shard and its record; nothing half-written is left under their names."""
        name = f"shard-{index:05d}.parquet"
        partial = self.work / f"{name}.partial"
        try:
            pq.write_table(table, partial, compression="zstd")
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            record = {"file": name, "sha256": file_sha256(partial), "counts": dict(counts)}
            os.replace(partial, self.work / name)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise self._cannot_write(self.work / name, error) from error
        self._write_json(self.work / f"shard-{index:05d}.json", record)
        self.records[index] = record

    def _write_json(self, path: Path, content: dict[str, Any]) -> None:
        partial = path.with_name(path.name + ".partial")
        try:
            with open(partial, "w", encoding="utf-8") as file:
                file.write(json.dumps(content, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise self._cannot_write(path, error) from error

    def _cannot_write(self, path: Path, error: OSError) -> DataError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else str(error)
        return DataError(
            f"Cannot write {path}: {reason}. The {len(self.records)} finished shards are kept; "
            f"{'make room' if full else 'put it right'} and run the same command again."
        )

    def publish(self, count: int) -> dict[str, Any]:
        """Give the shards their final names, write the manifest, and return it."""
        shards = []
        for index in range(count):
            record = self.records[index]
            final = f"shard-{index:05d}-of-{count:05d}.parquet"
            current = self._current(record)
            if current != self.folder / final:
                os.replace(current, self.folder / final)
            record = record | {"file": final}
            if (self.work / "identity.json").is_file():
                # A kill between two renames: the record must say where the file is now.
                self._write_json(self.work / f"shard-{index:05d}.json", record)
            shards.append(record)
        total: Counter[str] = Counter()
        for record in shards:
            total.update(record["counts"])
        manifest = self.identity | {
            "counts": dict(sorted(total.items())),
            "statistics": statistics(total),
            "shards": shards,
        }
        self._write_json(self.folder / MANIFEST, manifest)
        shutil.rmtree(self.work)
        return manifest


def statistics(counts: Counter[str]) -> dict[str, float]:
    """Return the shares and means that tell whether data is as it should be."""
    instances, tokens = max(counts["instances"], 1), max(counts["instance_tokens"], 1)
    return {
        "next_sentence_random_share": counts["random_next"] / instances,
        "mask_rate": counts["masked_tokens"] / tokens,
        "mean_length": counts["instance_tokens"] / instances,
        "unknown_rate": counts["unknown_tokens"] / max(counts["tokens"], 1),
        "truncated_rate": counts["truncated_tokens"] / tokens,
    }


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError):
        log.warning("%s is damaged and is not used.", path)
        return None


def sound(folder: str | Path) -> bool:
    """Tell whether ``folder`` is complete and every shard of it is as it was written."""
    manifest = _read_json(Path(folder) / MANIFEST)
    return manifest is not None and all(
        damage(Path(folder) / record["file"], record["sha256"]) is None
        for record in manifest["shards"]
    )
