import pytest
import torch
from torch import nn

from nlpapp.errors import ConfigError
from nlpapp.models.sentence_classifier import SentenceClassifier, SentenceClassifierConfig


class Bag(nn.Module):
    """An encoder that adds the embeddings of a row up."""

    def __init__(self, config):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=0)

    def forward(self, input_ids, attention_mask):
        return (self.embeddings(input_ids) * attention_mask[:, :, None]).sum(1)


def build(**options):
    config = SentenceClassifierConfig(
        vocab_size=20, embedding_size=6, classifier_size=5, dropout=0.0, **options
    )
    torch.manual_seed(0)
    return SentenceClassifier(config, Bag(config), 6)


def test_one_sentence_goes_through_the_two_layers():
    model = build()
    vector = model.encoder.embeddings.weight[[3, 4]].sum(0)
    expected = model.classifier(torch.relu(model.hidden(vector)))
    torch.testing.assert_close(model(torch.tensor([[3, 4, 0]])).logits[0], expected)


def test_two_sentences_are_compared_as_in_the_paper():
    model = build(siamese=True)
    table = model.encoder.embeddings.weight
    first, second = table[[3, 4]].sum(0), table[5]
    joined = torch.cat([first, second, first * second, (first - second).abs()])
    expected = model.classifier(torch.relu(model.hidden(joined)))
    found = model(torch.tensor([[3, 4]]), input_ids_b=torch.tensor([[5, 0, 0]])).logits[0]
    torch.testing.assert_close(found, expected)


def test_start_has_zero_biases_and_an_empty_padding_row():
    model = build()
    assert not model.hidden.bias.any() and not model.classifier.bias.any()
    table = model.get_input_embeddings().weight
    assert not table[0].any() and 0.05 < table[1:].std() < 0.15


def test_sizes_must_be_positive():
    with pytest.raises(ConfigError, match="embedding_size is 0"):
        SentenceClassifierConfig(embedding_size=0)
