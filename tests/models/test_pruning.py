import zlib

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from nlpapp.errors import ConfigError
from nlpapp.models.pruning import PruningConfig, hold_zeros, prune_weights, weight_sizes


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def zeros(model):
    return [model[index].weight == 0 for index in (0, 1, 3)]


def test_each_matrix_loses_what_torchs_own_pruning_takes():
    model, other = build(), build()
    prune_weights(model, 0.7, "matrix")
    for index in (0, 1, 3):
        prune.l1_unstructured(other[index], "weight", amount=0.7)
        torch.testing.assert_close(model[index].weight, other[index].weight, rtol=0, atol=0)
        assert torch.equal(model[index].weight == 0, other[index].weight_mask == 0)
    torch.testing.assert_close(model[1].bias, build()[1].bias, rtol=0, atol=0)


def test_one_threshold_takes_what_torchs_global_pruning_takes():
    model, other = build(), build()
    prune_weights(model, 0.6, "global")
    places = [(other[index], "weight") for index in (0, 1, 3)]
    prune.global_unstructured(places, pruning_method=prune.L1Unstructured, amount=0.6)
    for index in (0, 1, 3):
        torch.testing.assert_close(model[index].weight, other[index].weight, rtol=0, atol=0)
    assert sum(int(found.sum()) for found in zeros(model)) == round(0.6 * (66 + 30 + 10))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_zeros_stay_while_the_rest_is_trained(weight_decay):
    model = build()
    prune_weights(model, 0.5, "matrix")
    before, dense = zeros(model), [model[index].weight.detach().clone() for index in (0, 1, 3)]
    hold_zeros(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=weight_decay)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.arange(11)).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(zeros(model), before, strict=True))
    for index, start, empty in zip((0, 1, 3), dense, before, strict=True):
        assert (model[index].weight != start)[~empty].any()


def test_sizes_count_what_is_left():
    model = nn.Linear(400, 10)
    full = weight_sizes(model)
    assert full["nonzero_parameters"] == 4010
    prune_weights(model, 0.9, "matrix")
    found = weight_sizes(model)
    assert found["nonzero_parameters"] == 410
    weight, bias = (part.detach().numpy().tobytes() for part in (model.weight, model.bias))
    assert found["compressed_bytes"] == len(zlib.compress(weight)) + len(zlib.compress(bias))
    assert found["compressed_bytes"] < full["compressed_bytes"] / 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "sparsity is 1.0; use 0 up to under 1"),
        ({"sparsity": -0.1}, "sparsity is -0.1"),
        ({"sparsity": 0.5, "max_steps": -1}, "max_steps is -1"),
        ({"max_steps": 5}, "nothing is pruned"),
        ({"scope": "global"}, "nothing is pruned"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PruningConfig(**options)
