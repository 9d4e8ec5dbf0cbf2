import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from nlpapp.data.pretraining_data import PretrainingData, damage, file_sha256
from nlpapp.data.pretraining_shards import PretrainingOptions, write_pretraining_data
from nlpapp.errors import DataError
from nlpapp.text.wordpiece import load_tokenizer
from tests.conftest import REPOSITORY


def make(folder, **options):
    write_pretraining_data(
        folder,
        inputs=[str(REPOSITORY / "data" / "sample" / "corpus.txt")],
        tokenizer=load_tokenizer(REPOSITORY / "data" / "sample" / "tokenizer"),
        options=PretrainingOptions(**({"max_seq_length": 64, "dupe_factor": 1} | options)),
        block_bytes=30_000,
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data") / "static")


def test_examples_are_the_rows_of_the_shards(folder):
    data = PretrainingData.open(folder)
    rows = [r for path in sorted(folder.glob("*.parquet")) for r in pq.read_table(path).to_pylist()]
    assert len(data) == len(rows) and data.has_static_masks and data.has_next_sentence
    assert data.lengths.tolist() == [len(row["input_ids"]) for row in rows]
    for index in (0, 1, len(rows) // 2, len(rows) - 1):
        example, row = data[index], rows[index]
        assert example.masked_lm_positions is not None and example.masked_lm_ids is not None
        assert example.input_ids.tolist() == row["input_ids"]
        assert example.token_type_ids.tolist() == row["token_type_ids"]
        assert example.masked_lm_positions.tolist() == row["masked_lm_positions"]
        assert example.masked_lm_ids.tolist() == row["masked_lm_ids"]
        assert example.next_sentence_label == row["next_sentence_label"]


def test_absent_columns_are_none(tmp_path):
    data = PretrainingData.open(make(tmp_path / "x", objective="none", masking="dynamic"))
    example = data[0]
    assert example.masked_lm_positions is None and example.masked_lm_ids is None
    assert example.next_sentence_label is None
    assert not data.has_static_masks and not data.has_next_sentence


def test_ids_keep_their_small_type(folder):
    assert PretrainingData.open(folder)[0].input_ids.dtype == np.uint16


def test_numbers_out_of_range(folder):
    data = PretrainingData.open(folder)
    for index in (-1, len(data)):
        with pytest.raises(IndexError):
            data[index]


def test_folders_without_sound_data(folder, tmp_path):
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


def test_damage(tmp_path):
    path = tmp_path / "x"
    assert damage(path, "") == "missing"
    path.write_bytes(b"abc")
    assert damage(path, file_sha256(path)) is None
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
