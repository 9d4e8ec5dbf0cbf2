import numpy as np
import pytest

from nlpapp.data.data_preview import first_examples, padding_shares, preview_examples
from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.data.pretraining_instances import PretrainingOptions
from nlpapp.errors import DataError
from nlpapp.text.sources import find_sources
from nlpapp.text.wordpiece import load_tokenizer
from tests.data.sample_data import CORPUS, make_data


@pytest.fixture
def tokenizer(tiny_tokenizer_folder):
    return load_tokenizer(tiny_tokenizer_folder)


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("input_ids", "token_type_ids", "masked_lm_positions", "masked_lm_ids")
    ) and (one.next_sentence_label, one.sentence_order_label) == (
        other.next_sentence_label,
        other.sentence_order_label,
    )


@pytest.mark.parametrize("objective", ["nsp", "sop", "none"])
def test_the_first_examples_are_those_of_the_reader(tokenizer, tmp_path, objective):
    options = PretrainingOptions(max_seq_length=40, dupe_factor=1, objective=objective)
    manifest = make_data(tmp_path, tokenizer, options=options)
    data = PretrainingData.open(tmp_path)
    examples = first_examples(tmp_path, manifest, 7)
    assert len(examples) == 7
    assert all(same(example, data[index]) for index, example in enumerate(examples))
    assert len(first_examples(tmp_path, manifest, 10**6)) == len(data)


def test_an_instance_of_unknown_tokens_has_nothing_to_predict(tokenizer, tmp_path):
    path = tmp_path / "unknown.txt"
    path.write_text("\u2603 \u2603\n", encoding="utf-8")
    sources = find_sources([str(path)], input_format="lines")
    options = PretrainingOptions(max_seq_length=8, dupe_factor=1, objective="none")
    (example,) = preview_examples(sources, tokenizer, options, count=5)
    assert example.input_ids.tolist() == [2, 1, 1, 3]
    assert example.masked_lm_positions.tolist() == example.masked_lm_ids.tolist() == []


def test_a_preview_is_of_the_text_and_of_the_options(tokenizer):
    sources = find_sources([str(CORPUS)], input_format="lines")
    options = PretrainingOptions(max_seq_length=40, dupe_factor=1, masking="dynamic")
    examples = preview_examples(sources, tokenizer, options, count=6)
    whole = CORPUS.read_text(encoding="utf-8").replace("\n", " ")
    pieces = " ".join(tokenizer.tokenize(whole, verbose=False))
    assert len(examples) == 6
    for example in examples:
        first = example.input_ids.tolist().index(3)
        assert " ".join(tokenizer.convert_ids_to_tokens(example.input_ids[1:first])) in pieces
        assert len(example.input_ids) <= 40 and example.masked_lm_positions is None
    labels = {
        e.next_sentence_label for e in preview_examples(sources, tokenizer, options, count=50)
    }
    assert labels == {0, 1}


def test_a_preview_of_one_document_or_none(tokenizer, tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("the cat sat.\nthe dog ran.\n", encoding="utf-8")
    sources = find_sources([str(path)], input_format="lines")
    with pytest.raises(DataError, match="The inputs are one document"):
        preview_examples(sources, tokenizer, PretrainingOptions(), count=2)
    options = PretrainingOptions(objective="sop")
    assert preview_examples(sources, tokenizer, options, count=2)


def test_padding_shares_by_hand():
    # Two instances of 2 tokens and two of 4, in batches that hold them all.
    shares = padding_shares([0, 0, 2, 0, 2], 8)
    fixed, random, grouped = shares.values()
    assert fixed == 1 - 12 / 32
    assert random == grouped == pytest.approx(1 - 12 / 16)
    assert padding_shares([0, 0], 8) == {}


def test_grouping_saves_padding():
    histogram = np.zeros(129, dtype=int)
    histogram[8:] = 2000
    fixed, random, grouped = padding_shares(histogram.tolist(), 128).values()
    assert fixed == pytest.approx(1 - 68 / 128) and grouped < 0.1 < random < fixed
