"""Sizes of BERTs: those that were published, and those that cannot be."""

import pytest
import torch
from transformers import BertForPreTraining

from nlpapp.errors import ConfigError
from nlpapp.models.bert_size import SIZES, BertSizeConfig, bert_config


def test_published_sizes():
    """Parameters of the published models (vocabulary 30,522), pooler included, heads left out."""
    published = {"tiny": 4.4, "mini": 11.3, "small": 29.1, "medium": 41.7, "base": 110.1}
    for name, millions in published.items():
        layers, hidden, heads = SIZES[name]
        size = BertSizeConfig(num_layers=layers, hidden_size=hidden, num_heads=heads)
        with torch.device("meta"):
            model = BertForPreTraining(bert_config(size, vocab_size=30522))
        assert model.bert.num_parameters() / 1e6 == pytest.approx(millions, rel=0.02)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="hidden_size 10 is not a multiple of num_heads 4"):
        BertSizeConfig(hidden_size=10, num_heads=4)
