import json
import sys

import numpy as np
import pytest

from nlpapp.data import tfrecord_files
from nlpapp.data.manifest import read_manifest
from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.data.tfrecords import read_tfrecords
from nlpapp.errors import ConfigError, DataError
from nlpapp.recipes.convert_data import Config, run
from tests.conftest import REPOSITORY
from tests.data import plain_tfrecords as plain

TOKENIZER = str(REPOSITORY / "data" / "sample" / "tokenizer")
CLS, SEP, MASK = 2, 3, 4


def original_files(folder, count=20):
    """Write two files as the original scripts do."""
    folder.mkdir()
    features = [
        plain.bert_features([CLS, 10 + i, SEP, MASK, SEP], [0, 0, 0, 1, 1], [3], [50 + i], i % 2)
        for i in range(count)
    ]
    for index in range(2):
        plain.write(folder / f"part-{index}.tfrecord", features[index * count // 2 :][: count // 2])
    return folder


def imported(tmp_path, **options):
    source = original_files(tmp_path / "original")
    settings = {"source": f"{source}/*.tfrecord", "to": "parquet", "tokenizer": TOKENIZER}
    config = Config(**settings | options, output_dir=str(tmp_path / "data"))
    return run(config), config


def ids(example):
    return [np.asarray(values).tolist() for values in (example.input_ids, example.masked_lm_ids)]


def test_special_tokens_are_those_of_the_sample_tokenizer(tmp_path):
    vocabulary = (REPOSITORY / "data" / "sample" / "tokenizer" / "tokenizer.json").read_text()
    known = json.loads(vocabulary)["model"]["vocab"]
    assert [known[token] for token in ("[CLS]", "[SEP]", "[MASK]")] == [CLS, SEP, MASK]


def test_from_the_original_files_and_back(tmp_path):
    metrics, _ = imported(tmp_path)
    data = PretrainingData.open(tmp_path / "data")
    assert len(data) == metrics["instances"] == 20 and metrics["files"] == 2
    assert metrics["next_sentence_random_share"] == 0.5 and metrics["mask_rate"] == 0.2
    assert data[7].masked_lm_ids.tolist() == [57] and data[7].next_sentence_label == 1
    assert json.loads((tmp_path / "data" / "metrics.json").read_text()) == metrics

    out = tmp_path / "back"
    config = Config(source=str(tmp_path / "data"), to="tfrecord", output_dir=str(out), num_files=2)
    metrics = run(config)
    names = ["data-00000-of-00002.tfrecord", "data-00001-of-00002.tfrecord"]
    for index, name in enumerate(names):
        original = tmp_path / "original" / f"part-{index}.tfrecord"
        assert (out / name).read_bytes() == original.read_bytes()
    figures = ("instances", "files", "max_seq_length", "max_predictions_per_seq")
    assert [metrics[name] for name in figures] == [20, 2, 12, 3]
    assert "--max_seq_length=12 --max_predictions_per_seq=3" in (out / "train.log").read_text()
    # Finished work is kept, and what is missing is made again.
    assert run(config) == metrics
    (out / names[1]).unlink()
    run(config)
    assert (out / names[1]).read_bytes() == (tmp_path / "original/part-1.tfrecord").read_bytes()


def test_a_damaged_shard_is_made_again(tmp_path):
    metrics, config = imported(tmp_path, labels="sop")
    manifest = read_manifest(tmp_path / "data")
    assert manifest["options"]["objective"] == "sop"
    assert run(config) == metrics
    shard = tmp_path / "data" / manifest["shards"][0]["file"]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    run(config)
    assert shard.read_bytes() == whole


def test_shuffled_export(tmp_path):
    imported(tmp_path)
    settings = {"source": str(tmp_path / "data"), "to": "tfrecord"}
    run(Config(**settings, output_dir=str(tmp_path / "back"), shuffle_seed=1))
    found = list(map(ids, read_tfrecords([tmp_path / "back" / "data-00000-of-00001.tfrecord"])))
    data = PretrainingData.open(tmp_path / "data")
    expected = [ids(data[index]) for index in range(len(data))]
    assert found != expected and sorted(found) == sorted(expected)


def test_data_without_labels_says_so(tmp_path):
    folder = tmp_path / "original"
    folder.mkdir()
    features = plain.bert_features([CLS, 10, SEP], [0, 0, 0], [1], [50], None)
    plain.write(folder / "a.tfrecord", [features])
    settings = {"source": str(folder), "to": "parquet", "tokenizer": TOKENIZER}
    run(Config(**settings, output_dir=str(tmp_path / "data")))
    assert read_manifest(tmp_path / "data")["options"]["objective"] == "none"
    back = tmp_path / "back"
    run(Config(source=str(tmp_path / "data"), to="tfrecord", output_dir=str(back)))
    assert "next_sentence_labels is absent" in (back / "train.log").read_text()


def test_options_are_checked_before_anything_is_written(tmp_path, monkeypatch):
    settings = {"source": "nowhere", "output_dir": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match="to parquet needs --tokenizer"):
        Config(**settings, to="parquet")
    with pytest.raises(ConfigError, match="num_files 0"):
        Config(**settings, to="tfrecord", num_files=0)
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    tfrecord_files._crc32c.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install nlpapp\[tfrecord\]"):
        run(Config(**settings, to="tfrecord"))
    assert not (tmp_path / "out").exists()


def test_sources_that_are_not_there(tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(DataError, match="holds no pretraining data"):
        run(Config(source=str(tmp_path / "no"), to="tfrecord", output_dir=out))
    other = {"to": "parquet", "tokenizer": TOKENIZER, "output_dir": str(tmp_path / "other")}
    with pytest.raises(DataError, match="No TFRecord file at"):
        run(Config(source=str(tmp_path / "*.tfrecord"), **other))
