import copy
import json
import subprocess
import sys

import datasets
import numpy as np
import pytest

from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.errors import DataError
from tests.conftest import REPOSITORY
from tests.data.tiny_shards import (
    NSP,
    PLAIN,
    SOP,
    as_stored,
    as_table,
    random_rows,
    write_folder,
)

ROWS = {"nsp": random_rows(50), "sop": random_rows(50, SOP), "none": random_rows(50, PLAIN)}
COLUMNS = {"nsp": NSP, "sop": SOP, "none": PLAIN}


def make(folder, objective="nsp", **writing):
    table = as_table(ROWS[objective], COLUMNS[objective])
    return write_folder(folder, [table[:20], table[20:21], table[21:]], **writing)


@pytest.fixture(scope="module", params=["nsp", "sop", "none"])
def opened(request, tmp_path_factory):
    folder = make(tmp_path_factory.mktemp("data") / request.param, request.param)
    return request.param, PretrainingData.open(folder)


def as_row(example):
    """An example as the row that it came from; what is None is left out."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in vars(example).items()
        if value is not None
    }


def test_examples_are_the_rows_of_the_shards(opened):
    objective, data = opened
    assert [as_row(data[index]) for index in range(len(data))] == ROWS[objective]
    assert data.lengths.tolist() == [len(row["input_ids"]) for row in ROWS[objective]]
    assert data.lengths.dtype == np.int64


def test_what_the_data_has(opened):
    objective, data = opened
    assert data.has_static_masks == data.has_next_sentence == (objective == "nsp")
    assert data.has_sentence_order == data.has_words == (objective == "sop")


def test_arrays_keep_their_small_types_and_are_slices_of_the_file(opened):
    _, data = opened
    example = data[30]
    assert example.input_ids.dtype == np.uint16 and example.token_type_ids.dtype == np.uint8
    assert type(example.input_ids) is np.ndarray and not example.input_ids.flags.writeable
    if example.word_continues is not None:
        assert example.word_continues.dtype == bool


def test_numbers_out_of_range(opened):
    _, data = opened
    for index in (-1, len(data)):
        with pytest.raises(IndexError):
            data[index]


def test_another_process_gets_the_place_and_not_the_arrays(opened):
    _, data = opened
    _, sent = data.__reduce__()
    assert sent == (data.manifest, data._cache)
    # A copy is made in the way in which objects travel to other processes.
    again = copy.copy(data)
    assert as_row(again[7]) == as_row(data[7]) and again.manifest == data.manifest


def test_data_without_shards_is_empty(tmp_path):
    data = PretrainingData.open(write_folder(tmp_path, []))
    assert len(data) == 0 and data.lengths.tolist() == [] and not data.has_static_masks


def test_folders_without_sound_data(tmp_path):
    with pytest.raises(DataError, match="no manifest.json"):
        PretrainingData.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is damaged"):
        PretrainingData.open(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}), encoding="utf-8")
    with pytest.raises(DataError, match="format 99"):
        PretrainingData.open(tmp_path)


def test_a_damaged_shard_is_named_with_the_way_out(tmp_path):
    made = make(tmp_path / "x")
    path = sorted(made.glob("*.parquet"))[1]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=rf"{path.name} is damaged.*nlpapp make-data --config"):
        PretrainingData.open(made)
    assert len(PretrainingData.open(make(tmp_path / "x"), verify=False)) == 50


def test_the_fingerprint_is_of_content_and_options(tmp_path):
    first = PretrainingData.open(make(tmp_path / "first"))
    again = PretrainingData.open(make(tmp_path / "again"))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint.startswith("50 instances in shards ")
    table = as_table(ROWS["nsp"], NSP)
    fewer = PretrainingData.open(write_folder(tmp_path / "fewer", [table[:20], table[21:]]))
    assert fewer.fingerprint.startswith("49 instances") and first.fingerprint.split()[4] not in (
        fewer.fingerprint
    )
    path = tmp_path / "again" / "manifest.json"
    manifest = json.loads(path.read_text()) | {"options": {"masked_lm_prob": 0.4}}
    path.write_text(json.dumps(manifest))
    masked = PretrainingData.open(tmp_path / "again").fingerprint
    assert masked.split(" with ")[0] == first.fingerprint.split(" with ")[0]
    assert masked != first.fingerprint


def test_datasets_loads_the_shards(tmp_path):
    encoding = {"input_ids.list.element": "BYTE_STREAM_SPLIT"}
    folder = make(tmp_path / "x", use_dictionary=False, column_encoding=encoding)
    loaded = datasets.load_dataset(
        "parquet",
        data_files=str(folder / "shard-*.parquet"),
        split="train",
        cache_dir=str(tmp_path / "loaded"),
    )
    assert list(loaded) == [as_stored(row) for row in ROWS["nsp"]]
    assert [as_row(PretrainingData.open(folder)[index]) for index in range(50)] == ROWS["nsp"]


PROGRAM = """
import re, sys
from pathlib import Path
from nlpapp.data.pretraining_data import PretrainingData

def own_megabytes():
    found = re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1000

before = own_megabytes()
data = PretrainingData.open(sys.argv[1])
total = sum(int(data[index].input_ids.sum()) for index in range(len(data)))
print(total, own_megabytes() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_data(tmp_path):
    """Reading every example of 60 MB takes a few MB that are not pages of the files."""
    import pyarrow as pa

    count, length = 40_000, 500
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * length)
    ids = np.random.default_rng(0).integers(0, 60_000, count * length).astype(np.uint16)
    types = np.zeros(len(ids), dtype=np.uint8)
    table = pa.table(
        {
            "input_ids": pa.ListArray.from_arrays(offsets, pa.array(ids)),
            "token_type_ids": pa.ListArray.from_arrays(offsets, pa.array(types)),
        }
    )
    folder = write_folder(tmp_path / "x", [table], use_dictionary=False, row_group_size=2000)
    PretrainingData.open(folder)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
    )
    total, megabytes = result.stdout.split()
    assert int(total) == int(ids.sum(dtype=np.int64))
    assert float(megabytes) < 10
