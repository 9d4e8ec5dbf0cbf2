"""Both ways of attention against the plain formula, and against each other."""

import pytest
import torch

from nlpapp.models.relative_attention import (
    AbsoluteAttention,
    RelativeAttention,
    attend,
    relative_shift,
    visible_keys,
)

HEADS, LANES, WIDTH = 2, 3, 4


def inputs(length, num_keys, window=None, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (HEADS, LANES, length, WIDTH),
        (2, HEADS, LANES, num_keys, WIDTH),
        (HEADS, num_keys, WIDTH),
        (HEADS, 1, WIDTH),
        (HEADS, 1, WIDTH),
    ]
    tensors = [
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes
    ]
    return tensors, visible_keys(length, num_keys, window, like=tensors[0])


def formula(query, key_value, distance, u, v, mask):
    """One query and key at a time: (B, T, N, H)."""
    key, value = key_value
    length, num_keys = query.shape[2], key.shape[2]
    rows = []
    for i in range(length):
        seen = [j for j in range(num_keys) if mask[i, j] == 0]
        scores = []
        for j in seen:
            apart = i + (num_keys - length) - j
            relative = distance[:, num_keys - 1 - apart][:, None]
            content = ((query[:, :, i] + u) * key[:, :, j]).sum(-1)
            position = ((query[:, :, i] + v) * relative).sum(-1)
            scores.append((content + position) / WIDTH**0.5)
        weights = torch.stack(scores, -1).softmax(-1)
        rows.append((weights[..., None] * value[:, :, seen]).sum(2))
    return torch.stack(rows, 2).permute(1, 2, 0, 3)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 6), (4, 4), (4, 7), (5, 6)])
@pytest.mark.parametrize("window", [None, 3])
def test_equals_the_formula_with_gradients(fused, sizes, window):
    tensors, mask = inputs(*sizes, window)
    expected = formula(*tensors, mask)
    found = attend(*tensors, mask, 0.0, fused=fused)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(expected.shape, dtype=expected.dtype)
    of_expected = torch.autograd.grad((expected * weight).sum(), tensors)
    of_found = torch.autograd.grad((found * weight).sum(), tensors)
    for mine, theirs in zip(of_found, of_expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_with_dropout_gradients_are_those_of_differences():
    tensors, mask = inputs(3, 5)

    def with_dropout(*tensors):
        torch.manual_seed(1)  # the same weights are dropped each time
        return attend(*tensors, mask, 0.5)

    assert not torch.allclose(with_dropout(*tensors), attend(*tensors, mask, 0.0))
    assert torch.autograd.gradcheck(with_dropout, tensors)


def test_dropping_everything_leaves_nothing():
    tensors, mask = inputs(3, 5)
    assert not attend(*tensors, mask, 1.0).any()


def test_many_rows_by_the_wide_kernels_equal_the_fused_attention():
    """The sizes are those from which on oneDNN multiplies; float32."""
    torch.manual_seed(0)
    attention = RelativeAttention(64, HEADS, 32, 0.0)
    segment, memory = torch.randn(4, 64, 64), torch.randn(4, 32, 64)
    u, v, mask = *torch.randn(2, HEADS, 1, 32), visible_keys(64, 96, None, like=segment)
    positions = torch.randn(96, 64)
    found = attention(segment, memory, positions, u, v, mask)
    projected = attention.projections(segment, memory, positions)
    expected = attention.output(attend(*projected, u, v, mask, 0.0, fused=True).flatten(2))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    parameters = list(attention.parameters())
    of_found, of_expected = (
        torch.autograd.grad(output.square().sum(), parameters) for output in (found, expected)
    )
    for mine, theirs in zip(of_found, of_expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5 * theirs.abs().max().item(), rtol=1e-4)


def test_relative_shift_is_a_gather():
    scores = torch.randn(2, 3, 4, 7)
    shifted = relative_shift(scores)
    for query in range(4):
        for key in range(7):
            distance = (7 - 4) + query - key
            if distance >= 0:
                torch.testing.assert_close(
                    shifted[..., query, key], scores[..., query, 7 - 1 - distance]
                )


def test_visible_keys_are_those_before_and_in_the_window():
    low = float("-inf")
    like = torch.zeros(())
    assert visible_keys(2, 3, None, like).tolist() == [[0, 0, low], [0, 0, 0]]
    assert visible_keys(2, 4, 2, like).tolist() == [[low, 0, 0, low], [low, low, 0, 0]]


def test_a_memory_that_learns_nothing_gets_no_gradient_and_one_that_does_gets_it():
    attention = RelativeAttention(8, HEADS, WIDTH, 0.0)
    segment, memory = torch.randn(LANES, 2, 8, requires_grad=True), torch.randn(LANES, 3, 8)
    biases = torch.randn(2, HEADS, 1, WIDTH)
    mask = visible_keys(2, 5, None, like=segment)
    for learns in (False, True):
        memory.requires_grad_(learns)
        attention(segment, memory, torch.randn(5, 8), *biases, mask).sum().backward()
        assert (memory.grad is not None) is learns


@torch.no_grad()
def test_absolute_attention_is_torch_multi_head_attention():
    attention = AbsoluteAttention(8, HEADS, WIDTH, 0.0)
    reference = torch.nn.MultiheadAttention(8, HEADS, bias=False, batch_first=True)
    reference.in_proj_weight.copy_(torch.cat([attention.query.weight, attention.key_value.weight]))
    reference.out_proj.weight.copy_(attention.output.weight)
    segment = torch.randn(LANES, 5, 8)
    mask = visible_keys(5, 5, None, like=segment)
    expected, _ = reference(segment, segment, segment, attn_mask=mask)
    torch.testing.assert_close(attention(segment), expected, atol=1e-6, rtol=1e-5)
