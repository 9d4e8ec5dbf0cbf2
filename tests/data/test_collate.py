import numpy as np
import pytest
import torch

from nlpapp.data.collate import PretrainingCollator, attention_mask, pad_rows


def test_rows_are_padded_on_the_right():
    rows = [np.array([1, 2, 3]), [4]]
    assert pad_rows(rows, 9).tolist() == [[1, 2, 3], [4, 9, 9]]
    assert attention_mask(rows).tolist() == [[1, 1, 1], [1, 0, 0]]
    assert pad_rows([], 0).shape == (0, 1)
    assert pad_rows([[], []], 9).tolist() == [[9], [9]]
    assert attention_mask([[], []]).tolist() == [[0], [0]]


@pytest.mark.parametrize("masking", ["static", "dynamic"])
def test_masked_positions_point_into_the_flat_batch(make, tokenizer, masking):
    data = make(masking=masking, masked_lm_prob=0.3)
    plain = make(masking=masking, masked_lm_prob=0.0)
    indices = np.array([5, 0, 17, 3])
    batch = PretrainingCollator(data, tokenizer, seed=0)(indices, 0)
    width = int(data.lengths[indices].max())
    assert batch["input_ids"].shape == (4, width)
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    restored = batch["input_ids"].flatten().clone()
    restored[batch["masked_positions"]] = batch["masked_labels"]
    for row, index in zip(restored.view(4, width), indices, strict=True):
        length = int(data.lengths[index])
        assert row[:length].tolist() == plain[index].input_ids.tolist()
        assert row[length:].tolist() == [tokenizer.pad_token_id] * (width - length)
    assert batch["attention_mask"].sum(dim=1).tolist() == data.lengths[indices].tolist()
    expected = [data[index].next_sentence_label for index in indices]
    assert batch["next_sentence_labels"].tolist() == expected
    assert batch["token_type_ids"][0].sum() == data[5].token_type_ids.sum()


def test_static_masks_are_those_of_the_data(make, tokenizer):
    data = make()
    batch = PretrainingCollator(data, tokenizer, seed=0)(np.array([7]), 3)
    assert batch["masked_positions"].tolist() == data[7].masked_lm_positions.tolist()
    assert batch["masked_labels"].tolist() == data[7].masked_lm_ids.tolist()


def test_dynamic_masks_change_with_the_epoch_and_with_nothing_else(make, tokenizer):
    data = make(masking="dynamic")
    collate = PretrainingCollator(data, tokenizer, seed=0)
    one, again, later = (collate(np.array([4, 9]), epoch) for epoch in (0, 0, 1))
    assert torch.equal(one["input_ids"], again["input_ids"])
    assert not torch.equal(one["masked_positions"], later["masked_positions"])
    alone = collate(np.array([4]), 0)
    length = int(data.lengths[4])
    assert torch.equal(alone["input_ids"][0], one["input_ids"][0, :length])
    other = PretrainingCollator(data, tokenizer, seed=1)(np.array([4, 9]), 0)
    assert not torch.equal(one["masked_positions"], other["masked_positions"])


def test_fixed_masks_are_the_same_in_every_epoch(make, tokenizer):
    collate = PretrainingCollator(make(masking="dynamic"), tokenizer, seed=0, fixed_masks=True)
    first, later = collate(np.arange(8), 0), collate(np.arange(8), 5)
    assert all(torch.equal(first[name], later[name]) for name in first)


def test_without_next_sentence_there_are_no_labels(make, tokenizer):
    batch = PretrainingCollator(make(objective="none"), tokenizer, seed=0)(np.arange(3), 0)
    assert sorted(batch) == [
        "attention_mask",
        "input_ids",
        "masked_labels",
        "masked_positions",
        "token_type_ids",
    ]


def test_sentence_order_has_its_own_labels(make, tokenizer):
    data = make(objective="sop")
    batch = PretrainingCollator(data, tokenizer, seed=0)(np.arange(40), 0)
    labels = [data[index].sentence_order_label for index in range(40)]
    assert batch["sentence_order_labels"].tolist() == labels and set(labels) == {0, 1}
    assert "next_sentence_labels" not in batch


def test_whole_words_are_masked_in_dynamic_data_too(make, tokenizer):
    data = make(masking="dynamic", masking_unit="whole_word", masked_lm_prob=0.5)
    collate = PretrainingCollator(data, tokenizer, seed=0)
    pieces = np.array(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    inside = np.char.startswith(pieces, "##")
    for index in range(20):
        chosen = np.zeros(data.lengths[index], dtype=bool)
        chosen[collate(np.array([index]), 0)["masked_positions"].numpy()] = True
        for position in np.flatnonzero(inside[data[index].input_ids]):
            if data[index].input_ids[position - 1] not in tokenizer.all_special_ids:
                assert chosen[position] == chosen[position - 1]
