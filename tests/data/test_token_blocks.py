import numpy as np
import pytest

from nlpapp.data.token_blocks import BlockText, id_dtype, tokenize_block
from nlpapp.text.word_encoding import LineEncoder, plain_encoder
from nlpapp.text.wordpiece import load_tokenizer


@pytest.fixture
def tokenizer(tiny_tokenizer_folder):
    return load_tokenizer(tiny_tokenizer_folder)


def text_of(*documents, **options):
    text = "".join("\n".join(sentences) + "\n\n" for sentences in documents)
    return BlockText(text=text.encode(), **options)


def block_of(texts, tokenizer, **options):
    encoder = LineEncoder(plain_encoder(tokenizer))
    return tokenize_block(texts, encoder, **({"number": 0, "longest": 100} | options))


def sentences_of(block, document):
    bounds = block.boundaries(document)
    return [block.ids[a:b].tolist() for a, b in zip(bounds, bounds[1:], strict=False)]


def test_ids_are_those_of_the_tokenizer(tokenizer):
    documents = [["the cat sat.", "a dog ran"], ["birds flew over"], ["the mat"]]
    block = block_of([text_of(*documents[:2]), text_of(documents[2])], tokenizer)
    for number, sentences in enumerate(documents):
        expected = [tokenizer(s, add_special_tokens=False)["input_ids"] for s in sentences]
        assert sentences_of(block, number) == expected
    assert block.ids.dtype == np.uint16 and block.num_documents == block.num_own == 3
    assert block.num_sentences == 4 and block.own_tokens.tolist() == block.ids.tolist()


def test_special_tokens_written_in_a_text_are_text(tokenizer):
    block = block_of([text_of(["the [MASK] sat"])], tokenizer)
    assert tokenizer.mask_token_id not in block.ids
    assert tokenizer.mask_token_id in tokenizer("the [MASK] sat")["input_ids"]


def test_truncation_and_padding_set_on_the_tokenizer_do_not_reach_the_data(tokenizer):
    tokenizer(["the cat", "a"], padding="max_length", truncation=True, max_length=4)
    assert len(block_of([text_of(["the cat sat on the mat"])], tokenizer).ids) == 6


def test_sentences_without_tokens_and_long_ones_are_counted(tokenizer):
    texts = [text_of(["\u200b", "the cat sat on the mat"], ["\u200b"])]
    block = block_of(texts, tokenizer, longest=4)
    assert block.num_sentences == 3
    assert block.empty_sentences == 2 and block.split_sentences == 1
    assert block.boundaries(0) == [0, 4, 6] and block.boundaries(1) == [6]


def test_slices_keep_the_identity_of_their_document(tokenizer):
    texts = [text_of(["the cat"], document="x"), text_of(["a dog"], ["a dog"]), text_of(["a dog"])]
    block = block_of(texts, tokenizer)
    first, *others = block.identities
    assert first == "x" and len(set(others)) == 1 and others[0] != "x"
    assert block.whole.tolist() == [False, True, True, True]


def test_dropped_documents_are_left_out(tokenizer):
    texts = [text_of(["the cat"], ["a dog"], ["a bird"], dropped=(0, 2)), text_of(["the mat"])]
    block = block_of(texts, tokenizer)
    assert block.num_documents == 2
    assert sentences_of(block, 0) == [tokenizer("a dog", add_special_tokens=False)["input_ids"]]
    assert block_of([text_of(["the cat"], dropped=(0,))], tokenizer).num_documents == 0


def test_guests_come_last_and_are_not_counted(tokenizer):
    guests = [text_of(["a bird flew over the hill"], ["\u200b"])]
    block = block_of([text_of(["the cat"])], tokenizer, guests=guests, longest=4)
    assert (block.num_own, block.num_documents, block.num_sentences) == (1, 3, 1)
    assert block.empty_sentences == block.split_sentences == 0
    assert len(block.own_tokens) == 2 and len(block.ids) == 8


def test_sizes():
    assert id_dtype(2**16) is np.uint16 and id_dtype(2**16 + 1) is np.uint32
