import pytest
import torch

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.language_models import (
    TransformerXLSizeConfig,
    open_language_model,
    transformer_xl_config,
)
from nlpapp.models.pretrained import save_model_folder

SIZE = TransformerXLSizeConfig(
    num_layers=1,
    hidden_size=8,
    num_heads=2,
    inner_size=12,
    mem_len=5,
    clamp_len=4,
    cutoffs=[3, 6],
    div_val=2,
    dropout=0.2,
    attention_dropout=0.3,
    pre_norm=True,
    tie_embeddings=False,
    initializer_range=0.5,
)


def random_model():
    return open_language_model(None, size=SIZE, vocab_size=10, fingerprint="abc")


def test_every_size_option_reaches_the_model():
    """All options above differ from their defaults."""
    found = transformer_xl_config(SIZE, vocab_size=10)
    expected = {
        "vocab_size": 10,
        "num_hidden_layers": 1,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "mem_len": 5,
        "clamp_len": 4,
        "cutoffs": [3, 6],
        "div_val": 2,
        "dropout": 0.2,
        "attention_dropout": 0.3,
        "pre_norm": True,
        "tie_word_embeddings": False,
        "initializer_range": 0.5,
        "projection_initializer_range": 0.25,
    }
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    "size", [SIZE, TransformerXLSizeConfig(num_layers=1, hidden_size=8, num_heads=2)]
)
def test_every_weight_that_wants_a_gradient_gets_one(size):
    """DistributedDataParallel waits for all of them; the words are all of the head."""
    model = open_language_model(None, size=size, vocab_size=10, fingerprint="abc")
    ids = torch.tensor([[0, 1, 2]])
    model(ids, labels=ids).loss.backward()
    wanting = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert [name for name, weight in wanting.items() if weight.grad is None] == []
    assert len(wanting) == len([weight for weight in model.parameters() if weight.numel()])


@torch.no_grad()
def test_a_saved_model_opens_for_evaluation(tmp_path):
    model = random_model()
    save_model_folder(model, tmp_path / "model", fingerprint="abc")
    opened = open_language_model(
        tmp_path / "model", size=TransformerXLSizeConfig(), vocab_size=10, fingerprint="abc"
    )
    assert not opened.training
    ids = torch.arange(10)[None]
    torch.testing.assert_close(opened(ids).logits, model(ids).logits, atol=0, rtol=0)


def test_another_vocabulary_is_refused(tmp_path):
    save_model_folder(random_model(), tmp_path / "model", fingerprint="abc")
    with pytest.raises(ConfigError, match="trained with another vocabulary"):
        open_language_model(tmp_path / "model", size=SIZE, vocab_size=10, fingerprint="abd")
    with pytest.raises(ConfigError, match=r"\(10 entries.* given \(11 entries"):
        open_language_model(tmp_path / "model", size=SIZE, vocab_size=11, fingerprint="abc")


def test_a_folder_of_another_kind_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="holds a bert, not a language model"):
        open_language_model(tmp_path, size=SIZE, vocab_size=10, fingerprint="")


def test_damaged_weights_are_named(tmp_path):
    save_model_folder(random_model(), tmp_path / "model", fingerprint="abc")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="cannot load the model"):
        open_language_model(tmp_path / "model", size=SIZE, vocab_size=10, fingerprint="abc")
