import numpy as np
import pytest
import torch
from transformers import AutoConfig

from nlpapp.deployment.parity import compare, random_feeds, random_memory_feeds, random_shapes
from tests.deployment.models import build_model


def test_shapes_have_the_ends_and_small_ones_often():
    shapes = random_shapes(np.random.default_rng(0), max_seq_length=128)
    assert len(shapes) == 200 and {(1, 1), (1, 128), (64, 1), (64, 128)} <= set(shapes)
    assert all(1 <= rows <= 64 and 1 <= width <= 128 for rows, width in shapes)
    assert np.mean([rows <= 8 for rows, _ in shapes]) > 0.35
    assert max(rows for rows, _ in shapes[4:]) > 48 and min(w for _, w in shapes[4:]) == 1


def test_feeds_are_a_function_of_the_seed_with_one_full_row_and_no_padding_piece_inside():
    model = build_model("roberta")
    first, second, other = (
        list(random_feeds(model, ["input_ids", "attention_mask"], max_seq_length=20, seed=seed))
        for seed in (1, 1, 2)
    )
    for feed, again in zip(first, second, strict=True):
        np.testing.assert_array_equal(feed["input_ids"], again["input_ids"])
        mask = feed["attention_mask"].astype(bool)
        assert mask.all(axis=1).any() and mask.any(axis=1).all()
        assert (feed["input_ids"][mask] != 1).all() and (feed["input_ids"][~mask] == 1).all()
    assert any(
        a["input_ids"].shape != b["input_ids"].shape for a, b in zip(first, other, strict=True)
    )


def test_memory_of_every_length_is_among_the_feeds():
    config = AutoConfig.for_model("transformer_xl", vocab_size=30, hidden_size=8, mem_len=5)
    feeds = list(random_memory_feeds(config, mem_len=5, max_seq_length=6, seed=0, batches=60))
    lengths = {feed["memory_0"].shape[1] for feed in feeds}
    assert lengths == set(range(6)) and feeds[0]["memory_0"].shape[1] == 0
    assert {name for name in feeds[0]} == {"input_ids", *(f"memory_{i}" for i in range(4))}


def feeds_of(*shapes):
    for rows, width in shapes:
        mask = np.ones((rows, width), dtype=np.int64)
        mask[0, width // 2 + 1 :] = 0
        yield {"input_ids": np.zeros((rows, width)), "attention_mask": mask}


def test_differences_are_the_largest_of_any_batch_and_agreement_counts_rows():
    logits = {2: np.array([[1.0, 2.0], [3.0, 0.0]]), 1: np.array([[5.0, -7.0]])}
    shifted = {2: np.array([[1.0, 2.25], [0.0, 0.5]]), 1: np.array([[5.0, -7.5]])}
    found = compare(
        lambda feed: [logits[len(feed["input_ids"])]],
        {"other": lambda feed: [shifted[len(feed["input_ids"])]]},
        feeds_of((2, 3), (1, 4)),
    )["other"]
    assert (found.largest, found.scale, found.batches) == (3.0, 7.0, 2)
    assert found.agreement == pytest.approx(2 / 3)


@pytest.mark.parametrize("wrong", [np.full((1, 2), np.nan), np.zeros((1, 3))])
def test_what_is_no_number_or_of_another_shape_is_no_small_difference(wrong):
    found = compare(
        lambda feed: [np.zeros((1, 2))], {"x": lambda feed: [wrong]}, feeds_of((1, 1), (1, 2))
    )
    assert np.isnan(found["x"].largest)


def test_hidden_states_at_padding_do_not_count():
    def states(feed, padding):
        inside = torch.from_numpy(feed["attention_mask"][:, :, None].astype(bool)).expand(-1, -1, 3)
        return [torch.where(inside, 1.0, padding).numpy()]

    found = compare(
        lambda feed: states(feed, 0.0), {"x": lambda feed: states(feed, 9.0)}, feeds_of((2, 6))
    )
    assert found["x"].largest == 0.0 and found["x"].agreement == 1.0
