import errno
import json
import shutil

import pyarrow.parquet as pq
import pytest

from nlpapp.data import pretraining_shards
from nlpapp.data.pretraining_shards import (
    PretrainingData,
    PretrainingOptions,
    sound,
    write_pretraining_data,
)
from nlpapp.errors import ConfigError, DataError
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from tests.conftest import REPOSITORY

CORPUS = REPOSITORY / "data" / "sample" / "corpus.txt"
OPTIONS = PretrainingOptions(max_seq_length=64, dupe_factor=1)
BLOCK = 20_000


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(REPOSITORY / "data" / "sample" / "tokenizer")


def write(folder, tokenizer, inputs=CORPUS, options=OPTIONS, block_bytes=BLOCK):
    return write_pretraining_data(
        folder,
        inputs=[str(inputs)],
        tokenizer=tokenizer,
        options=options,
        input_format="lines",
        block_bytes=block_bytes,
    )


@pytest.fixture(scope="module")
def written(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "out"
    return folder, write(folder, tokenizer)


def contents(folder):
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.suffix in (".parquet", ".json")
    }


def test_the_folder_is_as_the_contract_says(written, tokenizer):
    folder, manifest = written
    shards = sorted(path.name for path in folder.glob("*.parquet"))
    assert len(shards) == 4 and shards[1] == "shard-00001-of-00004.parquet"
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", *shards]
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert manifest["tokenizer_fingerprint"] == fingerprint(tokenizer)
    assert manifest["options"]["max_seq_length"] == 64
    assert manifest["sources"][0]["bytes"] == CORPUS.stat().st_size


def test_what_goes_in_is_counted_and_nothing_is_lost(written, tokenizer):
    _, manifest = written
    texts = CORPUS.read_text(encoding="utf-8").strip().split("\n\n")
    sentences = [sentence for text in texts for sentence in text.split("\n")]
    encoded = tokenizer(sentences, add_special_tokens=False)["input_ids"]
    counts = manifest["counts"]
    assert counts["documents"] == len(texts)
    assert counts["sentences"] == len(sentences)
    assert counts["tokens"] == sum(map(len, encoded))
    assert counts["unknown_tokens"] == 0 and counts["sentences_without_tokens"] == 0


def test_statistics_are_those_of_the_data(written):
    folder, manifest = written
    rows = [row for path in folder.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    tokens = sum(len(row["input_ids"]) for row in rows)
    assert manifest["counts"]["instances"] == len(rows)
    assert manifest["statistics"] == {
        "next_sentence_random_share": sum(r["next_sentence_label"] for r in rows) / len(rows),
        "mask_rate": sum(len(r["masked_lm_ids"]) for r in rows) / tokens,
        "mean_length": tokens / len(rows),
        "unknown_rate": 0.0,
        "truncated_rate": manifest["counts"]["truncated_tokens"] / tokens,
    }
    assert manifest["statistics"]["mask_rate"] == pytest.approx(0.15, abs=0.01)
    assert manifest["statistics"]["next_sentence_random_share"] == pytest.approx(0.5, abs=0.03)


def test_the_same_options_give_the_same_bytes(written, tokenizer, tmp_path):
    write(tmp_path / "again", tokenizer)
    assert contents(tmp_path / "again") == contents(written[0])


def test_another_seed_gives_other_data(written, tokenizer, tmp_path):
    options = PretrainingOptions(max_seq_length=64, dupe_factor=1, seed=7)
    write(tmp_path / "other", tokenizer, options=options)
    other, first = contents(tmp_path / "other"), contents(written[0])
    assert all(other[name] != first[name] for name in first)


class Stop(Exception):
    """Stands for a kill."""


def test_a_killed_run_goes_on_with_the_finished_shards(written, tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    build = pretraining_shards.build_table
    built = []

    def stopping(*arguments, index):
        if index == 2 and index not in built:
            built.append(index)
            raise Stop
        built.append(index)
        return build(*arguments, index=index)

    monkeypatch.setattr(pretraining_shards, "build_table", stopping)
    with pytest.raises(Stop):
        write(folder, tokenizer)
    with pytest.raises(DataError, match="is not finished"):
        PretrainingData.open(folder)
    write(folder, tokenizer)
    assert built == [0, 1, 2, 2, 3]
    assert contents(folder) == contents(written[0])


def test_a_kill_between_the_last_renames_does_no_harm(written, tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    replace, moved = pretraining_shards.os.replace, []

    def stopping(source, target):
        if "-of-" in str(target):
            moved.append(target)
            if len(moved) == 3:
                raise Stop
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining_shards.os, "replace", stopping)
        with pytest.raises(Stop):
            write(folder, tokenizer)
    write(folder, tokenizer)
    assert contents(folder) == contents(written[0])


def test_a_full_disk_leaves_nothing_half_written(written, tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    write_table, calls = pq.write_table, []

    def filling(table, path, **options):
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"PAR1 half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        write_table(table, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining_shards.pq, "write_table", filling)
        with pytest.raises(DataError, match="the disk is full.*2 finished shards are kept"):
            write(folder, tokenizer)
    left = sorted(path.name for path in (folder / "unfinished").iterdir())
    assert left == [
        "identity.json",
        "shard-00000.json",
        "shard-00000.parquet",
        "shard-00001.json",
        "shard-00001.parquet",
    ]
    write(folder, tokenizer)
    assert contents(folder) == contents(written[0])


def test_only_a_damaged_shard_is_built_again(written, tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    shutil.copytree(written[0], folder)
    assert sound(folder)
    path = folder / "shard-00002-of-00004.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    (folder / "shard-00000-of-00004.parquet").unlink()
    assert not sound(folder)
    with pytest.raises(DataError, match=r"shard-00000-of-00004\.parquet is missing"):
        PretrainingData.open(folder)
    build, built = pretraining_shards.build_table, []

    def counting(*arguments, index):
        built.append(index)
        return build(*arguments, index=index)

    monkeypatch.setattr(pretraining_shards, "build_table", counting)
    write(folder, tokenizer)
    assert built == [0, 2] and contents(folder) == contents(written[0])


def test_data_of_other_options_or_text_is_refused(written, tokenizer, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(written[0], folder)
    before = contents(folder)
    with pytest.raises(ConfigError, match="max_seq_length: 64 there, 32 now"):
        write(folder, tokenizer, options=PretrainingOptions(max_seq_length=32, dupe_factor=1))
    other = tmp_path / "other.txt"
    other.write_text("One.\nTwo.\n\nThree.\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="the content of the input files"):
        write(folder, tokenizer, inputs=other)
    assert contents(folder) == before


@pytest.mark.parametrize("text", ["One is here.\nTwo is here.\n", "Same.\n\nSame.\n"])
def test_one_document_has_no_random_sentences(tokenizer, tmp_path, text):
    path = tmp_path / "one.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="blank line between documents.*objective: none"):
        write(tmp_path / "out", tokenizer, inputs=path)
    options = PretrainingOptions(max_seq_length=64, dupe_factor=1, objective="none")
    assert write(tmp_path / "none", tokenizer, inputs=path, options=options)["counts"]["instances"]


def test_uer_loses_the_last_document(tokenizer, tmp_path):
    # dbiir/UER-py: a corpus of one document gives no instance, and n workers lose n documents.
    path = tmp_path / "three.txt"
    path.write_text("The baker.\n\nThe garden.\n\nThe zebra", encoding="utf-8")
    options = PretrainingOptions(
        objective="none", max_seq_length=64, dupe_factor=1, masking="dynamic"
    )
    for block_bytes in (1, 10_000):
        folder = tmp_path / f"out{block_bytes}"
        write(folder, tokenizer, inputs=path, options=options, block_bytes=block_bytes)
        data = PretrainingData.open(folder)
        texts = [tokenizer.decode(data[i].input_ids[1:-1]) for i in range(len(data))]
        assert texts == ["the baker.", "the garden.", "the zebra"]


def test_real_text(shared_data, tmp_path):
    tokenizer = load_tokenizer(shared_data / "bert" / "uncased_en_vocab.txt")
    sample = shared_data / "bert" / "sample_text.txt"
    manifest = write(tmp_path, tokenizer, inputs=sample, options=PretrainingOptions())
    assert manifest["counts"]["documents"] == 3 and manifest["counts"]["instances"] > 30
