"""Sizes of BERTs: those that were published, files that describe one, and those that cannot be."""

import json

import pytest
import torch
from transformers import BertForPreTraining

from nlpapp.errors import ConfigError
from nlpapp.models.bert_size import BertSizeConfig, bert_config


@pytest.mark.parametrize(
    ("name", "millions"),
    [("tiny", 4.4), ("mini", 11.3), ("small", 29.1), ("medium", 41.7), ("base", 110.1)],
)
def test_published_sizes(name, millions):
    """Parameters of the published models (vocabulary 30,522), pooler included, heads left out."""
    with torch.device("meta"):
        model = BertForPreTraining(bert_config(BertSizeConfig(name=name), vocab_size=30522))
    assert model.bert.num_parameters() / 1e6 == pytest.approx(millions, rel=0.02)


def test_numbers_take_the_place_of_minis_and_the_rest_is_the_original_berts():
    config = bert_config(BertSizeConfig(num_layers=3, dropout=0.0), vocab_size=50, pad_token_id=7)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 256, 4)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.0, 0.0)
    assert (config.max_position_embeddings, config.initializer_range) == (512, 0.02)
    assert (config.vocab_size, config.pad_token_id) == (50, 7)
    plain = bert_config(BertSizeConfig(name="tiny", initializer_range=0.1), vocab_size=50)
    assert (plain.hidden_size, plain.hidden_dropout_prob, plain.initializer_range) == (
        128,
        0.1,
        0.1,
    )


FILE = {
    "model_type": "bert",
    "hidden_size": 12,
    "num_hidden_layers": 5,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "vocab_size": 60,
    "hidden_act": "relu",
    "dtype": "float16",
    "tokenizer_fingerprint": "of the weights that were saved with it",
}


def write(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(FILE | changes))
    return path


def test_any_config_file_or_its_folder_gives_the_model(tmp_path):
    path = write(tmp_path)
    for given in (path, tmp_path):
        config = bert_config(BertSizeConfig(config=str(given)), vocab_size=50, pad_token_id=3)
        assert (config.hidden_size, config.num_hidden_layers, config.hidden_act) == (12, 5, "relu")
        assert (config.intermediate_size, config.vocab_size, config.pad_token_id) == (20, 60, 3)
        # Of the architecture, nothing of the weights: these are new.
        assert config.dtype is None and not hasattr(config, "tokenizer_fingerprint")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 10, "num_heads": 4}, "hidden_size 10 is not a multiple of num_heads 4"),
        ({"num_heads": 3}, "hidden_size 256 is not a multiple of num_heads 3"),
        ({"name": "smal"}, "size.name is 'smal'; .* Did you mean 'small'"),
        ({"name": "base", "num_layers": 3}, "size.name is 'base', which decides size.num_layers"),
        (
            {"config": "a", "name": "base", "dropout": 0.0},
            "decides size.dropout, size.name as well",
        ),
        ({"num_layers": 0}, "size.num_layers is 0; it must be at least 1"),
        ({"dropout": 1.0}, "size.dropout is 1.0"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BertSizeConfig(**options)


def test_files_that_describe_no_bert_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read .*absent.json"):
        bert_config(BertSizeConfig(config=str(tmp_path / "absent.json")), vocab_size=50)
    path = write(tmp_path, model_type="gpt2")
    with pytest.raises(ConfigError, match="describes a 'gpt2'; expected a BERT"):
        bert_config(BertSizeConfig(config=str(path)), vocab_size=50)
    path = write(tmp_path, vocab_size=40)
    with pytest.raises(ConfigError, match="vocabulary of 40, but the tokenizer has 50 entries"):
        bert_config(BertSizeConfig(config=str(path)), vocab_size=50)
