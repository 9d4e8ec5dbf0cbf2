import math

import pytest
import torch
from torch import nn

from nlpapp.errors import ConfigError
from nlpapp.models.adaptive_softmax import AdaptiveSoftmax, AdaptiveTables, check_cutoffs

WIDTH, VOCAB = 16, 50


def build(cutoffs, div_val, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tables = AdaptiveTables(VOCAB, WIDTH, cutoffs, div_val)
    softmax = AdaptiveSoftmax(tables)
    with torch.no_grad():
        for parameter in [*tables.parameters(), *softmax.parameters()]:
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    hidden = torch.randn(200, WIDTH, generator=generator) * 0.3
    labels = torch.randint(0, VOCAB, (200,), generator=generator)
    return tables, softmax, hidden, labels


@pytest.mark.parametrize("cutoffs", [[10], [10, 30], [1, 2, 49]])
@pytest.mark.parametrize("div_val", [1, 2])
def test_probabilities_are_the_formula_and_sum_to_one(cutoffs, div_val):
    tables, softmax, hidden, labels = build(cutoffs, div_val)
    log_probabilities = softmax.log_probabilities(hidden, tables)
    torch.testing.assert_close(log_probabilities.exp().sum(-1), torch.ones(200))
    for row in range(20):  # word by word, with loops
        vector = hidden[row]
        head_words = [
            tables.clusters[0].weight[word] @ vector + softmax.bias[word]
            for word in range(cutoffs[0])
        ]
        head_tails = [
            softmax.tail_weight[i] @ vector + softmax.tail_bias[i] for i in range(len(cutoffs))
        ]
        head = torch.stack([*head_words, *head_tails]).softmax(0)
        expected = [head[word] for word in range(cutoffs[0])]
        for tail, (start, end) in enumerate(zip(cutoffs, [*cutoffs[1:], VOCAB], strict=True)):
            cluster = tables.clusters[tail + 1]
            projection = torch.eye(WIDTH) if cluster.projection is None else cluster.projection
            scores = torch.stack(
                [
                    (projection @ cluster.weight[word - start]) @ vector + softmax.bias[word]
                    for word in range(start, end)
                ]
            )
            expected += list(head[cutoffs[0] + tail] * scores.softmax(0))
        torch.testing.assert_close(
            log_probabilities[row].exp(), torch.stack(expected), atol=1e-6, rtol=1e-5
        )
    losses = softmax.losses(hidden, labels, tables)
    torch.testing.assert_close(
        losses, -log_probabilities[torch.arange(200), labels], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("div_val", [2, 4])
def test_equals_that_of_torch_with_its_weights(div_val):
    cutoffs = [12, 30]
    tables, softmax, hidden, labels = build(cutoffs, div_val)
    reference = nn.AdaptiveLogSoftmaxWithLoss(
        WIDTH, VOCAB, cutoffs, div_value=div_val, head_bias=True
    )
    with torch.no_grad():
        softmax.bias[cutoffs[0] :] = 0.0  # torch has no biases in the tails
        reference.head.weight.copy_(torch.cat([tables.clusters[0].weight, softmax.tail_weight]))
        reference.head.bias.copy_(torch.cat([softmax.bias[: cutoffs[0]], softmax.tail_bias]))
        for index, tail in enumerate(reference.tail):
            tail[0].weight.copy_(tables.clusters[index + 1].projection.t())
            tail[1].weight.copy_(tables.clusters[index + 1].weight)
    expected = reference.log_prob(hidden)
    torch.testing.assert_close(
        softmax.log_probabilities(hidden, tables), expected, atol=1e-5, rtol=1e-5
    )
    losses = softmax.losses(hidden, labels, tables)
    torch.testing.assert_close(losses, -reference(hidden, labels).output, atol=1e-5, rtol=1e-5)


def test_without_cutoffs_it_is_the_ordinary_softmax():
    tables, softmax, hidden, labels = build([], 1)
    scores = hidden @ tables.clusters[0].weight.t() + softmax.bias
    torch.testing.assert_close(softmax.log_probabilities(hidden, tables), scores.log_softmax(-1))
    expected = nn.functional.cross_entropy(scores, labels, reduction="none")
    torch.testing.assert_close(softmax.losses(hidden, labels, tables), expected)


def test_gradients_are_those_of_the_full_probabilities():
    tables, softmax, hidden, labels = build([10, 30], 2)
    parameters = [*tables.parameters(), *softmax.parameters()]
    sparse = torch.autograd.grad(softmax.losses(hidden, labels, tables).sum(), parameters)
    full = softmax.log_probabilities(hidden, tables)[torch.arange(200), labels]
    for found, expected in zip(sparse, torch.autograd.grad(-full.sum(), parameters), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_batch_without_a_word_of_some_tail_still_reaches_every_parameter():
    tables, softmax, hidden, _ = build([10, 30], 2)
    labels = torch.zeros(200, dtype=torch.long)
    loss = softmax.losses(hidden, labels, tables).sum() + tables(labels).sum()
    loss.backward()
    assert all(p.grad is not None for p in [*tables.parameters(), *softmax.parameters()])
    assert torch.isfinite(loss)


@pytest.mark.parametrize(("cutoffs", "div_val"), [([], 1), ([10, 30], 1), ([10, 30], 4)])
def test_embedding_is_a_row_of_the_projected_tables(cutoffs, div_val):
    tables, _, _, _ = build(cutoffs, div_val)
    whole = []
    for cluster in tables.clusters:
        projected = (
            cluster.weight
            if cluster.projection is None
            else cluster.weight @ cluster.projection.t()
        )
        whole.append(projected)
    ids = torch.tensor([[0, 9, 10, 49], [29, 30, 31, 11]])
    torch.testing.assert_close(tables(ids), torch.cat(whole)[ids])


def test_tails_are_div_val_times_narrower_each():
    shapes = [
        tuple(cluster.weight.shape)
        for cluster in AdaptiveTables(VOCAB, WIDTH, [10, 30], 4).clusters
    ]
    assert shapes == [(10, 16), (20, 4), (20, 1)]


def test_uniform_probabilities_from_zero_weights_are_a_literal():
    tables, softmax, hidden, _ = build([10, 30], 1)
    with torch.no_grad():
        for parameter in [*tables.parameters(), *softmax.parameters()]:
            parameter.zero_()
    losses = softmax.losses(hidden[:2], torch.tensor([3, 12]), tables)
    assert losses.tolist() == pytest.approx([math.log(12), math.log(12) + math.log(20)])


@pytest.mark.parametrize(
    ("cutoffs", "message"),
    [
        ([0], "must be positive"),
        ([5, 5], "5 follows 5"),
        ([9, 3], "3 follows 9"),
        ([10, 50], "50 is not below"),
    ],
)
def test_cutoffs_that_make_no_clusters_are_refused(cutoffs, message):
    with pytest.raises(ConfigError, match=message):
        check_cutoffs(cutoffs, VOCAB)


def test_a_tail_needs_some_width():
    with pytest.raises(ConfigError, match="div_val: 4 leaves no width for tail 3"):
        AdaptiveTables(VOCAB, WIDTH, [10, 20, 30], 4)
