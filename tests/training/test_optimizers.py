"""Which parameters decay and at which rate they learn, and AdamW's update against its formula."""

import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
)

from nlpapp.errors import ConfigError
from nlpapp.models.bert import BertPretrainingModel
from nlpapp.training.lamb import Lamb
from nlpapp.training.optimizers import OptimizerConfig, build_optimizer, parameter_groups

TINY = {
    "num_hidden_layers": 3,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 11,
    "embedding_size": 4,
}


def test_only_matrices_decay():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    model[1].weight.requires_grad_(False)
    decayed, kept = parameter_groups(model, OptimizerConfig(weight_decay=0.1))
    assert [tuple(p.shape) for p in decayed["params"]] == [(5, 4)]
    assert [tuple(p.shape) for p in kept["params"]] == [(3,), (3,), (3,)]
    assert decayed["weight_decay"] == 0.1 and kept["weight_decay"] == 0.0
    assert decayed["adapt"] and not kept["adapt"]


def test_two_updates_equal_the_formula():
    config = OptimizerConfig(
        learning_rate=0.1, weight_decay=0.01, beta1=0.9, beta2=0.99, epsilon=1e-6
    )
    linear = nn.Linear(3, 2, bias=False)
    expected = linear.weight.detach().clone().double()
    optimizer = build_optimizer(linear, config)
    assert optimizer.defaults["fused"]
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


def test_lamb_takes_the_same_options():
    config = OptimizerConfig(name="lamb", learning_rate=0.2, beta1=0.5, beta2=0.6, epsilon=1e-3)
    optimizer = build_optimizer(nn.Linear(2, 2), config)
    assert isinstance(optimizer, Lamb)
    matrices, rest = optimizer.param_groups
    for group in (matrices, rest):
        assert (group["lr"], group["betas"], group["eps"]) == (0.2, (0.5, 0.6), 1e-3)
    assert (matrices["weight_decay"], matrices["adapt"]) == (0.01, True)
    assert (rest["weight_decay"], rest["adapt"]) == (0.0, False)


def rates(model) -> dict[str, float]:
    """Return the rate of each parameter, of 1 at the top, under a decay of one half."""
    groups = parameter_groups(model, OptimizerConfig(learning_rate=1.0, layer_decay=0.5))
    owner = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert groups[-1]["lr"] == 1.0, "the last group's rate is the one that is logged"
    return {name: owner[id(p)] for name, p in model.named_parameters()}


def expected_rates(names, layer, heads) -> dict[str, float]:
    """Heads 1, the three layers 1/2, 1/4, 1/8 from the top, embeddings 1/16."""
    found = {}
    for name in names:
        number = next((n for n in range(3) if f"{layer}.{n}." in name), None)
        top = any(head in name for head in heads)
        found[name] = 1.0 if top else 1 / 16 if number is None else 0.5 ** (3 - number)
    return found


@pytest.mark.parametrize(
    ("model", "layer", "heads"),
    [
        (lambda: BertForSequenceClassification(BertConfig(**TINY)), "layer", ["classif", "pooler"]),
        (
            lambda: BertPretrainingModel(BertForPreTraining(BertConfig(**TINY))),
            "layer",
            ["cls.", "pooler"],
        ),
        (lambda: ElectraForSequenceClassification(ElectraConfig(**TINY)), "layer", ["classifier"]),
        (
            lambda: DistilBertForSequenceClassification(
                DistilBertConfig(n_layers=3, dim=8, n_heads=2, hidden_dim=8, vocab_size=11)
            ),
            "layer",
            ["classifier"],
        ),
    ],
    ids=["bert", "bert-pretraining", "electra", "distilbert"],
)
def test_each_layer_learns_slower_than_the_one_above_it(model, layer, heads):
    found = rates(model())
    assert found == expected_rates(found, layer, heads)
    assert len(set(found.values())) == 5


def test_frozen_layers_keep_their_place():
    model = BertForSequenceClassification(BertConfig(**TINY))
    model.bert.encoder.layer[2].requires_grad_(False)
    groups = parameter_groups(model, OptimizerConfig(learning_rate=1.0, layer_decay=0.5))
    assert {group["lr"] for group in groups} == {1 / 16, 1 / 8, 1 / 4, 1.0}


@pytest.mark.parametrize(
    "model",
    [
        lambda: nn.Linear(2, 2),
        lambda: AlbertModel(AlbertConfig(**TINY)),  # One layer, used three times.
    ],
    ids=["linear", "albert"],
)
def test_a_model_without_layers_to_tell_apart_is_refused(model):
    with pytest.raises(ConfigError, match="no stack of layers .* set optimizer.layer_decay to 1"):
        parameter_groups(model(), OptimizerConfig(layer_decay=0.9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -1.0}, "optimizer.learning_rate is -1.0; it must be 0 or more"),
        ({"learning_rate": float("nan")}, "optimizer.learning_rate is nan"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay is -1.0"),
        ({"epsilon": -1.0}, "optimizer.epsilon is -1.0"),
        ({"beta1": 1.0}, "beta1 and beta2"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0"),
        (
            {"name": "adam"},
            "optimizer.name is 'adam'; expected adamw or lamb. Did you mean 'adamw'",
        ),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        OptimizerConfig(**options)
