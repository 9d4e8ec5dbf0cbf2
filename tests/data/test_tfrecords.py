import re
from types import SimpleNamespace

import numpy as np
import pytest

from nlpapp.data.tfrecords import (
    TFRecordLayout,
    Vocabulary,
    find_tfrecords,
    read_layout,
    read_tfrecords,
    write_tfrecords,
)
from nlpapp.errors import ConfigError, DataError
from tests.data import plain_tfrecords as plain

PAIR = ([2, 10, 4, 3, 12, 4, 3], [0, 0, 0, 0, 1, 1, 1], [2, 5], [11, 13], 1)
WHOLE = ([2, 7, 8, 9, 7, 8, 9, 7, 8, 9, 6, 3], [0] * 11 + [1], [1, 6, 10], [7, 300, 6], 0)
VOCABULARY = Vocabulary(size=301, cls=2, sep=3, mask=4)


class Rows:
    """Instances in memory, as the data folder has them."""

    def __init__(self, rows, *, label="next_sentence_label", **options):
        sizes = {"max_seq_length": 12, "max_predictions_per_seq": 3}
        self.manifest = {"options": sizes | options}
        self.rows = [
            SimpleNamespace(
                input_ids=np.array(ids, np.uint16),
                token_type_ids=np.array(types, np.uint8),
                masked_lm_positions=None if positions is None else np.array(positions, np.uint16),
                masked_lm_ids=None if positions is None else np.array(originals, np.uint16),
                **({"next_sentence_label": None} | {label: odd}),
            )
            for ids, types, positions, originals, odd in rows
        ]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def as_rows(examples):
    return [
        (
            example.input_ids.tolist(),
            example.token_type_ids.tolist(),
            example.masked_lm_positions.tolist(),
            example.masked_lm_ids.tolist(),
            example.next_sentence_label,
        )
        for example in examples
    ]


def many_rows(count):
    rng = np.random.default_rng(7)
    rows = []
    for _ in range(count):
        length, masked = int(rng.integers(3, 13)), int(rng.integers(0, 4))
        ids = [2, *rng.integers(5, 301, length - 2).tolist(), 3]
        positions = sorted(rng.choice(length, min(masked, length), replace=False).tolist())
        types = [0] * (length // 2) + [1] * (length - length // 2)
        originals = rng.integers(5, 301, len(positions)).tolist()
        rows.append((ids, types, positions, originals, int(rng.integers(2))))
    return rows


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_made_by_hand_is_read(tmp_path, packed):
    examples = [plain.bert_features(*PAIR), plain.bert_features(*WHOLE)]
    path = plain.write(tmp_path / "data.tfrecord", examples, packed=packed)
    assert as_rows(read_tfrecords([path], vocabulary=VOCABULARY)) == [PAIR, WHOLE]
    assert read_layout([path]) == TFRecordLayout(12, 3, True)


def test_what_is_written_is_byte_for_byte_the_file_made_by_hand(tmp_path):
    (path,) = write_tfrecords(Rows([PAIR, WHOLE]), tmp_path)
    examples = [plain.bert_features(*PAIR), plain.bert_features(*WHOLE)]
    by_hand = plain.write(tmp_path / "by-hand", examples)
    assert path.name == "data-00000-of-00001.tfrecord"
    assert path.read_bytes() == by_hand.read_bytes()


def test_random_instances_come_back_in_order_from_several_files(tmp_path):
    rows, counted, size = many_rows(100), [], []
    paths = write_tfrecords(Rows(rows), tmp_path, num_files=7, progress=counted.append)
    assert [len(list(read_tfrecords([path]))) for path in paths] == [15, 15, 14, 14, 14, 14, 14]
    assert as_rows(read_tfrecords(paths, vocabulary=VOCABULARY, progress=size.append)) == rows
    assert sum(counted) == 100 and sum(size) == sum(path.stat().st_size for path in paths)
    assert sorted(tmp_path.iterdir()) == paths == find_tfrecords(str(tmp_path))


def test_a_shuffle_seed_gives_another_order_of_the_same_instances(tmp_path):
    rows = many_rows(50)
    orders = []
    for seed in (1, 1, 2):
        (path,) = write_tfrecords(Rows(rows), tmp_path, shuffle_seed=seed)
        orders.append(as_rows(read_tfrecords([path])))
    assert orders[0] == orders[1] != orders[2] and orders[0] != rows
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(rows)


def test_data_without_labels_and_with_sentence_order(tmp_path):
    row = (*PAIR[:4], None)
    (path,) = write_tfrecords(Rows([row]), tmp_path)
    assert as_rows(read_tfrecords([path])) == [row]
    assert not read_layout([path]).has_labels
    (path,) = write_tfrecords(Rows([PAIR], label="sentence_order_label"), tmp_path)
    assert as_rows(read_tfrecords([path])) == [PAIR]


def test_instances_without_predictions(tmp_path):
    row = ([2, 5, 3], [0, 0, 0], [], [], 0)
    (path,) = write_tfrecords(Rows([row], max_predictions_per_seq=0), tmp_path)
    assert as_rows(read_tfrecords([path])) == [row]


def test_positions_of_other_writers_are_put_in_order(tmp_path):
    features = plain.bert_features(*PAIR[:2], [5, 2], [13, 11], 1)
    path = plain.write(tmp_path / "data.tfrecord", [features])
    assert as_rows(read_tfrecords([path])) == [PAIR]


def test_more_features_than_needed_do_no_harm(tmp_path):
    features = plain.bert_features(*PAIR) | {"text": b"...", "unique_id": [17]}
    assert as_rows(read_tfrecords([plain.write(tmp_path / "a", [features])])) == [PAIR]


def test_dynamic_masks_cannot_be_exported(tmp_path):
    row = (*PAIR[:2], None, None, 1)
    with pytest.raises(ConfigError, match="needs static masks: run make-data with --masking stat"):
        write_tfrecords(Rows([row]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_options_that_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match="num_files 2: expected 1 to 1"):
        write_tfrecords(Rows([PAIR]), tmp_path, num_files=2)
    with pytest.raises(ConfigError, match="no instances"):
        write_tfrecords(Rows([]), tmp_path)
    with pytest.raises(DataError, match="12 tokens, 3 of them masked; its manifest allows 11 and"):
        write_tfrecords(Rows([PAIR, WHOLE], max_seq_length=11), tmp_path)
    assert not list(tmp_path.iterdir())


def error_of(tmp_path, second, **options):
    """Return the error about the second record of a file whose first is right."""
    path = plain.write(tmp_path / "bad.tfrecord", [plain.bert_features(*PAIR), second])
    with pytest.raises(DataError) as caught:
        list(read_tfrecords([path], **options))
    return str(caught.value).partition("bad.tfrecord, record 2: ")[2]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"input_ids": [2, 3]}, "feature 'input_ids' has 2 values; expected 12"),
        ({"segment_ids": [0] * 13}, "feature 'segment_ids' has 13 values; expected 12"),
        ({"masked_lm_ids": [5] * 4}, "feature 'masked_lm_ids' has 4 values; expected 3"),
        ({"next_sentence_labels": [0, 1]}, "feature 'next_sentence_labels' has 2 values; exp"),
        ({"next_sentence_labels": [2]}, "feature 'next_sentence_labels' holds 2; expected 0 to 1"),
        ({"segment_ids": [0, 0, 2] + [0] * 9}, "feature 'segment_ids' holds 2; expected 0 to 1"),
        ({"masked_lm_positions": [2, 7, 0]}, "feature 'masked_lm_positions' holds 7; expected 0 t"),
        ({"masked_lm_positions": [-1, 5, 0]}, "feature 'masked_lm_positions' holds -1; expected"),
        ({"masked_lm_positions": [5, 5, 0]}, "position 5 is masked twice"),
        ({"masked_lm_weights": [1.0, 0.0, 1.0]}, "feature 'masked_lm_weights' is not a row of"),
        ({"masked_lm_weights": [0.5, 0.0, 0.0]}, "feature 'masked_lm_weights' is not a row of"),
        ({"masked_lm_weights": [1, 1, 0]}, "feature 'masked_lm_weights' holds int64_list; expec"),
        ({"input_ids": b"text"}, "feature 'input_ids' holds bytes_list; expected int64_list"),
        ({"input_mask": [0] * 12}, "the instance has no tokens"),
        ({"input_mask": [1, 0, 1] + [0] * 9}, "feature 'input_mask' is not a row of ones"),
    ],
)
def test_a_bad_record_is_named(tmp_path, changed, expected):
    assert re.match(expected, error_of(tmp_path, plain.bert_features(*PAIR) | changed))


def test_a_missing_feature_is_named_with_what_is_there(tmp_path):
    features = plain.bert_features(*PAIR)
    features["segment_id"] = features.pop("segment_ids")
    expected = "there is no feature 'segment_ids'; .*Did you mean 'segment_id'"
    assert re.match(expected, error_of(tmp_path, features))
    without_label = plain.bert_features(*PAIR[:4], None)
    expected = "next_sentence_labels has none here and one in the first"
    assert re.match(expected, error_of(tmp_path, without_label))
    path = plain.write(tmp_path / "other.tfrecord", [{}])
    with pytest.raises(DataError, match="record 1: there is no feature 'input_ids'; there are non"):
        list(read_tfrecords([path]))


@pytest.mark.parametrize(
    ("ids", "original", "expected"),
    [
        ([2, 301, 3], 5, "id 301 is outside the vocabulary of 301 pieces"),
        ([2, 5, 3], 999, "id 999 is outside the vocabulary of 301 pieces"),
        ([101, 5, 102], 5, "begins with id 101 and ends with 102; expected 2 and 3"),
    ],
)
def test_ids_of_another_tokenizer_are_refused(tmp_path, ids, original, expected):
    features = plain.bert_features(ids, [0, 0, 0], [1], [original], 0)
    found = error_of(tmp_path, features, vocabulary=VOCABULARY)
    assert re.match(f"(the instance )?{expected}", found)


def test_damaged_files_name_file_and_record(tmp_path):
    path = plain.write(tmp_path / "bad.tfrecord", [plain.bert_features(*PAIR)] * 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"bad\.tfrecord, record 3 .*ends in the middle"):
        list(read_tfrecords([path]))
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"bad\.tfrecord, record 2 .*checksum"):
        list(read_tfrecords([path]))


def test_files_are_found_in_natural_order_and_empty_ones_skipped(tmp_path):
    names = ["part-2.tfrecord", "part-10.tfrecord", "part-9.tfrecord", "notes.txt"]
    for name in names:
        (tmp_path / name).touch()
    expected = [tmp_path / f"part-{number}.tfrecord" for number in (2, 9, 10)]
    assert find_tfrecords(str(tmp_path)) == expected
    assert find_tfrecords(str(tmp_path / "part-*")) == expected
    assert find_tfrecords(str(tmp_path / "part-9.tfrecord")) == expected[1:2]
    with pytest.raises(DataError, match="No TFRecord file at .*other.*Give a file"):
        find_tfrecords(str(tmp_path / "other*"))
    with pytest.raises(DataError, match="There is no record in .*part-2.tfrecord"):
        list(read_tfrecords(expected))
    plain.write(expected[1], [plain.bert_features(*PAIR)])
    assert as_rows(read_tfrecords(expected)) == [PAIR]


def test_a_tokenizer_without_special_tokens_is_refused():
    tokenizer = SimpleNamespace(cls_token_id=1, sep_token_id=None, mask_token_id=3)
    with pytest.raises(ConfigError, match="no sep_token"):
        Vocabulary.of(tokenizer)
