import math

import numpy as np
import pytest
import torch

from nlpapp.data.token_stream import StreamSteps
from nlpapp.models.transformer_xl import TransformerXLConfig, TransformerXLLMHeadModel
from nlpapp.objectives.language_modeling import (
    LanguageModelingObjective,
    PositionObjective,
    position_losses,
)
from nlpapp.training.evaluate import evaluate_means

VOCAB = 30


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = TransformerXLConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        mem_len=200,
        dropout=0.0,
    )
    model = TransformerXLLMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def stream(num_tokens=101, **options):
    tokens = np.random.default_rng(0).integers(0, VOCAB, num_tokens)
    arguments = {"num_lanes": 1, "segment_length": 8, "start_id": 0} | options
    return tokens, StreamSteps(tokens, **arguments)


@pytest.mark.parametrize("segment_length", [1, 8, 200])
def test_a_text_scored_in_segments_has_the_loss_of_one_pass(model, segment_length):
    tokens, steps = stream(segment_length=segment_length)
    means = evaluate_means(model, LanguageModelingObjective(), steps)
    inputs = torch.from_numpy(np.concatenate([[0], tokens[:-1]]))[None]
    with torch.no_grad():
        log_probabilities = model.eval()(inputs, mem_len=0).logits[0]
    losses = -log_probabilities[torch.arange(101), torch.from_numpy(tokens)].double()
    assert means["loss"] == pytest.approx(float(losses.mean()), abs=1e-5)
    assert means["perplexity"] == pytest.approx(math.exp(means["loss"]))
    assert means["bits_per_token"] == pytest.approx(means["loss"] / math.log(2))


def test_without_memory_each_segment_stands_alone(model):
    tokens, steps = stream(num_tokens=24)
    means = evaluate_means(model, LanguageModelingObjective(mem_len=0), steps)
    inputs = torch.from_numpy(np.concatenate([[0], tokens[:-1]])).view(3, 8)
    with torch.no_grad():
        expected = model.eval()(inputs, labels=torch.from_numpy(tokens).view(3, 8), mem_len=0).loss
    assert means["loss"] == pytest.approx(float(expected), abs=1e-5)
    assert means["loss"] != pytest.approx(
        evaluate_means(model, LanguageModelingObjective(), steps)["loss"], abs=1e-5
    )


def test_counts_are_the_predicted_tokens_exactly():
    _, steps = stream(num_tokens=103, num_lanes=4)
    objective = LanguageModelingObjective()
    total = 0.0
    for step in range(steps.num_steps(0)):
        for batch in steps.micro_batches(0, step, rank=0, world_size=1, accumulation=3):
            total += objective.counts(batch)["tokens"]
    assert total == 103


def test_the_shares_of_micro_batches_add_up_to_the_steps_mean(model):
    _, steps = stream(num_lanes=5, num_tokens=100)
    objective = LanguageModelingObjective()
    (whole,) = steps.micro_batches(0, 0, rank=0, world_size=1, accumulation=1)
    parts = steps.micro_batches(0, 0, rank=0, world_size=1, accumulation=2)
    counts = objective.counts(whole)
    expected = objective(model, whole, counts)
    found = [objective(model, part, counts) for part in parts]
    torch.testing.assert_close(sum(output.loss for output in found), expected.loss)
    assert sum(output.metrics["loss"][1] for output in found) == expected.metrics["loss"][1] == 40


def test_the_carry_is_a_tuple_of_tensors_without_gradient(model):
    _, steps = stream()
    (batch,) = steps.micro_batches(0, 0, rank=0, world_size=1, accumulation=1)
    objective = LanguageModelingObjective(mem_len=5)
    carry = objective(model, batch, objective.counts(batch)).carry
    assert type(carry) is tuple and [tuple(old.shape) for old in carry] == [(1, 5, 16)] * 2
    assert not any(old.requires_grad for old in carry)


@pytest.mark.parametrize("mem_len", [None, 0])
def test_losses_by_position_average_to_the_loss(model, mem_len):
    """101 tokens in three lanes of 34: the last segment has 2 of 8, one of them padded."""
    _, steps = stream(num_lanes=3)
    expected = evaluate_means(model, LanguageModelingObjective(mem_len=mem_len), steps)
    found = evaluate_means(model, PositionObjective(mem_len=mem_len), steps)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5)
    losses = position_losses(found)
    assert losses.shape == (8,)
    counts = torch.tensor([15.0, 14, 12, 12, 12, 12, 12, 12])
    assert float((losses * counts).sum() / 101) == pytest.approx(expected["loss"], rel=1e-5)


def test_a_loss_at_a_position_is_that_of_its_tokens(model):
    tokens, steps = stream(num_tokens=24)
    found = position_losses(evaluate_means(model, PositionObjective(mem_len=0), steps))
    inputs = torch.from_numpy(np.concatenate([[0], tokens[:-1]])).view(3, 8)
    with torch.no_grad():
        logits = model.eval()(inputs, mem_len=0).logits
    chosen = -logits.gather(-1, torch.from_numpy(tokens).view(3, 8, 1)).squeeze(-1)
    torch.testing.assert_close(found, chosen.mean(0), atol=1e-5, rtol=1e-5)


def test_a_loss_too_large_for_exp_is_an_infinite_perplexity():
    assert LanguageModelingObjective().summary({"loss": 1000.0})["perplexity"] == math.inf
