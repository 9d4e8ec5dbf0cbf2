"""Pretraining data made of the sample corpus, for the tests of what writes and reads it."""

from nlpapp.data.pretraining_instances import PretrainingOptions
from nlpapp.data.pretraining_shards import write_pretraining_data
from nlpapp.text.sources import find_sources
from tests.conftest import REPOSITORY

SAMPLE = REPOSITORY / "data" / "sample"
CORPUS = SAMPLE / "corpus.txt"


def make_data(folder, tokenizer, *, inputs=(CORPUS,), input_format="lines", options=None, **more):
    """Write the data folder of ``inputs`` in this process; return the manifest."""
    return write_pretraining_data(
        folder,
        sources=find_sources([str(path) for path in inputs], input_format=input_format),
        tokenizer=tokenizer,
        options=options or PretrainingOptions(max_seq_length=64, dupe_factor=1),
        **more,
    )
