"""Data sets of a run: the tokenizer they need, overlaps, and what they cost to read."""

import logging

import numpy as np
import pytest

from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.data.pretraining_sets import describe_sets, max_seq_length, open_sets, summarize
from nlpapp.data.sampling import ExampleSteps
from nlpapp.errors import DataError
from nlpapp.recipes import make_data
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from tests.conftest import REPOSITORY

TOKENIZER = str(REPOSITORY / "data" / "sample" / "tokenizer")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """The sample corpus with 32 tokens, the same words drawn otherwise, and other words."""
    made, corpus = {}, REPOSITORY / "data" / "sample" / "corpus.txt"
    held_out = tmp_path_factory.mktemp("text") / "held-out.txt"
    held_out.write_text("".join(corpus.read_text(encoding="utf-8").splitlines(True)[:200]))
    for name, seed, source in (("one", 1, corpus), ("again", 2, corpus), ("other", 2, held_out)):
        made[name] = str(tmp_path_factory.mktemp("sets") / name)
        make_data.run(
            make_data.Config(
                inputs=[str(source)],
                tokenizer=TOKENIZER,
                output_dir=made[name],
                max_seq_length=32,
                masking="dynamic",
                dupe_factor=1,
                seed=seed,
            )
        )
    return made


def test_the_longest_instance_is_what_the_data_was_made_for(folders, tokenizer):
    assert max_seq_length(folders["one"], tokenizer) == 32


def test_another_tokenizer_is_refused(folders, tiny_tokenizer_folder):
    with pytest.raises(DataError, match="tokenizer"):
        max_seq_length(folders["one"], load_tokenizer(str(tiny_tokenizer_folder)))


def test_evaluation_on_training_data_is_warned_of(folders, tokenizer, caplog):
    caplog.set_level(logging.WARNING, logger="nlpapp")
    training, held_out = open_sets(folders["one"], folders["other"], tokenizer)
    assert held_out is not None and len(training) and len(held_out)
    assert open_sets(folders["one"], None, tokenizer)[1] is None
    assert not caplog.text
    open_sets(folders["one"], folders["one"], tokenizer)
    assert "are shards of the training data" in caplog.text
    caplog.clear()
    open_sets(folders["one"], folders["again"], tokenizer)
    assert "1 of the files that" in caplog.text and "corpus.txt, are training data" in caplog.text


def test_the_summary_counts_what_is_read(folders, tokenizer):
    data = PretrainingData.open(folders["one"])
    lengths = [len(data[index].input_ids) for index in range(len(data))]
    steps = ExampleSteps(len(data), lambda *_: {}, batch_size=10, seed=1)
    summary = summarize(data, steps, parts=4)
    assert summary.tokens_per_epoch == sum(lengths)
    assert (summary.rows, summary.longest) == (3, max(lengths))
    # The mean over tokens of the length of their sequence.
    of_each_token = [length for length in lengths for _ in range(length)]
    assert summary.sequence_length == pytest.approx(np.mean(of_each_token))
    assert summary.prediction_rate == 0.15
    positions = sum(max(lengths[i] for i in batch) * len(batch) for batch in steps.plan(0))
    assert summary.padding_share == pytest.approx(1 - sum(lengths) / positions)
    assert summary.figures() == {
        "tokens_per_epoch": float(sum(lengths)),
        "padding_share": summary.padding_share,
    }
    assert summary.reading() == {
        "rows": 3,
        "longest": max(lengths),
        "sequence_length": summary.sequence_length,
        "prediction_rate": 0.15,
    }


def test_under_a_budget_of_tokens_the_largest_batch_keeps_to_it(folders):
    data = PretrainingData.open(folders["one"])
    steps = ExampleSteps(
        len(data), lambda *_: {}, batch_size=9, tokens_per_batch=64, lengths=data.lengths, seed=1
    )
    summary = summarize(data, steps, parts=1)
    sizes = [len(batch) * data.lengths[batch].max() for batch in steps.plan(0)]
    assert summary.rows * summary.longest == max(sizes) <= 64
    # The longest instance and the most rows are in different batches.
    assert summary.longest < data.lengths.max() or summary.rows < max(map(len, steps.plan(0)))


def test_cards_tell_sets_apart(folders, tokenizer):
    (alone,) = [describe_sets([folders["one"]])]
    assert alone.keys() == {"training data", "counts"}
    data = PretrainingData.open(folders["one"])
    assert alone["training data"]["fingerprint"] == data.fingerprint
    assert alone["training data"]["max_seq_length"] == 32
    assert data.manifest["tokenizer_fingerprint"] == fingerprint(tokenizer)
    both = describe_sets(list(folders.values()))
    assert f"counts of {folders['other']}" in both and len(both) == 6
