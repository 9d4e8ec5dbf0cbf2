import math

import numpy as np
import pytest
import torch

from nlpapp.errors import ConfigError
from nlpapp.evaluation.context_windows import (
    MemoryReader,
    compare_with_windows,
    context_losses,
    relative_effective_context_length,
    relative_gain,
    window_losses,
)
from nlpapp.models.transformer_xl import TransformerXLConfig, TransformerXLLMHeadModel

VOCAB = 20


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = TransformerXLConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        mem_len=8,
    )
    model = TransformerXLLMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture(scope="module")
def token_ids():
    return np.random.default_rng(0).integers(0, VOCAB, 120).astype(np.uint8)


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


def test_losses_by_length_of_context_are_of_the_same_tokens(model, token_ids):
    found = context_losses(model, token_ids, lengths=[4, 8], num_targets=3)
    assert found.shape == (2, 3)
    for row, length in zip(found, (4, 8), strict=True):
        targets = np.array([8, 63, 119])
        expected = window_losses(model, token_ids, targets, window=length, batch_size=1)
        np.testing.assert_allclose(row, expected, rtol=1e-5)


def test_a_text_too_short_is_named(model, token_ids):
    sizes = {"segment_length": 8, "num_windows": 2, "num_tokens": 30}
    with pytest.raises(ConfigError, match="has 120 tokens; .* needs 131"):
        compare_with_windows(model, token_ids, attention_length=100, **sizes)
    with pytest.raises(ConfigError, match="too few for a context of 200"):
        context_losses(model, token_ids, lengths=[100, 200], num_targets=3)


# Two models, two contexts, two tokens. The baseline of the short context is (2, 1).
LOSSES = np.array([[[2.0, 3.0], [1.0, 2.0]], [[4.0, 1.0], [3.0, 0.5]]])


@pytest.mark.parametrize(
    ("model_index", "ratio", "short", "long"),
    [
        (0, 1.0, (2 + 1) / 2, (1 + 1) / 2),
        (1, 1.0, (2 + 1) / 2, (2 + 0.5) / 2),
        (0, 0.5, 2, 1),  # the hardest half: the first token
        (1, 0.5, 2, 2),  # better with the longer context, but no better than model 0 without it
    ],
)
def test_relative_gain_is_the_papers(model_index, ratio, short, long):
    expected = (math.exp(short) - math.exp(long)) / math.exp(short)
    assert relative_gain(LOSSES, model_index, 0, 1, ratio=ratio) == pytest.approx(expected)


def test_the_effective_length_is_where_gains_end():
    steps = np.array([3.0, 2.5, 2.2, 2.195, 1.0])  # the third step gains half a percent
    losses = np.repeat(steps[None, :, None], 4, axis=2)
    lengths = [10, 20, 30, 40, 50]
    assert relative_effective_context_length(losses, lengths, 0) == 30
    assert relative_effective_context_length(losses, lengths, 0, threshold=0.001) == 50
    assert relative_effective_context_length(losses, lengths, 0, threshold=0.9) == 10


def test_losses_beyond_exp_have_a_gain():
    losses = np.array([[[2000.0], [1999.0]]])
    assert relative_gain(losses, 0, 0, 1) == pytest.approx(1 - math.exp(-1))
