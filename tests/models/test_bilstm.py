import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

import nlpapp.models  # noqa: F401  registers the models
from nlpapp.errors import ConfigError
from nlpapp.models.bilstm import (
    BiLstmConfig,
    BiLstmForSequenceClassification,
    BiLstmSizeConfig,
    build_bilstm,
    reverse_rows,
)

SENTENCES = [[5, 6, 7, 8, 9], [10], [11, 12, 13], [5, 9]]
OTHERS = [[20, 21], [5, 6, 7, 8, 9, 10, 11], [30], [12, 12, 12]]


def build(**options) -> BiLstmForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "embedding_size": 12, "hidden_size": 7, "classifier_size": 9}
    return BiLstmForSequenceClassification(BiLstmConfig(**(sizes | options))).eval()


def padded(rows, width=None, suffix=""):
    width = width or max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {f"input_ids{suffix}": ids, f"attention_mask{suffix}": mask}


def test_default_sizes_are_those_of_the_paper():
    config = BiLstmConfig()
    assert (config.embedding_size, config.hidden_size, config.pooling) == (300, 150, "last")
    assert 200 <= config.classifier_size <= 400


def test_reverse_rows_leaves_padding_in_place():
    rows = torch.arange(8.0).reshape(2, 4, 1)
    turned = reverse_rows(rows, torch.tensor([[4], [2]]))
    assert turned[:, :, 0].tolist() == [[3, 2, 1, 0], [5, 4, 6, 7]]


@pytest.mark.parametrize("pooling", ["last", "max", "mean"])
@pytest.mark.parametrize("siamese", [False, True])
@torch.no_grad()
def test_padding_changes_nothing(pooling, siamese):
    model = build(pooling=pooling, siamese=siamese)

    def logits(indices, extra):
        batch = padded([SENTENCES[i] for i in indices], 5 + extra)
        if siamese:
            batch |= padded([OTHERS[i] for i in indices], 7 + 2 * extra, "_b")
        return model(**batch).logits

    def alone(index):
        batch = padded([SENTENCES[index]])
        if siamese:
            batch |= padded([OTHERS[index]], suffix="_b")
        return model(**batch).logits

    expected = torch.cat([alone(index) for index in range(4)])
    for extra in (0, 6):
        np.testing.assert_allclose(logits(range(4), extra), expected, atol=1e-6)


@torch.no_grad()
def test_what_stands_under_the_padding_is_never_read():
    model = build()
    batch = padded(SENTENCES, 9)
    expected = model(**batch).logits
    batch["input_ids"][batch["attention_mask"] == 0] = 33
    assert torch.equal(model(**batch).logits, expected)


@pytest.mark.parametrize("pooling", ["last", "max", "mean"])
@torch.no_grad()
def test_encoder_equals_torchs_packed_bidirectional_lstm(pooling):
    model = build(pooling=pooling)
    encoder = model.encoder
    reference = nn.LSTM(12, 7, batch_first=True, bidirectional=True)
    for name, value in encoder.forward_lstm.named_parameters():
        getattr(reference, name).copy_(value)
    for name, value in encoder.backward_lstm.named_parameters():
        getattr(reference, name + "_reverse").copy_(value)
    batch = padded(SENTENCES, 8)
    lengths = batch["attention_mask"].sum(1)
    packed = nn.utils.rnn.pack_padded_sequence(
        encoder.embeddings(batch["input_ids"]), lengths, batch_first=True, enforce_sorted=False
    )
    states, (final, _) = reference(packed)
    states, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True)
    if pooling == "last":
        expected = torch.cat([final[0], final[1]], dim=1)
    else:
        reduce = (lambda rows: rows.amax(0)) if pooling == "max" else (lambda rows: rows.mean(0))
        expected = torch.stack([reduce(row[:n]) for row, n in zip(states, lengths, strict=True)])
    np.testing.assert_allclose(encoder(**batch), expected, atol=1e-6)


@torch.no_grad()
def test_siamese_classifier_reads_both_vectors_their_product_and_their_distance():
    model = build(siamese=True)
    batch = padded(SENTENCES) | padded(OTHERS, suffix="_b")
    first = model.encoder(batch["input_ids"], batch["attention_mask"])
    second = model.encoder(batch["input_ids_b"], batch["attention_mask_b"])
    joined = torch.cat([first, second, first * second, (first - second).abs()], dim=1)
    expected = model.classifier(torch.relu(model.hidden(joined)))
    np.testing.assert_allclose(model(**batch).logits, expected, atol=1e-6)


def test_single_and_siamese_models_refuse_each_others_batches():
    pair = padded(SENTENCES) | padded(OTHERS, suffix="_b")
    with pytest.raises(ConfigError, match="one sentence"):
        build()(**pair)
    with pytest.raises(ConfigError, match="two sentences"):
        build(siamese=True)(**padded(SENTENCES))


@pytest.mark.parametrize("num_labels", [1, 3])
def test_loss_is_cross_entropy_or_squared_error(num_labels):
    model = build(num_labels=num_labels)
    labels = torch.tensor([0.5, 1.0, 2.0, 4.0]) if num_labels == 1 else torch.tensor([0, 1, 2, 1])
    output = model(**padded(SENTENCES), labels=labels)
    logits = output.logits.detach().double().numpy()
    if num_labels == 1:
        expected = np.mean((logits[:, 0] - labels.numpy()) ** 2)
    else:
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        expected = -np.log(probabilities[np.arange(4), labels.numpy()]).mean()
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_dropout_works_in_training_only():
    model = build(dropout=0.5)
    batch = padded(SENTENCES)
    assert torch.equal(model(**batch).logits, model(**batch).logits)
    model.train()
    assert not torch.equal(model(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("siamese", [False, True])
@torch.no_grad()
def test_folder_loads_in_the_auto_classes_with_equal_outputs(tmp_path, siamese):
    labels = {0: "dull", 1: "fine", 2: "great"}
    names = {name: index for index, name in labels.items()}
    model = build(
        siamese=siamese, pooling="max", id2label=labels, label2id=names, tokenizer_fingerprint="abc"
    )
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, BiLstmConfig)
    assert (config.pooling, config.siamese, config.embedding_size) == ("max", siamese, 12)
    assert config.id2label == labels and config.tokenizer_fingerprint == "abc"
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, BiLstmForSequenceClassification)
    batch = padded(SENTENCES) | (padded(OTHERS, suffix="_b") if siamese else {})
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_every_parameter_gets_a_gradient():
    model = build(siamese=True).train()
    model(
        **padded(SENTENCES), **padded(OTHERS, suffix="_b"), labels=torch.tensor([0, 1, 0, 1])
    ).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_wrong_options_are_named():
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        BiLstmConfig(pooling="meen")
    with pytest.raises(ConfigError, match="hidden_size is 0"):
        BiLstmConfig(hidden_size=0)


def test_build_names_the_classes_or_makes_a_regression():
    size = BiLstmSizeConfig(embedding_size=6, hidden_size=3, classifier_size=4, pooling="mean")
    options = {"vocab_size": 10, "pad_token_id": 2, "siamese": True}
    model = build_bilstm(size, label_names=("no", "yes"), **options)
    assert model.config.label2id == {"no": 0, "yes": 1} and model.config.siamese
    assert not model.encoder.embeddings.weight[2].any() and model.config.pooling == "mean"
    score = build_bilstm(size, label_names=(), **options)
    assert score.config.problem_type == "regression" and score.classifier.out_features == 1
