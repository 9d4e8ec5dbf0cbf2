import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nlpapp.data import tfrecord_import
from nlpapp.data.manifest import read_manifest, write_manifest
from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.data.tfrecord_import import import_tfrecords
from nlpapp.data.tfrecords import find_tfrecords, write_tfrecords
from nlpapp.disk import damage
from nlpapp.errors import DataError
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from tests.conftest import REPOSITORY
from tests.data import plain_tfrecords as plain


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(REPOSITORY / "data" / "sample" / "tokenizer")


def random_rows(tokenizer, count, seed=3):
    """Return (ids, types, positions, originals, label) of ``count`` instances."""
    rng = np.random.default_rng(seed)
    cls, sep, mask = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id
    rows = []
    for _ in range(count):
        text = rng.integers(10, len(tokenizer), rng.integers(4, 10))
        ids = [cls, *text[:2].tolist(), sep, *text[2:].tolist(), sep]
        positions = sorted(rng.choice([1, 2, 4, 5], rng.integers(0, 4), replace=False).tolist())
        originals = [ids[position] for position in positions]
        for position, original in zip(positions, originals, strict=True):
            ids[position] = [mask, original, original % 5 + 10][rng.integers(3)]
        types = [0] * 4 + [1] * (len(ids) - 4)
        rows.append((ids, types, positions, originals, int(rng.integers(2))))
    return rows


STORED = ["input_ids", "token_type_ids", "masked_lm_positions", "masked_lm_inputs"]


def by_hand(path, rows):
    return plain.write(path, [plain.bert_features(*row) for row in rows])


def in_folder(folder):
    """Return the rows of the shards, read by pyarrow alone, in the manifest's order.

    Masks are put into the ids, and what stood there takes their place.
    """
    tables = [pq.read_table(folder / shard["file"]) for shard in read_manifest(folder)["shards"]]
    columns = pa.concat_tables(tables).to_pydict()
    assert list(columns)[:4] == STORED
    for ids, positions, shown in zip(
        *(columns[name] for name in ("input_ids", "masked_lm_positions", "masked_lm_inputs")),
        strict=True,
    ):
        for place, position in enumerate(positions):
            ids[position], shown[place] = shown[place], ids[position]
    return list(zip(*columns.values(), strict=True))


def test_instances_counts_and_options_are_those_of_the_files(tmp_path, tokenizer):
    rows = random_rows(tokenizer, 60)
    paths = [by_hand(tmp_path / f"{i}.tfrecord", rows[i * 20 :][:20]) for i in range(3)]
    read = []
    manifest = import_tfrecords(
        tmp_path / "out", paths, tokenizer=tokenizer, tokens_per_shard=200, progress=read.append
    )
    assert manifest == read_manifest(tmp_path / "out")
    assert in_folder(tmp_path / "out") == rows
    assert sum(read) == sum(path.stat().st_size for path in paths)
    pairs = [
        (row[0][position], original)
        for row in rows
        for position, original in zip(row[2], row[3], strict=True)
    ]
    as_mask = sum(shown == tokenizer.mask_token_id for shown, _ in pairs)
    kept = sum(shown == original for shown, original in pairs)
    tokens = sum(len(row[0]) for row in rows)
    counts = manifest["counts"]
    assert min(as_mask, kept, len(pairs) - as_mask - kept) > 0
    assert {name: counts[name] for name in counts if name != "bytes"} == {
        "instances": 60,
        "instance_tokens": tokens,
        "masked_tokens": len(pairs),
        "masked_as_mask": as_mask,
        "masked_kept": kept,
        "masked_as_random": len(pairs) - as_mask - kept,
        "random_next": sum(row[4] for row in rows),
    }
    assert manifest["options"] == {
        "objective": "nsp",
        "max_seq_length": 12,
        "max_predictions_per_seq": 3,
        "masked_lm_prob": round(len(pairs) / tokens, 4),
        "masking": "static",
        "masking_unit": "token",
        "input_format": "tfrecord",
    }
    lengths = [len(row[0]) for row in rows]
    assert manifest["lengths"] == [lengths.count(size) for size in range(max(lengths) + 1)]
    assert manifest["tokenizer_fingerprint"] == fingerprint(tokenizer)
    assert [source["file"] for source in manifest["sources"]] == list(map(str, paths))


def test_shards_are_bounded_and_as_recorded(tmp_path, tokenizer):
    rows = random_rows(tokenizer, 50)
    path = by_hand(tmp_path / "a.tfrecord", rows)
    manifest = import_tfrecords(tmp_path / "out", [path], tokenizer=tokenizer, tokens_per_shard=100)
    shards = manifest["shards"]
    assert len(shards) > 3
    assert [s["file"] for s in shards] == sorted(p.name for p in (tmp_path / "out").glob("shard*"))
    for shard in shards[:-1]:
        # The instance that reaches the bound is the last one.
        assert 100 <= shard["counts"]["instance_tokens"] < 100 + 12
    for shard in shards:
        assert damage(tmp_path / "out" / shard["file"], shard["sha256"]) is None
        assert shard["bytes"] == (tmp_path / "out" / shard["file"]).stat().st_size
    schema = pq.read_schema(tmp_path / "out" / shards[0]["file"])
    types = {field.name: getattr(field.type, "value_type", field.type) for field in schema}
    assert types == {
        "input_ids": pa.uint16(),
        "token_type_ids": pa.uint8(),
        "masked_lm_positions": pa.uint16(),
        "masked_lm_inputs": pa.uint16(),
        "next_sentence_label": pa.uint8(),
    }


def test_writing_in_pieces_changes_nothing(tmp_path, tokenizer, monkeypatch):
    rows = random_rows(tokenizer, 50)
    path = by_hand(tmp_path / "a.tfrecord", rows)
    monkeypatch.setattr(tfrecord_import, "INSTANCES_PER_WRITE", 7)
    manifest = import_tfrecords(tmp_path / "out", [path], tokenizer=tokenizer)
    (shard,) = manifest["shards"]
    assert pq.ParquetFile(tmp_path / "out" / shard["file"]).num_row_groups == 8
    assert in_folder(tmp_path / "out") == rows and manifest["counts"]["instances"] == 50


@pytest.mark.parametrize(
    ("labels", "column", "share"),
    [
        ("nsp", "next_sentence_label", "next_sentence_random_share"),
        ("sop", "sentence_order_label", "sentence_order_swapped_share"),
    ],
)
def test_there_and_back_changes_nothing(tmp_path, tokenizer, labels, column, share):
    rows = random_rows(tokenizer, 40)
    path = by_hand(tmp_path / "first.tfrecord", rows)
    once, twice = tmp_path / "once", tmp_path / "twice"
    manifest = import_tfrecords(once, [path], tokenizer=tokenizer, labels=labels)
    data = PretrainingData.open(once)
    assert getattr(data[0], column) == rows[0][4]
    assert manifest["options"]["objective"] == labels
    assert manifest["statistics"][share] == sum(row[4] for row in rows) / 40

    (exported,) = write_tfrecords(data, tmp_path)
    assert exported.read_bytes() == path.read_bytes()
    again = import_tfrecords(twice, [exported], tokenizer=tokenizer, labels=labels)
    assert in_folder(twice) == in_folder(once) == rows
    assert again["shards"] == manifest["shards"] and again["counts"] == manifest["counts"]


def whole_text(ids, types, positions, originals):
    """Return the columns of an instance as shards have them."""
    whole = dict(enumerate(ids)) | dict(zip(positions, originals, strict=True))
    return list(whole.values()), types, positions, [ids[position] for position in positions]


def test_shards_of_make_data_go_there_and_back(tmp_path, tokenizer):
    """The first folder is written here with pyarrow; it has no labels."""
    rows = [row[:4] for row in random_rows(tokenizer, 30)]
    types = [pa.uint16(), pa.uint8(), pa.uint16(), pa.uint16()]
    folder = tmp_path / "made"
    folder.mkdir()
    records = []
    for index in range(2):
        part = rows[index * 15 :][:15]
        stored = [whole_text(*row) for row in part]
        arrays = [
            pa.array(c, pa.list_(t)) for c, t in zip(zip(*stored, strict=True), types, strict=True)
        ]
        path = folder / f"shard-0000{index}-of-00002.parquet"
        pq.write_table(pa.table(arrays, names=STORED), path)
        counts = {"instances": 15}
        records.append(
            {
                "file": path.name,
                "sha256": tfrecord_import.file_sha256(path),
                "bytes": path.stat().st_size,
                "counts": counts,
                "lengths": np.bincount([len(row[0]) for row in part]).tolist(),
            }
        )
    options = {"max_seq_length": 16, "max_predictions_per_seq": 5, "masking": "static"}
    identity = {"options": options, "tokenizer_fingerprint": fingerprint(tokenizer), "sources": []}
    write_manifest(folder, identity, records)

    write_tfrecords(PretrainingData.open(folder), tmp_path, num_files=3)
    manifest = import_tfrecords(
        tmp_path / "back", find_tfrecords(str(tmp_path)), tokenizer=tokenizer
    )
    assert in_folder(tmp_path / "back") == rows
    assert manifest["options"]["objective"] == "none"
    assert {name: manifest["options"][name] for name in options} == options


def test_large_vocabularies_have_wider_ids(tmp_path, tokenizer, monkeypatch):
    class Vocabulary(tfrecord_import.Vocabulary):
        @classmethod
        def of(cls, tokenizer):
            return cls(100_000, tokenizer.cls_token_id, tokenizer.sep_token_id, 4)

    monkeypatch.setattr(tfrecord_import, "Vocabulary", Vocabulary)
    row = ([tokenizer.cls_token_id, 4, tokenizer.sep_token_id], [0, 0, 0], [1], [99_999], 1)
    path = by_hand(tmp_path / "a.tfrecord", [row])
    import_tfrecords(tmp_path / "out", [path], tokenizer=tokenizer)
    assert in_folder(tmp_path / "out") == [row]


def test_an_error_leaves_no_data_and_the_next_run_replaces_the_old(tmp_path, tokenizer):
    rows = random_rows(tokenizer, 30)
    path, out = by_hand(tmp_path / "a.tfrecord", rows), tmp_path / "out"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(DataError, match=r"a\.tfrecord, record 30 "):
        import_tfrecords(out, [path], tokenizer=tokenizer, tokens_per_shard=50)
    assert list(out.iterdir()) == []
    path.write_bytes(whole)
    many = import_tfrecords(out, [path], tokenizer=tokenizer, tokens_per_shard=50)
    one = import_tfrecords(out, [path], tokenizer=tokenizer)
    assert len(many["shards"]) > 1 == len(one["shards"])
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", one["shards"][0]["file"]]


def test_a_disk_that_cannot_be_written(tmp_path, tokenizer):
    path = by_hand(tmp_path / "a.tfrecord", random_rows(tokenizer, 3))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="Cannot convert into .*run the same command again"):
        import_tfrecords(tmp_path / "file", [path], tokenizer=tokenizer)


def test_sequences_too_long_to_keep(tmp_path, tokenizer):
    features = plain.bert_features([2, 3], [0, 0], [], [], 0, length=70_000)
    path = plain.write(tmp_path / "a.tfrecord", [features])
    with pytest.raises(DataError, match="instances of 70000 tokens; expected at most 65535"):
        import_tfrecords(tmp_path / "out", [path], tokenizer=tokenizer)
