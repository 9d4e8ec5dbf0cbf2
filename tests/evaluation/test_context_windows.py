import numpy as np
import pytest
import torch

from nlpapp.errors import ConfigError
from nlpapp.evaluation.context_windows import (
    MemoryReader,
    compare_with_windows,
    window_losses,
)


def plain_loss(model, context, target):
    """Read ``context`` at once, without memory, and score ``target``."""
    inputs = torch.from_numpy(context.astype(np.int64))[None]
    with torch.no_grad():
        return -float(model(inputs, mem_len=0).logits[0, -1, int(target)])


def test_a_window_is_a_text_of_its_own(model, token_ids):
    targets = np.array([10, 40, 11, 119, 70])
    found = window_losses(model, token_ids, targets, window=10, batch_size=2)
    expected = [plain_loss(model, token_ids[t - 10 : t], token_ids[t]) for t in targets]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("segment_length", [1, 7, 50])
def test_a_memory_of_everything_is_the_text_read_at_once(model, token_ids, segment_length):
    reader = MemoryReader(model, segment_length=segment_length, mem_len=200)
    found, seconds = reader.losses(token_ids, 30, 20)
    expected = [plain_loss(model, token_ids[:t], token_ids[t]) for t in range(30, 50)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert seconds > 0


def test_a_comparison_is_of_the_same_tokens(model, token_ids):
    found = compare_with_windows(
        model,
        token_ids,
        attention_length=16,
        segment_length=8,
        num_windows=5,
        num_tokens=40,
        turns=1,
    )
    expected = [plain_loss(model, token_ids[t - 16 : t], token_ids[t]) for t in range(17, 22)]
    assert found.window_loss == pytest.approx(np.mean(expected), rel=1e-5)
    reader = MemoryReader(model, segment_length=8, mem_len=16)
    assert found.memory_loss == pytest.approx(reader.losses(token_ids, 17, 5)[0].mean(), rel=1e-5)
    assert found.speed_up == pytest.approx(found.window_seconds / found.memory_seconds)


def test_a_text_too_short_is_named(model, token_ids):
    sizes = {"segment_length": 8, "num_windows": 2, "num_tokens": 30}
    with pytest.raises(ConfigError, match="has 120 tokens; .* needs 131"):
        compare_with_windows(model, token_ids, attention_length=100, **sizes)
