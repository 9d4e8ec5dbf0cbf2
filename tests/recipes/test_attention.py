"""The command from end to end: what stands in the page is what transformers itself computes."""

import json
import logging

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    MPNetConfig,
    MPNetModel,
)

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.attention_maps import transformer_xl_attention
from nlpapp.models.pretrained import save_model_folder
from nlpapp.models.transformer_xl import TransformerXLConfig, TransformerXLLMHeadModel
from nlpapp.recipes import attention
from nlpapp.text.vocabulary import count_symbols
from tests.evaluation.test_attention_page import (
    assert_nothing_is_loaded,
    numbers_in,
    recomputed_weights,
    weights_in,
)
from tests.source_files import REPOSITORY

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
    "initializer_range": 0.5,
}
PNG = ["head_view.png", "model_view.png", "neuron_view.png"]


@pytest.fixture(scope="module")
def classifier(tiny_tokenizer_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), **SIZES)
    save_model_folder(BertForSequenceClassification(config), folder, tokenizer=tokenizer)
    return folder


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xl") / "model"
    vocabulary = count_symbols("words", ["a cat sat on the mat and ran over hills <unk>"])
    torch.manual_seed(0)
    config = TransformerXLConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        mem_len=4,
        initializer_range=0.5,
    )
    model = TransformerXLLMHeadModel(config).eval()
    save_model_folder(model, folder, tokenizer=vocabulary, fingerprint=vocabulary.fingerprint())
    return folder, model, vocabulary


def look(model, output_dir, text="the cat sat on the mat.", **options):
    """Run the command; return its figures and what stands in the page."""
    folder = None if model is None else str(model)
    figures = attention.run(
        attention.Config(model=folder, text=text, output_dir=str(output_dir), **options)
    )
    return figures, (output_dir / "attention.html").read_text(encoding="utf-8")


def test_page_of_a_pair_has_the_weights_of_transformers(classifier, tmp_path):
    pair = "a great film"
    figures, text = look(classifier, tmp_path / "run", text_pair=pair)
    assert_nothing_is_loaded(text)
    data = numbers_in(text)
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    encoded = tokenizer("the cat sat on the mat.", pair, return_tensors="pt")
    model = AutoModel.from_pretrained(classifier, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = torch.cat(model(**encoded, output_attentions=True).attentions).numpy()
    assert data["tokens"] == tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])
    np.testing.assert_allclose(weights_in(data), expected, atol=1e-5)
    np.testing.assert_allclose(recomputed_weights(data), expected, atol=2e-3)
    assert data["segments"] == [0] * 9 + [1] * 4
    assert [i for i, special in enumerate(data["special"]) if special] == [0, 8, 12]
    assert figures["layers"] == 3.0
    assert figures["tokens"] == 13.0
    assert sorted(path.name for path in (tmp_path / "run" / "plots").iterdir()) == PNG
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == figures
    assert look(classifier, tmp_path / "run", text_pair=pair)[0] == figures  # nothing to do again


def test_page_of_a_transformer_xl_has_its_memory(language_model, tmp_path):
    folder, model, vocabulary = language_model
    context, words = "a cat sat on the mat and", "ran over the hills"
    figures, text = look(folder, tmp_path / "run", text=words, context=context)
    data = numbers_in(text)
    assert data["tokens"] == [*context.split()[-4:], *words.split()]
    assert (data["memory"], figures["memory_positions"]) == (4, 4.0)
    ids = [vocabulary.end_id, *vocabulary.encode(context)]
    # What the weights are is tested with the function against the paper's formula.
    expected = transformer_xl_attention(model, vocabulary.encode(words), context=ids).weights
    np.testing.assert_allclose(weights_in(data), expected, atol=1e-5)
    np.testing.assert_allclose(recomputed_weights(data), expected, atol=2e-3)
    assert sorted(path.name for path in (tmp_path / "run" / "plots").iterdir()) == PNG


def test_a_text_without_context_starts_with_the_end_of_a_line(language_model, tmp_path):
    _, text = look(language_model[0], tmp_path / "run", text="a cat")
    assert numbers_in(text)["tokens"] == ["<eos>", "a", "cat"]
    assert numbers_in(text)["memory"] == 0


def test_a_long_text_is_cut_and_the_page_says_so(classifier, language_model, tmp_path, caplog):
    note = "only 10 are shown (max_seq_length)"
    with caplog.at_level(logging.WARNING, logger="nlpapp"):
        figures, text = look(classifier, tmp_path / "a", text="cat " * 5000, max_seq_length=10)
    assert figures["tokens"] == 10.0
    assert note in text
    assert f"The text has 5002 tokens; {note}" in caplog.text
    _, text = look(language_model[0], tmp_path / "b", text="cat " * 5000, max_seq_length=10)
    assert note in text


def test_chosen_layers_keep_their_numbers(classifier, tmp_path):
    _, text = look(classifier, tmp_path / "run", layers=[0, -1], png_layer=1, png_head=1)
    assert numbers_in(text)["layers"] == [0, 2]


def test_a_model_of_weights_only_has_two_views(tiny_tokenizer_folder, tmp_path, caplog):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    torch.manual_seed(0)
    model = MPNetModel(MPNetConfig(vocab_size=len(tokenizer), **SIZES))
    save_model_folder(model, tmp_path / "model", tokenizer=tokenizer)
    _, text = look(tmp_path / "model", tmp_path / "run")
    assert numbers_in(text)["neurons"] is None
    assert "there is no neuron view" in text
    assert not (tmp_path / "run" / "plots" / "neuron_view.png").exists()


def test_random_weights_try_the_command_out(tiny_tokenizer_folder, tmp_path):
    size = attention.BertSizeConfig(num_layers=1, hidden_size=8, num_heads=2)
    pages = [
        look(None, tmp_path / name, tokenizer=str(tiny_tokenizer_folder), size=size)[1]
        for name in ("a", "b")
    ]
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": " "}, "text is empty"),
        ({"max_seq_length": 0}, "max_seq_length: 0"),
        ({"max_seq_length": 2}, "max_seq_length: 2 leaves no room"),
        ({"text": "cat " * 50}, "over the model's 40 positions"),
        ({"layers": [3]}, "the layers 0 to 2"),
        ({"png_layer": 7}, "the layers 0 to 2"),
        ({"png_head": 2}, "png_head: 2 is not possible; there are 0 to 1"),
        ({"png_token": -1}, "png_token: -1"),
        ({"context": "a"}, "context and mem_len are for a Transformer-XL"),
        ({"mem_len": -1}, "mem_len: -1"),
    ],
)
def test_options_that_cannot_work_are_named(classifier, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        look(classifier, tmp_path / "run", **options)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_model_is_needed_and_must_have_attention(classifier, language_model, tmp_path):
    with pytest.raises(ConfigError, match="give --model"):
        look(None, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        look(tmp_path, tmp_path / "b")
    with pytest.raises(ConfigError, match="text_pair is for encoders"):
        look(language_model[0], tmp_path / "c", text_pair="a cat")


def test_a_tokenizer_of_another_model_is_refused(classifier, tmp_path):
    with pytest.raises(ConfigError, match="rows"):
        look(classifier, tmp_path / "run", tokenizer=str(REPOSITORY / "data/sample/tokenizer"))
