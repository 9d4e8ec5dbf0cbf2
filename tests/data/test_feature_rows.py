import tracemalloc

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from nlpapp.data import feature_rows
from nlpapp.data.feature_rows import (
    RowEncoder,
    kept_tokens,
    read_rows,
    read_texts,
    scan,
    split_pair,
)
from nlpapp.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder):
    return AutoTokenizer.from_pretrained(tiny_tokenizer_folder)


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("the cat", ("the cat", None)),
        ("  the cat \t", ("the cat", None)),
        ("the cat ||| the dog", ("the cat", "the dog")),
        ("a ||| b ||| c", ("a ||| b", "c")),
        ("a|||b", ("a|||b", None)),
        ("a ||| ", ("a |||", None)),
        (" ||| b", ("||| b", None)),
        ("a ||| ||| b", ("a |||", "b")),
        ("", ("", None)),
    ],
)
def test_a_line_is_a_text_or_a_pair(line, row):
    assert split_pair(line) == row


def one_at_a_time(first, second, room):
    while first + second > room:
        if first > second:
            first -= 1
        else:
            second -= 1
    return [first, second]


def test_pairs_are_cut_as_by_taking_one_token_at_a_time():
    cases = [(a, b, room) for a in range(1, 12) for b in range(1, 12) for room in range(2, 16)]
    found = [kept_tokens([a, b], room) for a, b, room in cases]
    assert found == [one_at_a_time(a, b, room) for a, b, room in cases]
    assert kept_tokens([9], 4) == [4] and kept_tokens([3], 4) == [3]


TEXTS = ["the cat sat on the mat .", "good", "", "awful film " * 20, "a bird flew over the hill"]


def test_single_texts_are_those_of_transformers(tokenizer):
    encoded = RowEncoder(tokenizer, max_seq_length=12)([(text, None) for text in TEXTS])
    expected = tokenizer(TEXTS, truncation=True, max_length=12, return_token_type_ids=True)
    assert [row.tolist() for row in encoded.input_ids] == expected["input_ids"]
    assert [row.tolist() for row in encoded.token_type_ids] == expected["token_type_ids"]
    assert encoded.lengths.tolist() == [9, 3, 2, 12, encoded.lengths[4]]
    assert encoded.cut == sum(len(row) > 12 for row in tokenizer(TEXTS)["input_ids"]) == 1


def test_pairs_are_those_of_transformers_where_nothing_is_cut(tokenizer):
    pairs = [("the cat", "sat on the mat"), ("good", "bad"), ("a", "the dog ran")]
    encoded = RowEncoder(tokenizer, max_seq_length=64)(pairs)
    expected = tokenizer(*map(list, zip(*pairs, strict=True)), return_token_type_ids=True)
    assert [row.tolist() for row in encoded.input_ids] == expected["input_ids"]
    assert [row.tolist() for row in encoded.token_type_ids] == expected["token_type_ids"]


def test_other_special_tokens_are_learnt_from_the_tokenizer(tiny_tokenizer_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
        ("[SEP]", 3), ("[CLS]", 2), add_prefix_space=False
    )
    pairs = [("the cat", "sat"), ("good", "bad film")]
    encoded = RowEncoder(tokenizer, max_seq_length=64)([*pairs, ("the cat", None)])
    expected = [tokenizer(*pair)["input_ids"] for pair in pairs] + [tokenizer("the cat").input_ids]
    assert [row.tolist() for row in encoded.input_ids] == expected
    assert encoded.input_ids[0].tolist().count(3) == 3


def test_a_cut_pair_keeps_both_texts_and_all_special_tokens(tokenizer):
    encoder = RowEncoder(tokenizer, max_seq_length=8)
    encoded = encoder([("the cat sat on", "the dog ran under")])
    words = encoder.tokens(encoded.input_ids[0])
    assert words == ["[CLS]", "the", "cat", "sat", "[SEP]", "the", "dog", "[SEP]"]
    assert encoded.token_type_ids[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert encoded.cut == 1


def test_a_second_text_without_a_token_counts_as_none(tokenizer):
    encoded = RowEncoder(tokenizer, max_seq_length=8)([("good", "\u200b"), ("good", None)])
    assert encoded.input_ids[0].tolist() == encoded.input_ids[1].tolist()


def test_batches_hold_each_row_once_and_keep_to_the_budget(tokenizer):
    encoded = RowEncoder(tokenizer, max_seq_length=30)([(text, None) for text in TEXTS * 5])
    seen = []
    for indices, batch in encoded.batches(40):
        rows, width = batch["input_ids"].shape
        assert rows * width <= 40 and width == encoded.lengths[indices].max()
        for index, ids, mask in zip(
            indices, batch["input_ids"], batch["attention_mask"], strict=True
        ):
            assert ids[mask.bool()].tolist() == encoded.input_ids[index].tolist()
            assert mask.tolist() == sorted(mask.tolist(), reverse=True)
        seen += indices.tolist()
    assert sorted(seen) == list(range(len(TEXTS) * 5))


def test_a_row_over_the_budget_is_a_batch_of_its_own(tokenizer):
    encoded = RowEncoder(tokenizer, max_seq_length=30)([(TEXTS[3], None), ("good", None)])
    assert [len(indices) for indices, _ in encoded.batches(1)] in ([1, 1], [2])


def test_too_short_a_limit_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="max_seq_length is 4; use at least 5"):
        RowEncoder(tokenizer, max_seq_length=4)


def test_a_tokenizer_without_a_backend_is_refused():
    with pytest.raises(ConfigError, match=r"object.*no tokenizer\.json"):
        RowEncoder(object(), max_seq_length=8)


def test_reading_goes_on_at_any_line(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"line {number}\n" for number in range(10)))
    for skip in range(10):
        rows = [row for chunk in read_rows(path, skip=skip, chunk_rows=3) for row in chunk]
        assert rows == [(f"line {number}", None) for number in range(skip, 10)]
    assert list(read_rows(path, skip=10, chunk_rows=3)) == []


def test_very_long_lines_make_short_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_rows, "CHUNK_CHARACTERS", 50)
    path = tmp_path / "texts.txt"
    path.write_text("a\n" * 4 + "long " * 20 + "\n" + "b\n" * 3)
    whole = list(read_rows(path, skip=0, chunk_rows=10))
    assert [len(rows) for rows in whole] == [5, 3]
    assert list(read_rows(path, skip=5, chunk_rows=10)) == whole[1:]


def test_empty_lines_are_rows(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("one\n\n\nfour\n")
    assert scan(path).rows == 4
    assert next(read_rows(path, skip=0, chunk_rows=9))[3] == ("four", None)
    assert read_texts(path, [3, 0]) == {0: "one", 3: "four"}


def test_faults_of_the_file_are_found_before_the_first_row(tmp_path):
    path = tmp_path / "texts.txt"
    with pytest.raises(DataError, match="no such file"):
        scan(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        scan(path)
    path.write_bytes(b"good\n" * 1000 + b"caf\xe9\n")
    with pytest.raises(DataError, match="line 1001: not UTF-8"):
        scan(path)


def test_memory_is_that_of_a_chunk_whatever_the_length_of_the_file(tmp_path, tokenizer):
    peaks = []
    encoder = RowEncoder(tokenizer, max_seq_length=16)
    for lines in (2_000, 20_000):
        path = tmp_path / f"{lines}.txt"
        path.write_text("the cat sat on the mat\n" * lines)
        tracemalloc.start()
        total = sum(
            int(encoder(rows).lengths.sum()) for rows in read_rows(path, skip=0, chunk_rows=500)
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert total == lines * 8
    assert peaks[1] < 1.2 * peaks[0]


def test_scanning_a_long_file_takes_little_memory(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("the cat sat on the mat\n" * 400_000)
    tracemalloc.start()
    assert scan(path).rows == 400_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000 < path.stat().st_size / 3
