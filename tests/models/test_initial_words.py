"""Word vectors and output biases from counts, beside the formulas and a full decomposition."""

import numpy as np
import pytest
import torch
from scipy import sparse
from transformers import BertForPreTraining

from nlpapp.models import initial_words
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.models.initial_words import factorize, positive_pmi, start_words, word_vectors

WIDTH = 16


@pytest.fixture
def bert():
    torch.manual_seed(0)
    size = BertSizeConfig(num_layers=1, hidden_size=WIDTH, num_heads=2, initializer_range=0.05)
    return BertForPreTraining(bert_config(size, vocab_size=40))


def symmetric_counts(entries=40, seed=0):
    counts = np.random.default_rng(seed).poisson(0.6, (entries, entries)).astype(np.float32)
    return sparse.csr_matrix(counts + counts.T)


def test_information_is_that_of_the_formula():
    pairs = symmetric_counts(6)
    counts = pairs.toarray().astype(float)
    contexts = counts.sum(0) ** 0.75
    together = counts / counts.sum()
    apart = np.outer(counts.sum(1) / counts.sum(), contexts / contexts.sum())
    with np.errstate(divide="ignore"):
        expected = np.maximum(np.log(together / apart), 0)
    assert (expected == 0).any() and (expected > 0).any()
    np.testing.assert_allclose(positive_pmi(pairs).toarray(), expected, rtol=1e-5)


def test_factors_are_those_of_a_full_decomposition(monkeypatch):
    topics = np.random.default_rng(1).dirichlet(np.full(500, 0.05), WIDTH)  # (16, 500)
    counts = np.random.default_rng(2).poisson(2e4 * topics.T @ topics)
    matrix = positive_pmi(sparse.csr_matrix((counts + counts.T).astype(np.float32)))
    left, values, _ = np.linalg.svd(matrix.toarray())
    expected = left[:, :WIDTH] * values[:WIDTH] ** 0.5

    def error():
        factors = factorize(matrix, WIDTH).numpy()
        assert factors.shape == (500, WIDTH)
        # The sign of each column is free.
        difference = factors @ factors.T - expected @ expected.T
        return np.linalg.norm(difference) / np.linalg.norm(expected @ expected.T)

    assert error() < 0.01
    monkeypatch.setattr(initial_words, "POWER_ITERATIONS", 0)
    assert error() > 0.03
    assert factorize(positive_pmi(symmetric_counts()), 64).shape == (40, 40)


def test_equal_counts_give_equal_vectors_whatever_torch_has_drawn_before():
    """Every process and every restart has to start from the same weights."""
    first = word_vectors(symmetric_counts(), WIDTH)
    state = torch.get_rng_state()
    assert torch.equal(word_vectors(symmetric_counts(), WIDTH), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_words_in_the_same_company_start_alike(bert):
    counts = np.zeros((40, 40), dtype=np.float32)
    for word in (10, 11):  # Beside 20 to 24, but never beside each other.
        counts[word, 20:25] = counts[20:25, word] = 9
    for word in (12, 13):
        counts[word, 30:35] = counts[30:35, word] = 9
    before = bert.bert.embeddings.word_embeddings.weight.detach().clone()
    vectors = word_vectors(sparse.csr_matrix(counts), WIDTH)
    start_words(bert, counts.sum(1).astype(np.int64), vectors)
    words = bert.bert.embeddings.word_embeddings.weight.detach()
    known = [*range(10, 14), *range(20, 25), *range(30, 35)]
    torch.testing.assert_close(words[known].norm(dim=1), torch.full((14,), 0.05 * WIDTH**0.5))
    near = torch.nn.functional.cosine_similarity
    assert near(words[10], words[11], dim=0) > 0.95 and near(words[12], words[13], dim=0) > 0.95
    assert near(words[10], words[12], dim=0).abs() < 0.3
    rest = [word for word in range(40) if word not in known]
    assert torch.equal(words[rest], before[rest])
    assert bert.cls.predictions.decoder.weight is bert.bert.embeddings.word_embeddings.weight


def test_output_starts_at_the_frequencies(bert):
    frequencies = np.arange(40)
    start_words(bert, frequencies, word_vectors(symmetric_counts(), WIDTH))
    bert.cls.predictions.transform.dense.weight.data.zero_()
    scores = bert(input_ids=torch.tensor([[1, 2, 3]])).prediction_logits
    expected = torch.from_numpy((frequencies + 0.5) / (frequencies + 0.5).sum()).float()
    torch.testing.assert_close(scores.softmax(-1)[0, 0], expected)


def test_a_vocabulary_smaller_than_the_model_is_wide_gives_fewer_factors():
    torch.manual_seed(0)
    size = BertSizeConfig(num_layers=1, hidden_size=64, num_heads=2)
    bert = BertForPreTraining(bert_config(size, vocab_size=40))
    start_words(bert, np.ones(40, dtype=np.int64), word_vectors(symmetric_counts(), 64))
    lengths = bert.bert.embeddings.word_embeddings.weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((40,), 0.02 * 8.0))


def test_entries_beyond_the_tokenizers_start_as_improbable(bert):
    before = bert.bert.embeddings.word_embeddings.weight.detach().clone()
    start_words(bert, np.arange(30) + 7, word_vectors(symmetric_counts(30), WIDTH))
    words, bias = bert.bert.embeddings.word_embeddings.weight, bert.cls.predictions.bias
    assert torch.equal(words[30:], before[30:]) and not torch.equal(words[:30], before[:30])
    assert (bias[30:] == bias.min()).all() and bias[1] > bias.min()


def test_text_without_a_pair_leaves_the_vectors_as_they_are(bert):
    before = bert.bert.embeddings.word_embeddings.weight.detach().clone()
    nothing = sparse.csr_matrix((40, 40), dtype=np.float32)
    start_words(bert, np.zeros(40, dtype=np.int64), word_vectors(nothing, WIDTH))
    assert torch.equal(bert.bert.embeddings.word_embeddings.weight, before)
    assert bert.cls.predictions.bias.unique().numel() == 1
