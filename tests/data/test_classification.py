import logging

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from nlpapp.data.classification import (
    ClassificationCollator,
    EncodedExamples,
    Examples,
    check_trainable,
    evaluation_steps,
    read_chunks,
    read_examples,
)
from nlpapp.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder):
    return AutoTokenizer.from_pretrained(tiny_tokenizer_folder)


def table(folder, text, name="rows.tsv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def fault(path, **options):
    with pytest.raises(DataError) as error:
        read_examples(path, **options)
    return str(error.value)


def test_columns_are_chosen_by_name(tmp_path):
    path = table(tmp_path, "id\tgold\tfirst\tsecond\n7\tb\tx\ty\n8\ta\tz\tw\n")
    examples = read_examples(
        path, text_column="first", text_pair_column="second", label_column="gold"
    )
    assert examples.texts_a == ["x", "z"]
    assert examples.texts_b == ["y", "w"]
    assert examples.label_names == ("a", "b")
    assert examples.labels.tolist() == [1, 0]
    assert examples.labels.dtype == np.int64
    assert examples.num_labels == 2


@pytest.mark.parametrize(
    ("header", "pair"),
    [
        ("sentence\tlabel", False),
        ("text\tlabel", False),
        ("label\ttext_a", False),
        ("sentence1\tsentence2", True),
        ("text_a\ttext_b", True),
    ],
)
def test_usual_columns_are_found(tmp_path, header, pair):
    examples = read_examples(table(tmp_path, f"{header}\none\ttwo\n"))
    assert (examples.texts_b is not None) == pair
    assert (examples.labels is not None) == ("label" in header)


def test_unusual_columns_are_listed(tmp_path):
    text = fault(table(tmp_path, "review\tlabel\na\t1\n"))
    assert "'review', 'label'" in text
    assert "--text_column" in text


def test_missing_column_suggests_the_nearest(tmp_path):
    path = table(tmp_path, "sentence\tlabels\na\t1\n")
    assert "no column 'label'; there are 'sentence', 'labels'. Did you mean 'labels'?" in fault(
        path, require_labels=True
    )
    assert "no column 'gold'" in fault(path, label_column="gold")


def test_labels_keep_a_given_order(tmp_path):
    path = table(tmp_path, "text\tlabel\na\tneg\nb\tpos\n")
    examples = read_examples(path, label_names=("pos", "neg"))
    assert examples.label_names == ("pos", "neg")
    assert examples.labels.tolist() == [1, 0]


def test_unknown_label_names_file_line_and_value(tmp_path):
    path = table(tmp_path, "text\tlabel\na\tpos\nb\tpoz\n")
    expected = f"{path}, line 3: label 'poz' is not one of 'neg', 'pos'. Did you mean 'pos'?"
    assert fault(path, label_names=("neg", "pos")) == expected


def test_a_tokenizer_without_a_padding_token_is_refused():
    with pytest.raises(ConfigError, match="no padding token.*pad_token in its tokenizer_config"):
        ClassificationCollator(None, None)


def test_empty_label_is_no_class(tmp_path):
    path = table(tmp_path, "text\tlabel\na\t1\nb\t\nc\t0\n")
    assert f"{path}, line 3: label '' is not one of '0', '1'." in fault(path)


def test_scores(tmp_path):
    path = table(tmp_path, "text\tlabel\na\t1.5\nb\t-2\n")
    examples = read_examples(path, label_names=())
    assert examples.labels.tolist() == [1.5, -2.0]
    assert examples.labels.dtype == np.float32
    assert examples.num_labels == 1


@pytest.mark.parametrize("word", ["good", "nan", "inf", ""])
def test_score_that_is_no_number(tmp_path, word):
    path = table(tmp_path, f"text\tlabel\na\t1\nb\t{word}\n")
    assert f"{path}, line 3: the score '{word}' is not a finite number" in fault(
        path, label_names=()
    )


def test_header_alone_is_no_data(tmp_path):
    path = table(tmp_path, "text\tlabel\n")
    assert "holds no rows" in fault(path)
    with pytest.raises(DataError, match="holds no rows"):
        list(read_chunks(path, chunk_rows=2))


def test_empty_texts_are_counted_in_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        examples = read_examples(table(tmp_path, "text\tlabel\n\t1\nb\t0\n"))
    assert examples.texts_a == ["", "b"]
    assert "1 of 2 rows have an empty text (lines 2)" in caplog.text


def test_empty_second_texts_are_counted_too(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        examples = read_examples(table(tmp_path, "sentence1\tsentence2\na\tb\n\tc\nd\t \n"))
    assert "1 of 3 rows have an empty text (lines 3)" in caplog.text
    assert "1 of 3 rows have an empty second text (lines 4)" in caplog.text
    assert examples.rows_with_text == [0]


def test_one_class_cannot_be_trained_on(tmp_path):
    examples = read_examples(table(tmp_path, "text\tlabel\na\tx\nb\tx\n"))
    with pytest.raises(DataError, match="all 2 rows have the label 'x'"):
        check_trainable(examples)
    with pytest.raises(DataError, match="labels are needed"):
        check_trainable(Examples(texts_a=["a"], source="s"))


def test_chunks_hold_every_row_once_and_ignore_labels(tmp_path):
    rows = "".join(f"row {index}\t?\n" for index in range(7))
    chunks = list(read_chunks(table(tmp_path, "text\tlabel\n" + rows), chunk_rows=3))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert [text for chunk in chunks for text in chunk.texts_a] == [f"row {i}" for i in range(7)]
    assert all(chunk.labels is None for chunk in chunks)


def test_encoding_agrees_with_the_tokenizer_called_row_by_row(tokenizer):
    examples = Examples(
        texts_a=["the cat sat", "a dog ran over the hill"],
        texts_b=["on the mat and on the hill", "a"],
        source="s",
    )
    encoded = EncodedExamples(examples, tokenizer, max_seq_length=10)
    for index, (a, b) in enumerate(zip(examples.texts_a, examples.texts_b, strict=True)):
        expected = tokenizer(
            a, b, truncation="longest_first", max_length=10, return_token_type_ids=True
        )
        assert set(expected["token_type_ids"]) == {0, 1}
        assert encoded.input_ids[index].tolist() == expected["input_ids"]
        assert encoded.token_type_ids[index].tolist() == expected["token_type_ids"]
    assert encoded.lengths.tolist() == [10, 10]
    assert encoded.truncated_share == 0.5  # The second row is 10 tokens long as it is.


def test_encoding_in_parts_is_the_same(tokenizer, monkeypatch):
    examples = Examples(texts_a=["the cat", "a dog sat", "the bird"], source="s")
    whole = EncodedExamples(examples, tokenizer, max_seq_length=16)
    monkeypatch.setattr("nlpapp.data.token_rows.ROWS_AT_ONCE", 2)
    parts = EncodedExamples(examples, tokenizer, max_seq_length=16)
    assert [row.tolist() for row in parts.input_ids] == [row.tolist() for row in whole.input_ids]


@pytest.mark.parametrize(("pair", "least"), [(None, 3), (["b"], 5)])
def test_sequence_length_without_room_for_text(tokenizer, pair, least):
    examples = Examples(texts_a=["a"], texts_b=pair, source="s")
    assert EncodedExamples(examples, tokenizer, max_seq_length=least).lengths.tolist() == [least]
    with pytest.raises(ConfigError, match=f"use at least {least}"):
        EncodedExamples(examples, tokenizer, max_seq_length=least - 1)


def test_batch_is_padded_to_its_longest_row(tokenizer):
    examples = Examples(
        texts_a=["the cat", "a", "a dog sat on the mat"],
        labels=np.array([0, 1, 1]),
        label_names=("x", "y"),
        source="s",
    )
    encoded = EncodedExamples(examples, tokenizer, max_seq_length=16)
    batch = ClassificationCollator(encoded, tokenizer.pad_token_id)(np.array([1, 0]), 0)
    expected = tokenizer(
        ["a", "the cat"], padding=True, return_tensors="pt", return_token_type_ids=True
    )
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    for name in expected:
        assert torch.equal(batch[name], expected[name])
    assert batch["labels"].tolist() == [1, 0]
    assert batch["labels"].dtype == torch.int64


def test_scores_are_float_in_a_batch(tokenizer):
    examples = Examples(texts_a=["a", "the"], labels=np.array([0.5, 2], np.float32), source="s")
    encoded = EncodedExamples(examples, tokenizer, max_seq_length=8)
    batch = ClassificationCollator(encoded, 0)(np.array([0]), 0)
    assert batch["labels"].tolist() == [0.5]
    assert batch["labels"].dtype == torch.float32


def test_separate_pairs_are_two_sequences(tokenizer):
    examples = Examples(texts_a=["the cat", "a"], texts_b=["a", "the dog sat"], source="s")
    encoded = EncodedExamples(examples, tokenizer, max_seq_length=8, separate_pair=True)
    batch = ClassificationCollator(encoded, tokenizer.pad_token_id)(np.array([0, 1]), 0)
    first = tokenizer(examples.texts_a, padding=True, return_tensors="pt")
    second = tokenizer(examples.texts_b, padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask", "input_ids_b", "attention_mask_b"}
    assert torch.equal(batch["input_ids"], first["input_ids"])
    assert torch.equal(batch["input_ids_b"], second["input_ids"])
    assert torch.equal(batch["attention_mask_b"], second["attention_mask"])
    assert encoded.lengths.tolist() == [4 + 3, 3 + 5]


def test_evaluation_reads_short_rows_first_and_gives_the_order_back(tokenizer):
    texts = ["the cat sat on the mat", "a", "the dog", "a bird sat"]
    encoded = EncodedExamples(Examples(texts_a=texts, source="s"), tokenizer, max_seq_length=16)
    steps, undo = evaluation_steps(encoded, 0, batch_size=2)
    widths, rows = [], []
    for step in range(steps.num_steps(0)):
        (batch,) = steps.micro_batches(0, step, rank=0, world_size=1, accumulation=1)
        widths.append(batch["input_ids"].shape[1])
        rows += [
            ids[mask == 1].tolist()
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
    assert widths == sorted(widths)
    assert [rows[index] for index in undo] == [row.tolist() for row in encoded.input_ids]


def test_real_chinese_reviews(shared_data):
    examples = read_examples(shared_data / "zh_book_review" / "dev.tsv")
    assert len(examples) == 8000
    assert examples.label_names == ("0", "1")


def test_columns_by_number_with_and_without_a_header(tmp_path):
    named = table(tmp_path, "1\tx\nfirst\tn\nsecond\tp\n")
    examples = read_examples(named, text_column="1", label_column="2")
    assert (examples.texts_a, examples.labels.tolist()) == (["first", "second"], [0, 1])
    examples = read_examples(named, text_column="1", label_column="2", header=False)
    assert examples.texts_a == ["1", "first", "second"]
    assert examples.label_names == ("n", "p", "x")
    (chunk,) = read_chunks(named, text_column="2", header=False, chunk_rows=9)
    assert chunk.texts_a == ["x", "n", "p"]


def test_premise_and_hypothesis_are_usual_columns(tmp_path):
    path = table(tmp_path, "premise\thypothesis\tlabel\na\tb\t0\n")
    examples = read_examples(path)
    assert (examples.texts_a, examples.texts_b) == (["a"], ["b"])


def test_several_labels_of_a_row(tmp_path):
    path = table(tmp_path, "text\tlabel\na\tred, blue\nb\t\nc\tblue\n")
    examples = read_examples(path, label_separator=",")
    assert examples.multi_label
    assert examples.label_names == ("blue", "red")
    assert examples.labels.tolist() == [[1, 1], [0, 0], [1, 0]]
    with pytest.raises(DataError, match="line 2: label 'red' is not one of 'blue', 'green'"):
        read_examples(path, label_separator=",", label_names=("blue", "green"))
    same = table(tmp_path, "text\tlabel\na\tred,blue\nb\tblue,red\n")
    with pytest.raises(DataError, match="all 2 rows have the label 'blue, red'"):
        check_trainable(read_examples(same, label_separator=","))
    one = table(tmp_path, "text\tlabel\na\tred\nb\t\n")
    with pytest.raises(DataError, match="'red' is the only class; with --label_separator"):
        check_trainable(read_examples(one, label_separator=","))
    with pytest.raises(ConfigError, match="label_separator is empty"):
        read_examples(one, label_separator="")
    same = table(tmp_path, "text\tlabel\na\tred,blue\nb\tblue,red\n")
    encoded = [[1.0, 1.0], [1.0, 1.0]]
    assert read_examples(same, label_separator=",").labels.tolist() == encoded
