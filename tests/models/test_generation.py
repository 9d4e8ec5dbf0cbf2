import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from nlpapp.errors import ConfigError
from nlpapp.models import generation
from nlpapp.models.generation import (
    check_sampling,
    equal_lengths,
    generate_batch,
    generate_ids,
    next_token_probabilities,
    penalise_repetition,
    sample_text,
)
from nlpapp.models.transformer_xl import TransformerXLConfig, TransformerXLLMHeadModel

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3]))


def build(**options):
    torch.manual_seed(0)
    config = TransformerXLConfig(
        **{
            "vocab_size": 40,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "mem_len": 100,
        }
        | options
    )
    model = TransformerXLLMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture
def model():
    return build()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"temperature": 0}, [0, 1, 0, 0]),
        ({"temperature": 0.5}, [0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3]),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 9}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 0.39}, [0, 1, 0, 0]),
        ({"top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_k": 3, "top_p": 0.6}, [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_next_token_probabilities_are_literals(options, expected):
    np.testing.assert_allclose(next_token_probabilities(LOGITS, **options), expected, atol=1e-12)


def test_a_certain_choice_needs_room_for_one_row_of_a_large_vocabulary():
    logits = np.zeros(300_000, np.float32)
    logits[7] = 1
    tracemalloc.start()
    found = next_token_probabilities(logits, temperature=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[7] == found.sum() == 1
    assert peak < 10 * 300_000 * 8


@pytest.mark.parametrize("prompt_segment", [512, 2])
@torch.no_grad()
def test_greedy_text_with_a_memory_equals_reading_everything_anew(
    model, monkeypatch, prompt_segment
):
    monkeypatch.setattr(generation, "PROMPT_SEGMENT", prompt_segment)
    ids = [3, 1, 4, 1, 5]
    for _ in range(20):
        ids.append(int(model(torch.tensor([ids]), mem_len=0).logits[0, -1].argmax()))
    rng = np.random.default_rng(0)
    found = list(generate_ids(model, ids[:5], max_new_tokens=20, rng=rng, temperature=0))
    assert found == ids[5:]
    assert len(set(found)) > 3  # a text of one token would hide mistakes


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ({"mem_len": 0}, {}),
        ({"mem_len": 0, "position_embedding_type": "absolute"}, {}),
        ({}, {"mem_len": 0}),
    ],
    ids=["relative", "absolute", "memory switched off"],
)
@pytest.mark.parametrize("context", [512, 4])
@torch.no_grad()
def test_without_a_memory_each_token_is_written_from_the_last_ones(
    monkeypatch, sizes, options, context
):
    monkeypatch.setattr(generation, "PROMPT_SEGMENT", context)
    model = build(**sizes)
    prompt = [3, 1, 4, 1, 5]

    def read_anew(length):
        ids = list(prompt)
        for _ in range(20):
            ids.append(int(model(torch.tensor([ids[-length:]]), mem_len=0).logits[0, -1].argmax()))
        return ids[5:]

    rng = np.random.default_rng(0)
    options = options | {"max_new_tokens": 20, "rng": rng, "temperature": 0}
    found = list(generate_ids(model, prompt, **options))
    assert found == read_anew(context) != read_anew(1)


def test_draws_follow_the_model_and_its_seed(model):
    def first_tokens(draws, **options):
        rng = np.random.default_rng(1)
        return [
            next(generate_ids(model, [7], max_new_tokens=1, rng=rng, **options))
            for _ in range(draws)
        ]

    counts = np.bincount(first_tokens(1000), minlength=40) / 1000
    with torch.no_grad():
        expected = model(torch.tensor([[7]])).logits[0, -1].exp().numpy()
    assert np.abs(counts - expected).max() < 0.05
    assert first_tokens(30) == first_tokens(30)
    assert max(first_tokens(30, forbidden=range(5, 40))) < 5


def test_a_limited_memory_changes_the_text_of_a_long_prompt(model):
    prompt = list(np.random.default_rng(0).integers(0, 40, 30))
    texts = [
        list(
            generate_ids(
                model,
                prompt,
                max_new_tokens=20,
                rng=np.random.default_rng(0),
                temperature=0,
                mem_len=m,
            )
        )
        for m in (100, 2)
    ]
    assert len(texts[0]) == len(texts[1]) == 20
    assert texts[0] != texts[1]


def test_the_repetition_penalty_is_that_of_transformers():
    logits = np.log(np.random.default_rng(0).dirichlet(np.ones(20))).astype(np.float32)
    seen = [3, 7, 3, 19]
    witness = RepetitionPenaltyLogitsProcessor(1.3)
    expected = witness(torch.tensor([seen]), torch.from_numpy(logits)[None].clone())[0]
    np.testing.assert_allclose(penalise_repetition(logits, seen, 1.3), expected, rtol=1e-6)


def test_a_batch_writes_what_each_prompt_writes_alone(model):
    prompts = [[3, 1, 4], [1, 5, 9], [2, 6, 5]]
    options = {"max_new_tokens": 15, "top_p": 0.9, "repetition_penalty": 1.2, "forbidden": [8]}

    def rng(index):
        return np.random.default_rng(index)

    rows = generate_batch(model, prompts, rngs=[rng(0), rng(1), rng(2)], **options)
    for index, found in enumerate(zip(*rows, strict=True)):
        assert list(found) == list(generate_ids(model, prompts[index], rng=rng(index), **options))


def test_prompts_of_several_lengths_are_refused(model):
    rngs = [np.random.default_rng(0)] * 2
    with pytest.raises(ConfigError, match="same number of tokens"):
        next(generate_batch(model, [[1], [1, 2]], max_new_tokens=1, rngs=rngs))


def test_batches_hold_prompts_of_one_length():
    prompts = [[1, 2], [1], [3, 4], [5, 6], [7]]
    assert list(equal_lengths(prompts, 2)) == [[1, 4], [0, 2], [3]]


def test_a_sample_begins_at_the_texts_start_and_has_no_unknown(model):
    vocabulary = SimpleNamespace(end_id=0, unknown_id=5, decode=lambda ids: " ".join(map(str, ids)))
    text = sample_text(model, vocabulary, max_new_tokens=200, rng=np.random.default_rng(0))
    assert len(text.split()) == 200
    assert "5" not in text.split()


def test_each_token_costs_the_same_once_the_memory_is_full(model):
    """Counted, not timed: the model is given one token and a memory of one size."""
    sizes = []
    handle = model.register_forward_pre_hook(
        lambda module, inputs, options: sizes.append(
            (inputs[0].shape[1], options["memory"][0].shape[1] if options["memory"] else 0)
        ),
        with_kwargs=True,
    )
    rng = np.random.default_rng(0)
    options = {"max_new_tokens": 60, "rng": rng, "temperature": 0, "mem_len": 16}
    assert len(list(generate_ids(model, [1, 2, 3], **options))) == 60
    handle.remove()
    assert sizes[0] == (3, 0)
    assert set(sizes[14:]) == {(1, 16)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature: -0.1"),
        ({"temperature": float("nan")}, "temperature: nan"),
        ({"temperature": float("inf")}, "temperature: inf"),
        ({"top_k": -1}, "top_k: -1"),
        ({"top_p": 0}, "top_p: 0"),
        ({"repetition_penalty": 0}, "repetition_penalty: 0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty: nan"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        check_sampling(**{"temperature": 1.0, "top_k": 0, "top_p": 1.0} | options)
