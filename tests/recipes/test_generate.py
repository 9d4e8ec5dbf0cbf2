import logging

import pytest
import torch

from nlpapp.errors import ConfigError, DataError
from nlpapp.models.language_models import TransformerXLSizeConfig, transformer_xl_config
from nlpapp.models.pretrained import save_model_folder
from nlpapp.models.transformer_xl import TransformerXLLMHeadModel
from nlpapp.recipes import generate
from nlpapp.text.vocabulary import SymbolVocabulary, count_symbols, load_vocabulary

WORDS = ["a", "cat", "sat", "on", "the", "mat", "and", "ran", "over", "hills", "<unk>"]
SIZE = TransformerXLSizeConfig(num_layers=1, hidden_size=8, num_heads=1, inner_size=8, mem_len=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model"
    torch.manual_seed(0)
    vocabulary = count_symbols("words", [" ".join(WORDS)])
    model = TransformerXLLMHeadModel(transformer_xl_config(SIZE, vocab_size=len(vocabulary)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    save_model_folder(model, path, tokenizer=vocabulary, fingerprint=vocabulary.fingerprint())
    return path


def write(folder, **options):
    return generate.run(generate.Config(**{"model": str(folder), "max_new_tokens": 12} | options))


def test_text_follows_the_prompt_on_the_console_and_in_a_file(folder, tmp_path, capsys):
    figures = write(folder, prompt="a cat", output_file=str(tmp_path / "out" / "text.txt"))
    printed = capsys.readouterr().out
    assert printed.startswith("a cat")
    assert (tmp_path / "out" / "text.txt").read_text() == printed
    assert figures == {"prompt_tokens": 2.0, "generated_tokens": 12.0}
    words = printed.replace("\n", " <eos> ").split()
    assert len(words) == 2 + 12 + 1
    assert set(words) <= {*WORDS, "<eos>"} - {"<unk>"}


def test_one_seed_writes_one_text(folder, capsys):
    texts = []
    for seed in (1, 1, 2):
        write(folder, seed=seed)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_unknown_words_of_a_prompt_are_reported(folder, caplog, capsys):
    with caplog.at_level(logging.WARNING, logger="nlpapp"):
        write(folder, prompt="a zebra sat")
    assert "1 of the prompt's 3 tokens" in caplog.text
    assert capsys.readouterr().out.startswith("a <unk> sat")


def test_an_unknown_word_without_unknown_is_an_error():
    vocabulary = SymbolVocabulary("words", ["<eos>", "cat"])
    with pytest.raises(DataError, match="'cats' is not among .* Did you mean 'cat'"):
        generate.encode_prompt("cats", vocabulary)


def test_a_prompt_of_several_lines():
    vocabulary = SymbolVocabulary("words", ["<eos>", "cat"])
    assert generate.encode_prompt("", vocabulary) == [0]
    assert generate.encode_prompt("cat cat\ncat", vocabulary) == [0, 1, 1, 0, 1]


def test_parts_appear_as_soon_as_they_are_final(tiny_tokenizer_folder):
    vocabulary = load_vocabulary(tiny_tokenizer_folder)
    ids = vocabulary.tokenizer.convert_tokens_to_ids(
        ["d", "##o", "##g", "sat", "[SEP]", "the", "cat"]
    )
    parts = list(generate.stream_text(vocabulary.encode("the"), ids, vocabulary))
    assert parts == ["the", " dog", " sat", "\nthe", " cat"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": None}, "give --model"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0"),
        ({"temperature": -1}, "temperature: -1"),
        ({"top_p": 1.1}, "top_p: 1.1"),
        ({"top_k": -1}, "top_k: -1"),
        ({"mem_len": -1}, "mem_len: -1"),
    ],
)
def test_options_that_cannot_work_are_named(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        write(folder, **options)
