"""The model against the paper's formulas, written out with loops."""

import math

import pytest
import torch
from torch.nn.functional import layer_norm
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import nlpapp.models  # noqa: F401 - registers the model
from nlpapp.errors import ConfigError
from nlpapp.models.transformer_xl import (
    TransformerXLConfig,
    TransformerXLLMHeadModel,
    TransformerXLModel,
)


def tiny(**options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = TransformerXLConfig(**sizes | {"intermediate_size": 24, "mem_len": 6} | options)
    model = TransformerXLLMHeadModel(config).eval()
    with torch.no_grad():  # larger than the initial weights, so that every term counts
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4 + ("norm.weight" in name))
    return model


def random_ids(*shape, seed=1):
    return torch.randint(0, 40, shape, generator=torch.Generator().manual_seed(seed))


def sinusoid(distance, width):
    """R of one distance: sines, then cosines, of distance / 10000^(2k / width)."""
    angles = [distance / 10000 ** (2 * k / width) for k in range(width // 2)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def plain_attention(layer, model, segment, context, first_position):
    """Section 3.3 of the paper, one query, key and head at a time: (T, D)."""
    heads, width = model.config.num_attention_heads, model.config.hidden_size
    head_width = width // heads
    key_weight, value_weight = layer.attention.key_value.weight.chunk(2)
    outputs = []
    for i, hidden in enumerate(segment):
        position = first_position + i
        parts = []
        for head in range(heads):
            rows = slice(head * head_width, (head + 1) * head_width)
            u, v = model.content_bias[head, 0], model.position_bias[head, 0]
            query = layer.attention.query.weight[rows] @ hidden
            scores = []
            for j in range(position + 1):
                distance = position - j
                if model.config.clamp_len is not None:
                    distance = min(distance, model.config.clamp_len)
                key = key_weight[rows] @ context[j]
                relative = layer.attention.position.weight[rows] @ sinusoid(distance, width)
                scores.append(((query + u) @ key + (query + v) @ relative) / math.sqrt(head_width))
            weights = torch.stack(scores).softmax(0)
            values = [value_weight[rows] @ context[j] for j in range(position + 1)]
            parts.append(sum(w * value for w, value in zip(weights, values, strict=True)))
        outputs.append(layer.attention.output.weight @ torch.cat(parts))
    return torch.stack(outputs)


def norm(vectors, module):
    return layer_norm(vectors, (vectors.shape[-1],), module.weight, module.bias)


def plain_model(model, ids, memory):
    """Hidden vectors and layers' inputs of one lane: ids (T,), memory a (M, D) tensor a layer."""
    hidden = model.embedding(ids) * math.sqrt(model.config.hidden_size)
    inputs = []
    for layer, old in zip(model.layers, memory, strict=True):
        inputs.append(hidden)
        context = torch.cat([old, hidden])
        if model.config.pre_norm:
            context = norm(context, layer.attention_norm)
        segment = context[len(old) :] if model.config.pre_norm else hidden
        hidden = hidden + plain_attention(layer, model, segment, context, len(old))
        inner = norm(hidden, layer.feed_forward_norm) if model.config.pre_norm else hidden
        if not model.config.pre_norm:
            hidden = inner = norm(hidden, layer.attention_norm)
        inner = torch.relu(layer.feed_forward_in(inner))
        hidden = hidden + layer.feed_forward_out(inner)
        if not model.config.pre_norm:
            hidden = norm(hidden, layer.feed_forward_norm)
    return (norm(hidden, model.final_norm) if model.config.pre_norm else hidden), inputs


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("clamp_len", [None, 3])
@torch.no_grad()
def test_equals_the_formulas_written_out(pre_norm, clamp_len):
    model = tiny(pre_norm=pre_norm, clamp_len=clamp_len, cutoffs=[10, 20], div_val=2).transformer
    ids = random_ids(2, 5)
    memory = tuple(torch.randn(2, 4, 16) for _ in range(2))
    output = model(ids, memory=memory)
    for lane in range(2):
        expected, inputs = plain_model(model, ids[lane], [old[lane] for old in memory])
        torch.testing.assert_close(output.last_hidden_state[lane], expected, atol=1e-5, rtol=1e-5)
        for layer in range(2):
            remembered = torch.cat([memory[layer][lane], inputs[layer]])[-6:]
            torch.testing.assert_close(output.memory[layer][lane], remembered, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cuts", [(3, 4, 5), (1,) * 12, (11, 1), (12,)])
@torch.no_grad()
def test_segments_with_enough_memory_equal_one_pass(cuts):
    """Distances, not positions, enter the model, so cached states are those of the whole text."""
    model = tiny(mem_len=12, cutoffs=[10, 20], div_val=2)
    ids = random_ids(2, 12)
    whole = model(ids, mem_len=0).logits
    parts, memory = [], None
    for segment in ids.split(cuts, dim=1):
        output = model(segment, memory=memory)
        memory = output.memory
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_memory_holds_the_last_positions_and_its_length_can_change():
    model = tiny(mem_len=6)
    first = model(random_ids(2, 4))
    assert [tuple(old.shape) for old in first.memory] == [(2, 4, 16)] * 2
    second = model(random_ids(2, 4), memory=first.memory)
    assert [tuple(old.shape) for old in second.memory] == [(2, 6, 16)] * 2
    torch.testing.assert_close(second.memory[0][:, :2], first.memory[0][:, 2:])
    longer = model(random_ids(2, 4), memory=second.memory, mem_len=9)
    assert longer.memory[0].shape[1] == 9
    shorter = model(random_ids(2, 4), memory=longer.memory, mem_len=2)
    assert shorter.memory[0].shape[1] == 2
    assert model(random_ids(2, 4), memory=shorter.memory, mem_len=0).memory == ()


def test_memory_changes_predictions_and_carries_no_gradient():
    model = tiny()
    first, second = random_ids(1, 4), random_ids(1, 4, seed=2)
    memory = model(first).memory
    assert all(not old.requires_grad and old.grad_fn is None for old in memory)
    with_memory, without = model(second, memory=memory).logits, model(second).logits
    assert not torch.allclose(with_memory, without)
    assert isinstance(memory, tuple)


@torch.no_grad()
def test_no_token_sees_the_future():
    model = tiny()
    ids = random_ids(1, 8)
    changed = ids.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 40
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :5], after[:, :5], atol=0, rtol=0)
    assert not torch.allclose(before[:, 5:], after[:, 5:])


@torch.no_grad()
def test_loss_is_that_of_the_predicted_labels_only():
    model = tiny(cutoffs=[10], div_val=2)
    ids, labels = random_ids(2, 5), random_ids(2, 5, seed=3)
    labels[1, 3:] = -100
    log_probabilities = model(ids).logits
    losses = [
        -log_probabilities[b, t, labels[b, t]]
        for b in range(2)
        for t in range(5)
        if labels[b, t] >= 0
    ]
    output = model(ids, labels=labels)
    torch.testing.assert_close(output.loss_sum, torch.stack(losses).sum())
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())
    torch.testing.assert_close(model(ids, logits_to_keep=1).logits, log_probabilities[:, -1:])


def test_every_parameter_is_trained():
    model = tiny(cutoffs=[10, 20], div_val=2, tie_word_embeddings=False).train()
    output = model(random_ids(2, 30), labels=random_ids(2, 30, seed=2))
    output.loss.backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()
    ] == []


def test_tying_shares_vectors_and_projections():
    def names(model):
        return {name for name, _ in model.named_parameters()}

    tied = tiny(cutoffs=[10], div_val=2)
    untied = tiny(cutoffs=[10], div_val=2, tie_word_embeddings=False)
    assert names(untied) - names(tied) == {
        "output_tables.clusters.0.weight",
        "output_tables.clusters.1.weight",
        "output_tables.clusters.1.projection",
    }


@pytest.mark.parametrize("tie", [True, False])
@torch.no_grad()
def test_a_saved_model_loads_with_the_auto_classes(tmp_path, tie):
    model = tiny(cutoffs=[10, 20], div_val=2, clamp_len=5, pre_norm=True, tie_word_embeddings=tie)
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    ids = random_ids(2, 7)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, TransformerXLLMHeadModel)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=0, rtol=0)
    body = AutoModel.from_pretrained(tmp_path)
    assert isinstance(body, TransformerXLModel)
    expected = model.transformer(ids).last_hidden_state
    torch.testing.assert_close(body(ids).last_hidden_state, expected, atol=0, rtol=0)
    found, expected = (
        AutoConfig.from_pretrained(tmp_path).to_diff_dict(),
        model.config.to_diff_dict(),
    )
    assert {name: found[name] for name in expected if name != "_name_or_path"} == expected


def test_weights_start_as_the_table_in_the_module_says():
    torch.manual_seed(0)
    config = TransformerXLConfig(
        vocab_size=9000,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        cutoffs=[3000, 6000],
        div_val=2,
        tie_word_embeddings=False,
        pre_norm=True,
    )
    for name, parameter in TransformerXLLMHeadModel(config).named_parameters():
        mean, std = float(parameter.detach().mean()), float(parameter.detach().std(correction=0))
        if name.endswith("norm.weight"):
            expected = (1.0, 0.02)
        elif "projection" in name:
            expected = (0.0, 0.01)
        elif name.endswith(("weight", "content_bias", "position_bias")):
            expected = (0.0, 0.02)
        else:
            assert name.endswith("bias")
            expected = (0.0, 0.0)
        tolerance = 5 * expected[1] / math.sqrt(parameter.numel())  # five standard errors
        assert mean == pytest.approx(expected[0], abs=tolerance), name
        assert std == pytest.approx(expected[1], abs=tolerance), name


def test_dropout_works_in_training_only():
    model = tiny(dropout=0.5, attention_dropout=0.5)
    ids = random_ids(1, 6)
    torch.testing.assert_close(model(ids).logits, model(ids).logits, atol=0, rtol=0)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 30, "num_attention_heads": 4}, "hidden_size: 30"),
        ({"hidden_size": 9, "num_attention_heads": 3}, "hidden_size: 9 must be even"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: 0"),
        ({"mem_len": -1}, "mem_len: -1 is negative"),
        ({"clamp_len": 0}, "clamp_len: 0 would make all distances equal"),
        ({"div_val": 5}, "div_val: 5 must be 1, 2, 3 or 4"),
        ({"dropout": 1.5}, "dropout: 1.5"),
        ({"cutoffs": [20, 10]}, "10 follows 20"),
        ({"cutoffs": [10000], "vocab_size": 10000}, "10000 is not below"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        TransformerXLConfig(**options)
