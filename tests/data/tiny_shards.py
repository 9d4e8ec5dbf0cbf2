"""Pretraining data folders of random instances, written with pyarrow alone."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nlpapp.data.manifest import shard_name, write_manifest

TYPES = {
    "input_ids": pa.list_(pa.uint16()),
    "token_type_ids": pa.list_(pa.uint8()),
    "masked_lm_positions": pa.list_(pa.uint16()),
    "masked_lm_inputs": pa.list_(pa.uint16()),
    "word_continues": pa.list_(pa.bool_()),
    "next_sentence_label": pa.uint8(),
    "sentence_order_label": pa.uint8(),
}
PLAIN = ("input_ids", "token_type_ids")
NSP = (*PLAIN, "masked_lm_positions", "masked_lm_ids", "next_sentence_label")
SOP = (*PLAIN, "word_continues", "sentence_order_label")


def random_rows(count, columns=NSP, *, seed=0, longest=40):
    """Return ``count`` instances as dictionaries of plain lists."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(rng.integers(5, longest + 1))
        row = {
            "input_ids": rng.integers(5, 60_000, length).tolist(),
            "token_type_ids": sorted(rng.integers(0, 2, length).tolist()),
            "masked_lm_positions": sorted(rng.permutation(length)[: length // 5].tolist()),
            "masked_lm_ids": rng.integers(5, 60_000, length // 5).tolist(),
            "word_continues": (rng.random(length) < 0.3).tolist(),
            "next_sentence_label": int(rng.integers(2)),
            "sentence_order_label": int(rng.integers(2)),
        }
        rows.append({name: row[name] for name in columns})
    return rows


def as_stored(row):
    """Return an instance as shards hold it: without masks, and what the model sees beside it."""
    row = {**row, "input_ids": [*row["input_ids"]], "masked_lm_inputs": []}
    for position, original in zip(
        row["masked_lm_positions"], row.pop("masked_lm_ids"), strict=True
    ):
        row["masked_lm_inputs"].append(row["input_ids"][position])
        row["input_ids"][position] = original
    return row


def as_table(rows, columns=NSP, types=None):
    types = TYPES | (types or {})
    if "masked_lm_ids" in columns:
        rows = [as_stored(row) for row in rows]
    stored = [name.replace("masked_lm_ids", "masked_lm_inputs") for name in columns]
    schema = pa.schema([(name, types[name]) for name in stored])
    return pa.Table.from_pylist(rows, schema=schema)


def write_folder(folder, tables, **writing):
    """Write one shard for each table, and the manifest; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index, table in enumerate(tables):
        path = folder / shard_name(index, len(tables))
        pq.write_table(table, path, **({"compression": "zstd"} | writing))
        content = path.read_bytes()
        records.append(
            {
                "file": path.name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
                "counts": {"instances": len(table)},
                "lengths": [],
            }
        )
    write_manifest(folder, {"options": {}, "tokenizer_fingerprint": "none"}, records)
    return folder
