"""Dropout: what is drawn, what stays, and what goes back."""

import pytest
import torch

from nlpapp.models.dropout import Dropout, dropout, keep_mask


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_values_are_dropped_at_the_rate_and_independently(rate):
    torch.manual_seed(0)
    mask, factor = keep_mask(torch.empty(1000, 1000), rate)
    assert mask.dtype == torch.int8
    assert set(mask.unique().tolist()) == {0, 1}
    assert factor == pytest.approx(1 / (1 - rate), rel=1e-4)
    kept = mask.double()
    error = (rate * (1 - rate) / kept.numel()) ** 0.5  # standard, of the mean
    assert kept.mean().item() == pytest.approx(1 - rate, abs=5 * error)
    values = kept.flatten() - kept.mean()
    for distance in (1, 2, 3, 4, 1000):  # four values share a random number
        correlation = (values[:-distance] * values[distance:]).mean() / values.var()
        assert abs(correlation.item()) < 5 / 1000


def test_what_stays_is_scaled_and_so_is_its_gradient():
    torch.manual_seed(0)
    inputs = torch.randn(7, 9, requires_grad=True)
    outputs = dropout(inputs, 0.25)
    kept = outputs != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(outputs, torch.where(kept, inputs / 0.75, 0.0))
    outputs.sum().backward()
    torch.testing.assert_close(inputs.grad, kept / 0.75)


def test_the_factor_is_that_of_the_rounded_rate():
    """1 of 65,536 levels is left of a rate so near 1, and the mean is kept all the same."""
    assert keep_mask(torch.empty(1), 0.99999)[1] == 65536.0
    assert keep_mask(torch.empty(1), 1e-9)[1] == 65536 / 65535


def test_rates_0_and_1():
    inputs = torch.randn(4, 3)
    assert dropout(inputs, 0.0) is inputs
    assert not dropout(inputs, 1.0).any()
    assert dropout(torch.empty(0, 3), 0.5).shape == (0, 3)


def test_the_same_seed_drops_the_same_and_evaluation_drops_nothing():
    layer, inputs = Dropout(0.5), torch.randn(20, 20)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(layer(inputs))
    assert torch.equal(*found)
    assert not torch.equal(found[0], layer(inputs))
    assert layer.eval()(inputs) is inputs
