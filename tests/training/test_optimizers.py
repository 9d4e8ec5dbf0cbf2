"""AdamW's update against its formula; biases and norms are not decayed."""

import pytest
import torch
from torch import nn

from nlpapp.errors import ConfigError
from nlpapp.training.optimizers import OptimizerConfig, build_optimizer, parameter_groups


def test_only_matrices_decay():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    model[1].weight.requires_grad_(False)
    decayed, kept = parameter_groups(model, 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(5, 4)]
    assert [tuple(p.shape) for p in kept["params"]] == [(3,), (3,), (3,)]
    assert decayed["weight_decay"] == 0.1 and kept["weight_decay"] == 0.0


def test_two_updates_equal_the_formula():
    config = OptimizerConfig(
        learning_rate=0.1, weight_decay=0.01, beta1=0.9, beta2=0.99, epsilon=1e-6
    )
    linear = nn.Linear(3, 2, bias=False)
    expected = linear.weight.detach().clone().double()
    optimizer = build_optimizer(linear, config)
    mean = square = torch.zeros_like(expected)
    for step in (1, 2):
        gradient = torch.full_like(linear.weight, 0.5 * step)
        linear.weight.grad = gradient
        optimizer.step()
        g = gradient.double()
        mean, square = 0.9 * mean + 0.1 * g, 0.99 * square + 0.01 * g * g
        update = (mean / (1 - 0.9**step)) / ((square / (1 - 0.99**step)).sqrt() + 1e-6)
        expected = expected * (1 - 0.1 * 0.01) - 0.1 * update
    torch.testing.assert_close(linear.weight.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{"learning_rate": -1.0}, {"beta1": 1.0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        OptimizerConfig(**options)
