"""Shards as flat arrays: the same values, in the types of the shards, a few rows at a time."""

import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nlpapp.data import pretraining_arrays
from nlpapp.data.pretraining_arrays import ArrayFiles, are_complete, map_arrays
from nlpapp.data.shard_tasks import PAGE_BYTES, shard_writer
from nlpapp.errors import DataError
from tests.conftest import REPOSITORY
from tests.data.tiny_shards import NSP, PLAIN, SOP, TYPES, as_table, random_rows


def flatten(folder, tables, **writing):
    """Write the tables as shards, lay them out as arrays, and return those."""
    folder.mkdir(exist_ok=True)
    with ArrayFiles(folder) as arrays:
        for index, table in enumerate(tables):
            pq.write_table(table, folder / f"{index}.parquet", **writing)
            arrays.append_shard(folder / f"{index}.parquet")
    assert are_complete(folder, arrays.sizes)
    return map_arrays(folder, arrays.sizes)


@pytest.mark.parametrize("columns", [NSP, SOP, PLAIN])
@pytest.mark.parametrize(
    "writing", [{}, {"row_group_size": 7}, {"compression": "zstd", "data_page_size": 64}]
)
def test_all_values_in_order_across_shards_and_row_groups(tmp_path, monkeypatch, columns, writing):
    monkeypatch.setattr(pretraining_arrays, "ROWS_AT_ONCE", 5)
    rows = random_rows(53, columns)
    # Slices: their lists do not begin at 0 of the values.
    table = as_table(rows, columns)
    arrays = flatten(tmp_path, [table[:20], table[20:21], table[21:21], table[21:]], **writing)
    joined = {"token_offsets": "input_ids", "prediction_offsets": "masked_lm_ids"}
    for name in columns:
        values = [row[name] for row in rows]
        expected = sum(values, []) if isinstance(values[0], list) else values
        assert arrays[name].tolist() == expected, name
    for name, column in joined.items():
        if column in columns:
            lengths = [len(row[column]) for row in rows]
            assert arrays[name].tolist() == [sum(lengths[:index]) for index in range(54)]
    assert arrays["lengths"].tolist() == [len(row["input_ids"]) for row in rows]
    assert len(arrays) == len(columns) + 2 + ("masked_lm_ids" in columns)


def test_types_are_those_of_the_shards(tmp_path):
    wide = {"input_ids": pa.large_list(pa.uint32())}
    arrays = flatten(tmp_path / "a", [as_table(random_rows(3, SOP), SOP, wide)])
    found = {name: array.dtype for name, array in arrays.items()}
    assert found == {
        "token_offsets": np.int64,
        "lengths": np.int64,
        "input_ids": np.uint32,
        "token_type_ids": np.uint8,
        "word_continues": np.bool_,
        "sentence_order_label": np.uint8,
    }


@pytest.mark.parametrize("columns", [NSP, SOP])
def test_what_make_data_writes_is_read(tmp_path, columns):
    rows = random_rows(30, columns)
    table = as_table(rows, columns)
    with shard_writer(tmp_path / "shard", table.schema) as writer:
        writer.write_table(table)
    with ArrayFiles(tmp_path) as files:
        files.append_shard(tmp_path / "shard")
    arrays = map_arrays(tmp_path, files.sizes)
    for name in columns:
        values = [row[name] for row in rows]
        assert arrays[name].tolist() == (sum(values, []) if "label" not in name else values), name


def test_arrays_are_mapped_and_read_only(tmp_path):
    arrays = flatten(tmp_path, [as_table(random_rows(3))])
    for array in arrays.values():
        assert isinstance(array.base, np.memmap) and not array.flags.writeable


def test_no_shards_are_empty_arrays(tmp_path):
    arrays = flatten(tmp_path, [])
    assert arrays["token_offsets"].tolist() == [0] and not len(arrays["lengths"])
    assert not len(arrays["input_ids"]) and not len(arrays["token_type_ids"])


PROGRAM = """
import sys
from pathlib import Path
import pyarrow as pa
from nlpapp.data.pretraining_arrays import ArrayFiles
folder = Path(sys.argv[1])
with ArrayFiles(folder) as arrays:
    arrays.append_shard(folder / "shard")
print(pa.default_memory_pool().max_memory())
"""


def test_memory_is_that_of_some_rows(tmp_path):
    """Arrow holds a page and its ids in memory, not a shard, even if it is one row group."""
    count, length = 120_000, 100
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * length)
    ids = np.random.default_rng(0).integers(0, 60_000, count * length).astype(np.uint16)
    columns = {
        "input_ids": pa.ListArray.from_arrays(offsets, pa.array(ids)),
        "token_type_ids": pa.ListArray.from_arrays(offsets, pa.array((ids % 2).astype(np.uint8))),
    }
    table = pa.table(columns)
    with shard_writer(tmp_path / "shard", table.schema) as writer:
        writer.write_table(table)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    # In 32 bits each, the ids fill three pages.
    assert 4 * ids.size > 2.8 * PAGE_BYTES and 0 < int(result.stdout) < 1.5 * PAGE_BYTES
    assert np.array_equal(np.fromfile(tmp_path / "input_ids", np.uint16), ids)


def test_incomplete_arrays_are_seen(tmp_path):
    with ArrayFiles(tmp_path) as arrays:
        pass
    assert are_complete(tmp_path, arrays.sizes)
    for sizes in (None, {}, [], {"lengths": 3}, {"lengths": ["<i8", 1]}, {"lengths": ["?!", 0]}):
        assert not are_complete(tmp_path, sizes), sizes
    (tmp_path / "lengths").unlink()
    assert not are_complete(tmp_path, arrays.sizes)


def outside(table):
    """Return ``table`` with a position that is the length of its row."""
    lengths = [[len(ids)] for ids in table.column("input_ids").to_pylist()]
    for name in ("masked_lm_positions", "masked_lm_inputs"):
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(lengths, TYPES[name]))
    return table


POSITIONS = r"masked_lm_positions is of type .*unsigned integers of at most 32 bits are expected"
INPUTS = r"masked_lm_inputs is of type .*the values of input_ids, uint32, are expected"


UNSOUND = [
    *(("masked_lm_positions", POSITIONS, kind) for kind in ("int16", "int64", "uint64", "bool")),
    *(("masked_lm_inputs", INPUTS, kind) for kind in ("uint16", "int32", "int64", "uint64")),
]


@pytest.mark.parametrize(("name", "text", "kind"), UNSOUND)
def test_types_of_predictions_that_lose_values_are_refused(tmp_path, name, text, kind):
    """-1 would be the last token of the row before, and 70,000 another id in 16 bits."""
    types = {name: TYPES[name] for name in (*PLAIN, "masked_lm_positions")}
    types |= {"input_ids": pa.list_(pa.uint32()), "masked_lm_inputs": pa.list_(pa.uint32())}
    types[name] = pa.list_(pa.type_for_alias(kind))
    schema = pa.schema(list(types.items()))
    with pytest.raises(DataError, match=rf"0\.parquet: column {text}.* run make-data again"):
        flatten(tmp_path / "refused", [schema.empty_table()])


@pytest.mark.parametrize("kind", [pa.uint8(), pa.uint16(), pa.uint32()])
def test_unsigned_positions_of_up_to_32_bits_are_taken(tmp_path, kind):
    row = {
        "input_ids": [5, 6, 7],
        "token_type_ids": [0, 0, 0],
        "masked_lm_positions": [0, 2],
        "masked_lm_inputs": [4, 9],
    }
    types = {key: TYPES[key] for key in row} | {"masked_lm_positions": pa.list_(kind)}
    table = pa.Table.from_pylist([row, row], schema=pa.schema(list(types.items())))
    arrays = flatten(tmp_path / "taken", [table])
    assert arrays["input_ids"].tolist() == [4, 6, 9, 4, 6, 9]
    assert arrays["masked_lm_ids"].tolist() == [5, 7, 5, 7]


def test_the_readme_of_the_data_names_the_columns_of_predictions():
    text = (REPOSITORY / "data" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(masked_lm_\w+)`", text)) == {
        "masked_lm_positions",
        "masked_lm_inputs",
    }


def test_shards_that_are_none(tmp_path):
    rows = random_rows(4)
    cases = {
        "no column token_type_ids": as_table(rows).drop_columns("token_type_ids"),
        "it needs both": as_table(rows).drop_columns("masked_lm_inputs"),
        "a position outside of its row": outside(as_table(rows)),
        "column input_ids is of type string; lists of integers": pa.table(
            {"input_ids": ["a"], "token_type_ids": [[0]]}
        ),
        "next_sentence_label is of type double; integers": as_table(
            rows, types={"next_sentence_label": pa.float64()}
        ),
        "masked_lm_inputs has empty": as_table(rows).set_column(
            3, "masked_lm_inputs", pa.nulls(len(rows), TYPES["masked_lm_inputs"])
        ),
        "input_ids has empty": as_table([row | {"input_ids": [None]} for row in rows], PLAIN),
        "token_type_ids has a row of 1 values where the column before it has": as_table(
            [row | {"token_type_ids": [0]} for row in rows]
        ),
    }
    for index, (text, table) in enumerate(cases.items()):
        with pytest.raises(DataError, match=rf"0\.parquet.*{text}"):
            flatten(tmp_path / str(index), [table])
    with pytest.raises(DataError, match=r"1\.parquet has the columns .* the first shard has"):
        flatten(tmp_path / "x", [as_table(rows), as_table(random_rows(2, SOP), SOP)])
    (tmp_path / "text").write_text("no parquet", encoding="utf-8")
    (tmp_path / "y").mkdir()
    with (
        pytest.raises(DataError, match="cannot be read as parquet"),
        ArrayFiles(tmp_path / "y") as arrays,
    ):
        arrays.append_shard(tmp_path / "text")
