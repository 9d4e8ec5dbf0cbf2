"""Model folders: damage, wrong kinds and foreign tokenizers are refused in plain words."""

import pytest
import torch
from safetensors import SafetensorError
from transformers import BertForPreTraining, BertForSequenceClassification

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models import pretrained
from nlpapp.models.bert_size import BertSizeConfig, bert_config

SIZE = BertSizeConfig(num_layers=1, hidden_size=8, num_heads=2, max_position_embeddings=16)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    model = BertForSequenceClassification(bert_config(SIZE, vocab_size=30))
    pretrained.save_model_folder(model, tmp_path / "model", fingerprint="a" * 64)
    return tmp_path / "model"


def test_a_classifier_comes_back_with_its_fingerprint(folder):
    model = pretrained.load_classifier(folder)
    assert pretrained.model_fingerprint(model) == "a" * 64
    assert not model.training and {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
    }


def test_a_truncated_model_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="may be truncated"):
        pretrained.load_classifier(folder)


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(CheckpointError, match="it has no config.json"):
        pretrained.load_classifier(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot read the model configuration"):
        pretrained.load_classifier(tmp_path)


def test_a_model_that_is_no_classifier(tmp_path):
    model = BertForPreTraining(bert_config(SIZE, vocab_size=30))
    pretrained.save_model_folder(model, tmp_path / "model")
    with pytest.raises(CheckpointError, match="BertForPreTraining, which is not a sequence"):
        pretrained.load_classifier(tmp_path / "model")


def test_tokenizers_that_cannot_fit(folder):
    model = pretrained.load_classifier(folder)
    pretrained.check_tokenizer_fits(model, vocab_size=30, fingerprint="a" * 64)
    with pytest.raises(ConfigError, match="31 entries but the model's embedding has 30 rows"):
        pretrained.check_tokenizer_fits(model, vocab_size=31)
    with pytest.raises(ConfigError, match=r"another tokenizer \(fingerprint aaaaaaaaaaaa\)"):
        pretrained.check_tokenizer_fits(model, vocab_size=30, fingerprint="b" * 64)


def test_sequences_longer_than_the_positions(folder):
    model = pretrained.load_classifier(folder)
    pretrained.check_sequence_length(model, 16)
    with pytest.raises(ConfigError, match="max_seq_length 17 is over the model's 16 positions"):
        pretrained.check_sequence_length(model, 17)


def test_saving_replaces_the_folder_as_a_whole(folder):
    (folder / "stale.txt").write_text("old")
    model = pretrained.load_classifier(folder)
    pretrained.save_model_folder(model, folder)
    assert not (folder / "stale.txt").exists()
    assert not folder.with_name("model.partial").exists()


def test_a_model_that_cannot_be_written_leaves_the_one_that_was_there(folder, monkeypatch):
    model = pretrained.load_classifier(folder)
    before = (folder / "model.safetensors").read_bytes()

    def full(*arguments, **options):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(type(model), "save_pretrained", full)
    with pytest.raises(CheckpointError, match="No space left on device.*what was there stay"):
        pretrained.save_model_folder(model, folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
