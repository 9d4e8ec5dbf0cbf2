"""The feed-forward layer against its formula by autograd."""

import pytest
import torch
from torch import nn

from nlpapp.models.dropout import keep_mask
from nlpapp.models.feed_forward import feed_forward


def layers(width, inner, dtype):
    torch.manual_seed(0)
    return nn.Linear(width, inner, dtype=dtype), nn.Linear(inner, width, dtype=dtype)


def formula(hidden, first, second, rate):
    """By torch's own operations, with the mask that the same seed gives."""
    inner = torch.relu(hidden @ first.weight.t() + first.bias)
    torch.manual_seed(1)
    mask, factor = keep_mask(inner, rate) if rate else (1, 1)
    return (inner * mask * factor) @ second.weight.t() + second.bias


@pytest.mark.parametrize(
    ("shape", "inner", "dtype"),
    [((2, 3, 4), 6, torch.float64), ((5, 64, 64), 96, torch.float32)],  # the second by oneDNN
)
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_equals_the_formula_with_gradients(shape, inner, dtype, rate):
    first, second = layers(shape[-1], inner, dtype)
    hidden = torch.randn(shape, dtype=dtype, requires_grad=True)
    expected = formula(hidden, first, second, rate)
    torch.manual_seed(1)
    found = feed_forward(hidden, first, second, rate)
    torch.testing.assert_close(found, expected)
    inputs = [hidden, *first.parameters(), *second.parameters()]
    of_expected = torch.autograd.grad(expected.square().sum(), inputs)
    of_found = torch.autograd.grad(found.square().sum(), inputs)
    for mine, theirs in zip(of_found, of_expected, strict=True):
        tolerance = 1e-5 * theirs.abs().max().item()
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=1e-5)


def test_under_autocast_it_has_the_type_of_autocast():
    first, second = layers(8, 12, torch.float32)
    hidden = torch.randn(2, 3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = feed_forward(hidden, first, second, 0.0)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(
        found.float(), formula(hidden, first, second, 0.0), atol=0.02, rtol=0
    )
    found.sum().backward()
    assert hidden.grad is not None


def test_one_inner_tensor_is_remembered():
    first, second = layers(8, 80, torch.float64)
    kept = []

    def pack(tensor):
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        feed_forward(torch.randn(3, 8, dtype=torch.float64, requires_grad=True), first, second, 0.5)
    assert kept.count((3, 80)) == 1
    assert sorted(kept) == sorted([(3, 8), (3, 80), (80, 8), (8, 80)])
