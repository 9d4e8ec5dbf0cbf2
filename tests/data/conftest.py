"""Pretraining data of the sample corpus, where a test module has no other of its own."""

import pytest

from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.data.pretraining_instances import PretrainingOptions
from nlpapp.text.wordpiece import load_tokenizer
from tests.data.sample_data import SAMPLE, make_data


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(SAMPLE / "tokenizer")


@pytest.fixture(scope="module")
def make(tokenizer, tmp_path_factory):
    def make(**options):
        folder = tmp_path_factory.mktemp("data")
        options = PretrainingOptions(**({"max_seq_length": 48, "dupe_factor": 1} | options))
        make_data(folder, tokenizer, options=options)
        return PretrainingData.open(folder)

    return make
