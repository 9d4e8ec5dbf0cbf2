import numpy as np
import pytest

from nlpapp.data.token_blocks import (
    id_dtype,
    plain_encoder,
    split_blocks,
    text_bytes,
    tokenize_block,
)
from nlpapp.text.documents import Document
from nlpapp.text.wordpiece import load_tokenizer


def document(*sentences):
    return Document(sentences, "x.txt", 1)


@pytest.fixture
def tokenizer(tiny_tokenizer_folder):
    return load_tokenizer(tiny_tokenizer_folder)


def block_of(documents, tokenizer, **options):
    options = {"first_document": 0, "longest": 100} | options
    return tokenize_block(documents, plain_encoder(tokenizer), **options)


def test_ids_are_those_of_the_tokenizer(tokenizer):
    documents = [document("the cat sat.", "a dog ran"), document("birds flew over")]
    block = block_of(documents, tokenizer)
    for number, doc in enumerate(documents):
        bounds = block.boundaries(number)
        found = [block.ids[a:b].tolist() for a, b in zip(bounds, bounds[1:], strict=False)]
        assert found == [tokenizer(s, add_special_tokens=False)["input_ids"] for s in doc.sentences]
        assert block.tokens(number).tolist() == sum(found, [])
    assert block.ids.dtype == np.uint16 and block.num_documents == 2


def test_special_tokens_written_in_a_text_are_text(tokenizer):
    block = block_of([document("the [MASK] sat")], tokenizer)
    assert tokenizer.mask_token_id not in block.ids
    assert tokenizer.mask_token_id in tokenizer("the [MASK] sat")["input_ids"]


def test_truncation_and_padding_set_on_the_tokenizer_do_not_reach_the_data(tokenizer):
    tokenizer(["the cat", "a"], padding="max_length", truncation=True, max_length=4)
    assert len(block_of([document("the cat sat on the mat")], tokenizer).ids) == 6


def test_sentences_without_tokens_and_long_ones_are_counted(tokenizer):
    documents = [document("\u200b", "the cat sat on the mat"), document("\u200b")]
    block = block_of(documents, tokenizer, longest=4)
    assert block.empty_sentences == 2 and block.split_sentences == 1
    assert block.boundaries(0) == [0, 4, 6] and block.boundaries(1) == [6]


def test_nothing_is_lost_in_blocks():
    documents = [document(f"sentence {number}") for number in range(100)]
    for size in (1, 30, 500, 10**9):
        blocks = list(split_blocks(iter(documents), size))
        assert [d for block in blocks for d in block] == documents
        assert all(len(block) > 1 for block in blocks)


def test_a_small_rest_joins_the_last_block():
    documents = [document("x" * 9) for _ in range(9)]
    assert [len(block) for block in split_blocks(documents, 40)] == [4, 5]
    assert [len(block) for block in split_blocks(documents[:6], 40)] == [4, 2]
    assert [len(block) for block in split_blocks(documents[:1], 40)] == [1]


def test_sizes():
    assert text_bytes(document("\u00e4b", "c")) == 3 + 1 + 1 + 1
    assert id_dtype(2**16) is np.uint16 and id_dtype(2**16 + 1) is np.uint32
