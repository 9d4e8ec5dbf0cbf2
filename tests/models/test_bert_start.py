"""What pretraining starts from: random weights of a size, a folder, and the warnings of both."""

import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import RobertaConfig, RobertaForMaskedLM

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.bert_start import build_pretraining_bert, check_start, positions_of
from nlpapp.models.pretrained import save_model_folder

SIZE = BertSizeConfig(num_layers=1, hidden_size=8, num_heads=2, max_position_embeddings=16)


def build(folder=None, **changes):
    options = {"size": SIZE, "vocab_size": 30, "pad_token_id": 0, "fingerprint": "f", "longest": 16}
    torch.manual_seed(1)
    return build_pretraining_bert(folder, **options | changes)


def test_random_weights_come_from_torchs_generator():
    first, second = build().state_dict(), build().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["bert.embeddings.word_embeddings.weight"].shape == (30, 8)


def test_similarity_start_is_applied():
    size = BertSizeConfig(num_layers=1, hidden_size=8, num_heads=2, similarity_start=True)
    attention = build(size=size).bert.encoder.layer[0].attention.self
    assert torch.equal(attention.key.weight, attention.query.weight)


def test_words_start_from_counts_and_attention_after_them():
    def count_words(width):
        return np.arange(30), torch.randn(30, width, generator=torch.Generator().manual_seed(0))

    size = BertSizeConfig(num_layers=1, hidden_size=8, num_heads=2, neighbour_start=True)
    plain, counted = build(size=size), build(size=size, count_words=count_words)
    assert not torch.equal(*(bert.get_output_embeddings().weight for bert in (plain, counted)))
    assert counted.cls.predictions.bias.diff().gt(0).all()
    # Words stay outside the directions of the positions.
    embeddings = counted.bert.embeddings
    positions = torch.linalg.svd(embeddings.position_embeddings.weight, full_matrices=False)
    basis = positions.Vh[positions.S > 1e-4]
    assert (embeddings.word_embeddings.weight @ basis.T).abs().max() < 1e-5


def test_a_folder_gives_its_weights_whatever_the_size(tmp_path):
    first = build()
    save_model_folder(first, tmp_path / "model", fingerprint="f")
    second = build(
        str(tmp_path / "model"), size=BertSizeConfig(name="base"), count_words=pytest.fail
    )
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert positions_of(str(tmp_path / "model"), BertSizeConfig(), vocab_size=30) == 16
    with pytest.raises(ConfigError, match="another tokenizer"):
        build(str(tmp_path / "model"), fingerprint="another")
    with pytest.raises(CheckpointError, match="not a model folder"):
        build(str(tmp_path))


def test_another_kind_of_model_is_refused(tmp_path):
    """BertForPreTraining would find none of its weights, and all would start at random."""
    shape = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig(**shape, intermediate_size=8, max_position_embeddings=18)
    save_model_folder(RobertaForMaskedLM(config), tmp_path / "model")
    for use in (build, lambda folder: positions_of(folder, SIZE, vocab_size=30)):
        with pytest.raises(ConfigError, match="model holds a 'roberta'; expected a BERT"):
            use(str(tmp_path / "model"))


def test_weights_of_another_model_are_refused(tmp_path):
    save_model_folder(build(), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    renamed = {f"other.{name}": weight for name, weight in load_file(path).items()}
    save_file(renamed, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not those of the bert .* no word embeddings"):
        build(str(tmp_path / "model"))


def test_a_model_that_does_not_fit_is_refused_before_anything_is_counted():
    with pytest.raises(ConfigError, match="max_seq_length 17 is over the model's 16 positions"):
        build(longest=17, count_words=pytest.fail)


def test_sequences_have_to_fit():
    assert positions_of(None, SIZE, vocab_size=30) == 16
    with pytest.raises(ConfigError, match="max_seq_length 17 is over the model's 16 positions"):
        build(longest=17)


@pytest.mark.parametrize(
    ("folder", "rate", "warned"), [("m", 1e-3, True), ("m", 1e-4, False), (None, 1e-3, False)]
)
def test_a_rate_far_above_that_of_adaptation_is_warned_of(caplog, folder, rate, warned):
    caplog.set_level(logging.WARNING, logger="nlpapp")
    check_start(folder, BertSizeConfig(), rate, word_start=False)
    assert ("2e-05 is usual for going on" in caplog.text) == warned


def test_a_size_beside_weights_is_refused():
    check_start(None, BertSizeConfig(num_layers=3), 1e-3, word_start=False)
    with pytest.raises(ConfigError, match="size is for random weights; m has its own"):
        check_start("m", BertSizeConfig(num_layers=3), 1e-5, word_start=False)


def test_counted_words_beside_pretrained_ones_are_refused():
    with pytest.raises(ConfigError, match="m has word vectors of its own: leave one of them out"):
        check_start("m", BertSizeConfig(), 2e-5, word_start=True)
    check_start(None, BertSizeConfig(), 1e-3, word_start=True)
