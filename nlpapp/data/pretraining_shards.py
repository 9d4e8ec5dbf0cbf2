"""Pretraining data on disk: write it, and go on after a kill.

    corpus text put aside -> plan -> one parquet shard after the other -> manifest.json

A shard gets its name when it is whole, and a record in ``unfinished/``; manifest.json comes last,
so a folder with a manifest is complete. Making it again with the same options and inputs builds
only what is missing or damaged.
"""

import contextlib
import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from nlpapp.data.corpus_plan import BLOCK_BYTES, CorpusPlan, ShardPlan
from nlpapp.data.corpus_text import (
    CorpusText,
    TextContext,
    TextOptions,
    locate,
    plan_reading,
    put_text_aside,
)
from nlpapp.data.manifest import FORMAT, MANIFEST, UNFINISHED, write_manifest
from nlpapp.data.pretraining_instances import PretrainingOptions, SpecialIds
from nlpapp.data.shard_tasks import ShardContext, write_shard
from nlpapp.data.task_pool import TaskPool
from nlpapp.disk import damage, disk_errors, file_sha256, read_json, write_json
from nlpapp.errors import ConfigError, DataError
from nlpapp.text.sources import Source
from nlpapp.text.word_encoding import plain_encoder
from nlpapp.text.wordpiece import fingerprint
from nlpapp.text.words import word_marker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def write_pretraining_data(
    folder: str | Path,
    *,
    sources: Sequence[Source],
    tokenizer: "PreTrainedTokenizerBase",
    options: PretrainingOptions,
    text_options: TextOptions | None = None,
    user_dictionary: str | None = None,
    pool: TaskPool | None = None,
    text_folder: str | Path | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, Any]:
    """Write shards and manifest of ``sources`` to ``folder``; finished sound shards are kept.

    Args:
        folder: of the data set.
        sources: what `nlpapp.text.sources.find_sources` found.
        tokenizer: turns text into ids.
        options: what is made.
        text_options: which documents are used.
        user_dictionary: words of text without blanks, for ``options.segmenter``.
        pool: who makes it; None: this process.
        text_folder: where the text lies in between, to make several data sets of it; None: in
            ``folder``, and gone at the end.
        block_bytes: text that instances are made of at once.

    Returns:
        The manifest.

    Raises:
        ConfigError: the folder holds data of other options, or they do not fit the tokenizer.
        DataError: bad input, text that gives no instance, a corpus of one document with
            next-sentence prediction, a full disk.
    """
    folder = Path(folder)
    pool = pool or TaskPool(workers=1)
    pool.start(write_shard)
    text_options = text_options or TextOptions()
    special = SpecialIds.of(tokenizer, options)
    marker = word_marker(tokenizer, segmenter=options.segmenter, user_dictionary=user_dictionary)
    identity = _identity(sources, tokenizer, options, text_options, user_dictionary, block_bytes)
    manifest = refuse_other_data(folder, identity)
    if manifest is not None and is_complete(folder, manifest, sources):
        log.info("%s is complete already.", folder)
        return manifest
    corpus = prepare_text(text_folder or folder / UNFINISHED / "text", sources, text_options, pool)
    if options.objective == "nsp" and corpus.distinct_documents() < 2:
        raise _one_document(corpus)
    identity["content"] = corpus.content
    with disk_errors(folder, "Nothing is lost"):
        (folder / UNFINISHED).mkdir(parents=True, exist_ok=True)
        records = _kept_records(folder, identity)
        write_json(folder / UNFINISHED / "identity.json", identity)
    plan = CorpusPlan(
        corpus,
        seed=options.seed,
        drop_duplicates=text_options.drop_duplicates,
        block_bytes=block_bytes,
    )
    context = ShardContext(
        folder=str(folder),
        text_folder=corpus.folder,
        tokenizer=plain_encoder(tokenizer).to_str(),
        special=special,
        options=options,
        marker=marker,
    )
    _make_shards(plan, context, records, pool)
    if not any(record["counts"]["instances"] for record in records.values()):
        raise _no_instance(corpus, options)
    counts = {"counts": _input_counts(corpus, text_options)}
    with disk_errors(folder, "The finished shards are kept"):
        manifest = write_manifest(folder, identity | counts, [records[i] for i in range(len(plan))])
        shutil.rmtree(folder / UNFINISHED)
    return manifest


def _identity(
    sources: Sequence[Source],
    tokenizer: "PreTrainedTokenizerBase",
    options: PretrainingOptions,
    text_options: TextOptions,
    user_dictionary: str | None,
    block_bytes: int,
) -> dict[str, Any]:
    """Return what decides on the data, as far as it is known before the text is read."""
    reading = {(source.text_column, source.document_unit) for source in sources}
    more = {
        "max_predictions_per_seq": options.masking_options().max_predictions,
        "block_bytes": block_bytes,
        "text_column": sorted(column for column, _ in reading)[0],
        "document_unit": sorted(unit for _, unit in reading)[0],
        "user_dictionary": user_dictionary and file_sha256(Path(user_dictionary)),
    }
    return {
        "format": FORMAT,
        "options": dataclasses.asdict(options) | dataclasses.asdict(text_options) | more,
        "tokenizer_fingerprint": fingerprint(tokenizer),
        "sources": describe_sources(sources),
    }


def _make_shards(
    plan: CorpusPlan, context: ShardContext, records: dict[int, dict[str, Any]], pool: TaskPool
) -> None:
    """Make the shards that have no record yet, and add theirs to ``records``."""
    todo = _Todo(plan, [index for index in range(len(plan)) if index not in records])
    if records:
        log.info("%d finished shards of %d are kept.", len(records), len(plan))
    total = int(plan.corpus.bytes[plan.order].sum())
    with (
        disk_errors(Path(context.folder), "The finished shards are kept"),
        _progress("making instances", total, tokens=True) as progress,
    ):
        progress(sum(record["counts"]["text_bytes"] for record in records.values()), 0)
        for place, record in pool.run(write_shard, context, todo, on_progress=progress):
            records[todo.indices[place]] = record


def prepare_text(
    folder: str | Path, sources: Sequence[Source], options: TextOptions, pool: TaskPool
) -> CorpusText:
    """Read ``sources`` and put their text aside in ``folder``; what is there and sound is kept.

    Raises:
        DataError: bad input, no document at all, or a full disk.
    """
    folder = Path(folder)
    range_bytes, tasks = plan_reading(sources)
    with disk_errors(folder, "What was read is kept"):
        folder.mkdir(parents=True, exist_ok=True)
    context = TextContext(folder=str(folder), options=options, range_bytes=range_bytes)
    total = sum(source.size for source in sources)
    if any(
        source.compression != "none" or source.format in ("parquet", "hub") for source in sources
    ):
        total = 0  # The size of the text is not known before it is read.
    with (
        disk_errors(folder, "What was read is kept"),
        _progress("reading", total, tokens=False) as progress,
    ):
        for _ in pool.run(put_text_aside, context, tasks, on_progress=progress):
            pass
    corpus = CorpusText(folder, len(tasks))
    if not corpus.counts["documents_read"]:
        raise DataError(
            f"There is no document in the {len(sources)} input files, only blank lines: expected "
            "text."
        )
    if not len(corpus):
        raise DataError(
            f"All {corpus.counts['documents_read']} documents are shorter than "
            f"min_document_characters ({options.min_document_characters})."
        )
    return corpus


class _Todo(Sequence[ShardPlan]):
    """The shards that are not there yet."""

    def __init__(self, plan: CorpusPlan, indices: list[int]) -> None:
        self.plan = plan
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index):
        return self.plan[self.indices[index]]


def _one_document(corpus: CorpusText) -> DataError:
    source, line = locate(corpus.folder, int(corpus.task[0]), int(corpus.first[0]))
    count = int(corpus.documents.sum())
    what = "is one document" if count == 1 else f"is {count} times the same document"
    return DataError(
        f"The corpus {what} ({source}, line {line}): next-sentence prediction draws its random "
        "sentences from another document. Put a blank line between documents, add other files, or "
        "make data with objective: sop or none."
    )


def _no_instance(corpus: CorpusText, options: PretrainingOptions) -> DataError:
    source, line = locate(corpus.folder, int(corpus.task[0]), int(corpus.first[0]))
    fewest = "two tokens for a pair" if options.pairs else "a token"
    return DataError(
        f"None of the {int(corpus.documents.sum())} documents has {fewest}, so there is no "
        f"instance to write; the first is {source}, line {line}. Look whether that is the text you "
        "meant, and whether input_format and the tokenizer are for it."
    )


def _input_counts(corpus: CorpusText, options: TextOptions) -> dict[str, int]:
    duplicates = sum(map(len, corpus.duplicates.values()))
    return {
        **corpus.counts,
        "duplicate_documents": duplicates,
        "dropped_documents_duplicate": duplicates if options.drop_duplicates else 0,
        "dropped_sentences_duplicate": (
            corpus.duplicate_sentences() if options.drop_duplicates else 0
        ),
    }


def refuse_other_data(folder: str | Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of complete data of the same options and sources, or None.

    The content of the sources is compared by their sizes here, and for good when they are read.

    Raises:
        ConfigError: the folder holds data of other options, sources or tokenizer.
    """
    folder = Path(folder)
    manifest = read_json(folder / MANIFEST)
    known = manifest or read_json(folder / UNFINISHED / "identity.json")
    if known is None:
        return None
    now = json.loads(json.dumps(identity))
    different = [
        f"{key}: {known.get(key)!r} there, {now[key]!r} now"
        for key in ("format", "tokenizer_fingerprint")
        if known.get(key) != now[key]
    ]
    options = known.get("options", {})
    for key in sorted(options.keys() | now["options"].keys()):
        if options.get(key) != now["options"].get(key):
            there, here = options.get(key), now["options"].get(key)
            different.append(f"{key}: {there!r} there, {here!r} now")
    sizes = [
        [(source["bytes"], source["format"]) for source in side.get("sources", [])]
        for side in (known, now)
    ]
    contents = known.get("content"), now.get("content")
    if sizes[0] != sizes[1] or (None not in contents and contents[0] != contents[1]):
        different.append("the content of the input files")
    if different:
        raise ConfigError(
            f"{folder} holds other pretraining data; different: {'; '.join(different)}. "
            "Give another output_dir, or remove that folder."
        )
    return manifest


def is_complete(folder: str | Path, manifest: Mapping[str, Any], sources: Sequence[Source]) -> bool:
    """Tell whether every shard is as it was written, and every source as old as it was then."""
    for record in manifest["shards"]:
        problem = damage(Path(folder) / record["file"], record["sha256"])
        if problem is not None:
            log.warning("%s is %s and is built again.", Path(folder) / record["file"], problem)
            return False
    return manifest["sources"] == describe_sources(sources)


def describe_sources(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return what the manifest says of the sources."""
    return [
        {
            "file": source.name,
            "bytes": source.size,
            "modified": source.modified,
            "format": source.format,
            "compression": source.compression,
        }
        for source in sources
    ]


def _kept_records(folder: Path, identity: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the records of finished sound shards; other content than theirs is refused."""
    refuse_other_data(folder, identity)
    work = folder / UNFINISHED
    for path in [*folder.glob("*.partial"), *work.glob("*.partial")]:
        path.unlink()  # Of a run that was killed.
    manifest = read_json(folder / MANIFEST)
    if manifest is not None:
        found = dict(enumerate(manifest["shards"]))
        # The histogram of lengths is the one thing that the manifest does not keep by shard.
        found = {
            i: {**r, "lengths": _lengths(folder / r["file"])}
            for i, r in found.items()
            if damage(folder / r["file"], r["sha256"]) is None
        }
        return found
    records = {int(path.stem.split("-")[1]): read_json(path) for path in work.glob("shard-*.json")}
    return {
        index: record
        for index, record in records.items()
        if record and damage(folder / record["file"], record["sha256"]) is None
    }


def _lengths(path: Path) -> list[int]:
    column = pq.read_table(path, columns=["input_ids"]).column("input_ids")
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks]
    return np.bincount(np.concatenate(lengths)).tolist() if lengths else []


@contextlib.contextmanager
def _progress(what: str, total: int, *, tokens: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of bytes, with the rate and the time left, and the tokens per second."""
    done = 0
    with tqdm(total=total or None, desc=what, unit="B", unit_scale=True) as bar:

        def on_progress(num_bytes: int, num_tokens: int) -> None:
            nonlocal done
            done += num_tokens
            if tokens and bar.format_dict["elapsed"] > 0:
                rate = done / bar.format_dict["elapsed"]
                bar.set_postfix_str(f"{rate / 1e6:.2f} M tokens/s", refresh=False)
            bar.update(num_bytes if not total else min(num_bytes, total - bar.n))

        yield on_progress
