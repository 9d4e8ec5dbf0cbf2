"""Attention against transformers' own numbers, and of the Transformer-XL against plain loops."""

import math

import numpy as np
import pytest
import torch
import transformers

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.attention_maps import (
    chosen_layers,
    encoder_attention,
    open_encoder,
    transformer_xl_attention,
)
from nlpapp.models.bert_size import BertSizeConfig
from tests.models.test_transformer_xl import random_ids, sinusoid, tiny

LENGTH = 9
SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "initializer_range": 0.5,
}
DISTILBERT = {"vocab_size": 60, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 20}
PLAIN = {
    "Bert": SIZES,
    "Roberta": SIZES,
    "XLMRoberta": SIZES,
    "DistilBert": DISTILBERT | {"initializer_range": 0.5},
    "Electra": SIZES | {"embedding_size": 8},
    "Albert": SIZES | {"embedding_size": 8},
    "NomicBert": SIZES,
}
"""Architectures whose scores are products of queries and keys alone."""
WEIGHTS_ONLY = {"Deberta": SIZES, "DebertaV2": SIZES, "MPNet": SIZES}


def encoder(name, sizes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**sizes)
    return transformers.AutoModel.from_config(config).eval()


def inputs_of(length=LENGTH):
    ids = torch.randint(5, 60, (1, length), generator=torch.Generator().manual_seed(1))
    types = (torch.arange(length) >= length // 2).long()[None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": types,
    }


def expected_weights(model, inputs):
    """What transformers itself gives, from its eager functions."""
    model.set_attn_implementation("eager")
    accepted = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        accepted["token_type_ids"] = inputs["token_type_ids"]
    with torch.no_grad():
        return torch.cat(model(**accepted, output_attentions=True).attentions).numpy()


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", PLAIN)
def test_weights_queries_and_keys_agree_with_transformers(name):
    model, inputs = encoder(name, PLAIN[name]), inputs_of()
    before = model.config._attn_implementation
    with torch.no_grad():
        output = model(inputs["input_ids"]).last_hidden_state
    maps = encoder_attention(model, inputs)
    assert model.config._attn_implementation == before
    with torch.no_grad():  # recording has left nothing behind
        assert torch.equal(model(inputs["input_ids"]).last_hidden_state, output)
    expected = expected_weights(model, inputs)
    assert maps.weights.shape == (2, 4, LENGTH, LENGTH)
    assert maps.queries.shape == maps.keys.shape == (2, 4, LENGTH, 4)
    np.testing.assert_allclose(maps.weights, expected, atol=1e-6)
    scores = np.einsum("lnih,lnjh->lnij", maps.queries, maps.keys) / math.sqrt(4)
    np.testing.assert_allclose(softmax(scores), expected, atol=1e-5)
    np.testing.assert_allclose(maps.scales, [0.5, 0.5])
    assert maps.weights.max() > 0.5, "attention that is the same everywhere tests nothing"


@pytest.mark.parametrize("name", WEIGHTS_ONLY)
def test_other_scores_give_only_the_weights(name):
    model, inputs = encoder(name, WEIGHTS_ONLY[name]), inputs_of()
    maps = encoder_attention(model, inputs)
    np.testing.assert_allclose(maps.weights, expected_weights(model, inputs), atol=1e-6)
    assert maps.queries is None
    assert maps.keys is None


def test_a_window_of_attention_stays_a_window():
    ids = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
    ids |= {"eos_token_id": 2, "bos_token_id": 1}
    model = encoder("ModernBert", SIZES | ids | {"local_attention": 4})
    inputs = inputs_of()
    maps = encoder_attention(model, inputs)
    np.testing.assert_allclose(maps.weights, expected_weights(model, inputs), atol=1e-6)
    assert (maps.weights == 0).any(), "the second layer sees two tokens to each side"


@pytest.mark.parametrize("name", ["FNet", "Longformer"])
def test_a_model_without_a_full_map_is_refused_by_name(name):
    sizes = SIZES | ({"attention_window": 4} if name == "Longformer" else {})
    with pytest.raises(CheckpointError, match=rf"a '{name.lower()}' .*expected BERT.*DeBERTa"):
        encoder_attention(encoder(name, sizes), inputs_of())


def test_an_error_while_reading_leaves_the_model_as_it_was():
    model = encoder("Bert", SIZES)
    before = model.config._attn_implementation
    with pytest.raises(IndexError):
        encoder_attention(model, {"input_ids": torch.tensor([[1000]])})
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("clamp_len", [None, 4])
def test_transformer_xl_agrees_with_the_papers_formula(pre_norm, clamp_len):
    """Section 3.3 of the paper, one query and key at a time, for the first layer."""
    model = tiny(pre_norm=pre_norm, clamp_len=clamp_len)
    context, ids = random_ids(8)[:8].tolist(), random_ids(5, seed=2).tolist()
    maps = transformer_xl_attention(model, ids, context=context)
    memory, width, head_width = 6, 16, 8
    assert maps.weights.shape == (2, 2, 5, 11)
    layer = model.transformer.layers[0]
    weight, key_weight = layer.attention.query.weight, layer.attention.key_value.weight[:width]
    with torch.no_grad():
        hidden = model.transformer.embedding(torch.tensor(context[-memory:] + ids)) * 4.0
        hidden = layer.attention_norm(hidden) if pre_norm else hidden
        for head in range(2):
            rows = slice(head * head_width, (head + 1) * head_width)
            u = model.transformer.content_bias[head, 0]
            v = model.transformer.position_bias[head, 0]
            for i in range(5):
                query, scores = weight[rows] @ hidden[memory + i], []
                for j in range(memory + i + 1):
                    distance = min(memory + i - j, clamp_len or 100)
                    relative = layer.attention.position.weight[rows] @ sinusoid(distance, width)
                    key = key_weight[rows] @ hidden[j]
                    scores.append(((query + u) @ key + (query + v) @ relative) / head_width**0.5)
                found = maps.weights[0, head, i]
                expected = torch.stack(scores).softmax(0).numpy()
                np.testing.assert_allclose(found[: memory + i + 1], expected, atol=1e-5)
                assert not found[memory + i + 1 :].any(), "the future has no weight"


def test_transformer_xl_weights_make_what_the_layers_put_out():
    """The weights are computed a second time: each layer's own output is the witness."""
    model, outputs, values = tiny(), [], []

    def keep(module, inputs, output):
        outputs.append(output[0])
        values.append((module, module.projections(*inputs[:3])[1][1, :, 0]))  # (N, K, H)

    for layer in model.transformer.layers:
        layer.attention.register_forward_hook(keep)
    ids = random_ids(4, seed=3).tolist()
    maps = transformer_xl_attention(model, ids, context=random_ids(3).tolist())
    with torch.inference_mode():
        for layer in (0, 1):
            module, value = values[2 + layer]  # the first two are of the context
            attended = torch.tensor(maps.weights[layer]) @ value
            found = module.output(attended.transpose(0, 1).flatten(1))
            torch.testing.assert_close(found, outputs[2 + layer], atol=1e-5, rtol=1e-4)


def test_transformer_xl_scores_come_from_its_queries_and_keys():
    maps = transformer_xl_attention(
        tiny(), random_ids(5, seed=2).tolist(), context=random_ids(20).tolist(), mem_len=3
    )
    assert maps.weights.shape == (2, 2, 5, 8)
    scores = np.full(maps.weights.shape, -np.inf)
    for layer, head, i, j in np.ndindex(scores.shape):
        distance = 3 + i - j
        if distance >= 0:
            content = maps.queries[layer, head, i] @ maps.keys[layer, head, j]
            at = maps.position_keys[layer, head, distance]
            scores[layer, head, i, j] = content + maps.position_queries[layer, head, i] @ at
    expected = softmax(scores * maps.scales[:, None, None, None])
    np.testing.assert_allclose(maps.weights, expected, atol=1e-5)


def test_without_context_there_is_no_memory():
    maps = transformer_xl_attention(tiny(), [1, 2, 3])
    assert maps.weights.shape == (2, 2, 3, 3)
    np.testing.assert_array_equal(maps.weights[:, :, 0], [[[1, 0, 0]] * 2] * 2)


def test_open_encoder_makes_a_random_bert_to_try_things_out():
    size = BertSizeConfig(num_layers=1, hidden_size=8, num_heads=2, max_position_embeddings=16)
    model = open_encoder(None, size=size, vocab_size=60)
    assert encoder_attention(model, inputs_of()).weights.shape == (1, 2, LENGTH, LENGTH)
    with pytest.raises(CheckpointError, match="is not a model folder"):
        open_encoder("./absent", size=size, vocab_size=60)


def test_layers_are_counted_from_both_ends():
    assert chosen_layers(None, 3) == [0, 1, 2]
    assert chosen_layers([-1, 0, 2], 3) == [0, 2]
    for wrong in ([3], [-4], []):
        with pytest.raises(ConfigError, match="has the layers 0 to 2"):
            chosen_layers(wrong, 3)
