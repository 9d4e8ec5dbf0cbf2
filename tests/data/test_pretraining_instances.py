from collections import Counter

import numpy as np
import pytest

from nlpapp import seeding
from nlpapp.data.masking import MaskingVocabulary, mask_tokens
from nlpapp.data.pretraining_instances import (
    Layout,
    PretrainingOptions,
    SpecialIds,
    build_table,
    ranges,
)
from nlpapp.data.token_blocks import BlockText, tokenize_block
from nlpapp.errors import ConfigError
from nlpapp.text.word_encoding import LineEncoder, plain_encoder
from nlpapp.text.wordpiece import load_tokenizer

SENTENCES = ("the cat sat on the mat.", "a dog ran over the hill.", "the bird flew on under it.")


@pytest.fixture
def tokenizer(tiny_tokenizer_folder):
    return load_tokenizer(tiny_tokenizer_folder)


def table_of(tokenizer, number=20, texts=(), **options):
    options = PretrainingOptions(**({"max_seq_length": 24, "dupe_factor": 2} | options))
    documents = ["\n".join(f"{s} {chr(97 + n)}" for s in SENTENCES * 2) for n in range(number)]
    text = "".join(f"{document}\n\n" for document in [*documents, *texts])
    encoder = LineEncoder(plain_encoder(tokenizer))
    block = tokenize_block(
        [BlockText(text=text.encode())], encoder, number=0, longest=options.longest_sentence
    )
    return *build_table(block, options, SpecialIds.of(tokenizer, options)), block


def test_ranges():
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ranges(np.zeros(0, int), np.zeros(0, int)).tolist() == []


def test_segments_are_joined_with_special_tokens(tokenizer):
    special = SpecialIds.of(tokenizer, PretrainingOptions())
    spans = np.array([[0, 2, 5, 6], [3, 4, 0, 2]])
    layout = Layout(spans, pairs=True)
    ids, types = layout.ids(np.arange(10, 20), special), layout.token_types()
    assert ids.tolist() == [2, 10, 11, 3, 15, 3, 2, 13, 3, 10, 11, 3]
    assert types.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    assert layout.offsets.tolist() == [0, 6, 12]
    marks = layout.continues(np.array([True] * 10))  # But nothing goes on with a special token.
    assert marks.tolist() == [False] * 2 + [True] + [False] * 7 + [True, False]
    layout = Layout(np.array([[0, 2, 2, 2]]), pairs=False)
    ids, types = layout.ids(np.arange(10, 20), special), layout.token_types()
    assert ids.tolist() == [2, 10, 11, 3] and types.tolist() == [0, 0, 0, 0]


def test_instances_read_like_the_tokenizer_s_pairs(tokenizer):
    table, counts, _ = table_of(tokenizer, masked_lm_prob=0.0)
    for row in table.to_pylist():
        ids, types = row["input_ids"], row["token_type_ids"]
        first = ids.index(3)
        assert ids[0] == 2 and ids[-1] == 3 and ids.count(3) == 2 and len(ids) <= 24
        assert types == [0] * (first + 1) + [1] * (len(ids) - first - 1)
    assert counts["instances"] == len(table)


def test_masks_lie_beside_the_text(tokenizer):
    # The draws of pairs and of masks are streams of their own.
    masked, counts, _ = table_of(tokenizer)
    plain, _, _ = table_of(tokenizer, masking="dynamic")
    assert masked.column("input_ids").equals(plain.column("input_ids"))
    fates = Counter()
    for row in masked.to_pylist():
        positions, ids = row["masked_lm_positions"], row["input_ids"]
        assert positions == sorted(positions)
        for position, shown in zip(positions, row["masked_lm_inputs"], strict=True):
            as_mask = shown == tokenizer.mask_token_id
            fates["as_mask" if as_mask else "kept" if shown == ids[position] else "as_random"] += 1
    assert min(fates.values()) > 0 and counts["masked_tokens"] == sum(fates.values())
    # A random token may by chance be the one that stood there.
    assert counts["masked_as_mask"] == fates["as_mask"] and counts["masked_kept"] <= fates["kept"]


def test_masks_put_in_place_are_those_that_masking_drew(tokenizer):
    # Without pairs, in one pass, instances stand in the order in which they were masked.
    options = {"objective": "none", "dupe_factor": 1, "seed": 5}
    rows = table_of(tokenizer, **options)[0].to_pylist()
    ids = [row["input_ids"] for row in rows]
    drawn = mask_tokens(
        np.concatenate(ids).astype(np.uint16),
        np.cumsum([0, *map(len, ids)]),
        vocabulary=MaskingVocabulary.of(tokenizer),
        options=PretrainingOptions(max_seq_length=24).masking_options(),
        rng=seeding.generator(5, "static masks", 0, 0),
    )
    for row in rows:
        for position, shown in zip(
            row["masked_lm_positions"], row["masked_lm_inputs"], strict=True
        ):
            row["input_ids"][position] = shown
    assert sum(ids, []) == drawn.ids.tolist() and len(drawn.positions) > 100


def test_columns_and_types_are_those_of_the_contract(tokenizer):
    table, _, _ = table_of(tokenizer)
    types = {field.name: str(field.type).split(": ")[-1] for field in table.schema}
    assert types == {
        "input_ids": "uint16>",
        "token_type_ids": "uint8>",
        "masked_lm_positions": "uint16>",
        "masked_lm_inputs": "uint16>",
        "next_sentence_label": "uint8",
    }
    dynamic, _, _ = table_of(tokenizer, masking="dynamic")
    assert dynamic.column_names == ["input_ids", "token_type_ids", "next_sentence_label"]
    assert tokenizer.mask_token_id not in sum(dynamic.column("input_ids").to_pylist(), [])
    single, _, _ = table_of(tokenizer, objective="none")
    assert "next_sentence_label" not in single.column_names


def test_without_pairs_every_token_is_there_once_a_pass(tokenizer):
    table, counts, block = table_of(tokenizer, objective="none", masking="dynamic")
    rows = table.column("input_ids").to_pylist()
    found = Counter(token for row in rows for token in row if token not in (2, 3))
    assert found == Counter({t: 2 * n for t, n in Counter(block.ids.tolist()).items()})
    assert counts["truncated_tokens"] == 0


def test_tokens_cut_off_are_counted(tokenizer):
    table, counts, _ = table_of(tokenizer, max_seq_length=12, short_seq_prob=0.0)
    assert max(map(len, table.column("input_ids").to_pylist())) == 12
    assert counts["truncated_tokens"] > 0


@pytest.mark.parametrize("objective", ["nsp", "sop"])
def test_of_a_sentence_that_is_cut_up_hardly_anything_is_cut_off(tokenizer, objective):
    texts = ["the cat " * 2000, "the dog " * 2001]
    _, counts, _ = table_of(
        tokenizer, 0, texts, objective=objective, max_seq_length=128, short_seq_prob=0.0
    )
    assert counts["truncated_tokens"] < 0.02 * counts["instance_tokens"]


@pytest.mark.parametrize(
    "options",
    [
        {"max_seq_length": 7},
        {"max_seq_length": 70000},
        {"masked_lm_prob": -0.1},
        {"masked_lm_prob": 1.1},
        {"short_seq_prob": 2.0},
        {"dupe_factor": 0},
        {"max_predictions_per_seq": 0},
        {"objective": "mlm"},
        {"max_ngram": 0},
        {"masking": "sometimes"},
        {"masking_unit": "span"},
    ],
)
def test_bad_options_are_named(options):
    (name,) = options
    with pytest.raises(ConfigError, match=name):
        PretrainingOptions(**options)


def test_a_segmenter_needs_words_to_mask():
    with pytest.raises(ConfigError, match="segmenter: max_match tells words"):
        PretrainingOptions(segmenter="max_match")


def test_sentence_order_has_its_own_column(tokenizer):
    table, counts, _ = table_of(tokenizer, objective="sop", masking="dynamic")
    assert table.column_names == ["input_ids", "token_type_ids", "sentence_order_label"]
    swapped = table.column("sentence_order_label").to_numpy()
    assert counts["swapped_order"] == swapped.sum() and 0 < swapped.mean() < 1
    assert counts["random_next"] == 0


def test_documents_without_tokens_are_counted_once(tokenizer):
    _, counts, _ = table_of(tokenizer, texts=["\u200b", "a", "the cat"], dupe_factor=3)
    # A document of one token gives no pair either.
    assert counts["dropped_documents_without_tokens"] == 2 and counts["documents"] == -2
    assert counts["dropped_sentences_without_tokens"] == 1 and counts["sentences"] == 6 * 20 + 1
    assert counts["dropped_sentences_without_pair"] == counts["dropped_tokens"] == 1
    _, counts, _ = table_of(tokenizer, texts=["\u200b", "a"], objective="none")
    assert counts["dropped_documents_without_tokens"] == 1


def test_words_are_counted(tokenizer):
    _, counts, block = table_of(tokenizer, number=1)
    pieces = tokenizer.convert_ids_to_tokens(block.ids.tolist())
    assert counts["words"] == sum(not piece.startswith("##") for piece in pieces) < len(pieces)


def test_a_tokenizer_without_special_tokens_is_told_what_it_lacks(tokenizer):
    tokenizer.cls_token = None
    with pytest.raises(ConfigError, match="no cls_token, .* add_special_tokens"):
        SpecialIds.of(tokenizer, PretrainingOptions())


def test_sequences_longer_than_the_tokenizer_allows(tokenizer):
    with pytest.raises(ConfigError, match="max_seq_length 513 is over .* limit of 512"):
        SpecialIds.of(tokenizer, PretrainingOptions(max_seq_length=513))
