import numpy as np
import pytest
import torch

from nlpapp.errors import ConfigError
from nlpapp.models import generation
from nlpapp.models.generation import check_sampling, generate_ids, next_token_probabilities
from nlpapp.models.transformer_xl import TransformerXLConfig, TransformerXLLMHeadModel

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3]))


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = TransformerXLConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        mem_len=100,
    )
    model = TransformerXLLMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature: -0.1"),
        ({"top_k": -1}, "top_k: -1"),
        ({"top_p": 0}, "top_p: 0"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        check_sampling(**{"temperature": 1.0, "top_k": 0, "top_p": 1.0} | options)
