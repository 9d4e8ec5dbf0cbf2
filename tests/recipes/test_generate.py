import dataclasses
import json
import logging

import pytest
import torch

from nlpapp.errors import ConfigError, DataError
from nlpapp.models.language_models import TransformerXLSizeConfig, transformer_xl_config
from nlpapp.models.pretrained import save_model_folder
from nlpapp.models.transformer_xl import TransformerXLLMHeadModel
from nlpapp.recipes import generate
from nlpapp.text.vocabulary import SymbolVocabulary, count_symbols
from nlpapp.training.processes import process_state

WORDS = ["a", "cat", "sat", "on", "the", "mat", "and", "ran", "over", "hills", "<unk>"]
SIZE = TransformerXLSizeConfig(num_layers=1, hidden_size=8, num_heads=1, inner_size=8, mem_len=64)

ABSOLUTE = dataclasses.replace(SIZE, mem_len=0, absolute_positions=True)


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


def test_the_model_is_on_the_device_of_the_process(folder, monkeypatch, capsys):
    """A device that computes nothing stands for a GPU."""
    seen = []

    def generate_batch(model, prompts, **options):
        seen.append({parameter.device.type for parameter in model.parameters()})
        yield [0]

    monkeypatch.setitem(process_state()._shared_state, "device", torch.device("meta"))
    monkeypatch.setattr(generate, "generate_batch", generate_batch)
    write(folder)
    assert seen == [{"meta"}]


def test_a_file_that_cannot_be_written_is_named_before_anything_is_loaded(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(generate, "load_vocabulary", None)
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "file" / "b", "(Not|File)")):
        with pytest.raises(ConfigError, match=f"output_file: {path} cannot be written .{reason}"):
            write(folder, output_file=str(path))


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


def test_unknown_characters_of_a_prompt_are_reported_or_refused(caplog):
    known = SymbolVocabulary("characters", ["<eos>", "<unk>", "a", "b"])
    assert generate.encode_prompt("aéb", known) == [0, 2, 1, 3]
    assert "1 of the prompt's 3 tokens are not in the vocabulary" in caplog.text
    with pytest.raises(DataError, match="'é' is not among the 3 characters"):
        generate.encode_prompt("aéb", SymbolVocabulary("characters", ["<eos>", "a", "b"]))


def test_an_unknown_word_without_unknown_is_an_error():
    vocabulary = SymbolVocabulary("words", ["<eos>", "cat"])
    with pytest.raises(DataError, match="'cats' is not among .* Did you mean 'cat'"):
        generate.encode_prompt("cats", vocabulary)


def test_a_prompt_of_several_lines():
    vocabulary = SymbolVocabulary("words", ["<eos>", "cat"])
    assert generate.encode_prompt("", vocabulary) == [0]
    assert generate.encode_prompt("cat cat\ncat", vocabulary) == [0, 1, 1, 0, 1]


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_text_does_not_depend_on_those_beside_it(folder, tmp_path, capsys):
    """Prompts of two lengths, three texts of each: in batches of any size they are the same."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\nthe mat and\non hills\n", encoding="utf-8")
    found = []
    for batch_size in (1, 2, 16):
        output = tmp_path / f"{batch_size}.jsonl"
        options = {"batch_size": batch_size, "output_file": str(output), "temperature": 5.0}
        figures = write(folder, prompt_file=str(prompts), num_texts=3, **options)
        found.append(rows(output))
    assert figures == {"prompt_tokens": 3.0 * 7, "generated_tokens": 9.0 * 12}
    assert found[0] == found[1] == found[2]
    assert [row["prompt"] for row in found[0]][::3] == ["a cat", "the mat and", "on hills"]
    assert all(row["text"].startswith(row["prompt"]) for row in found[0])
    assert len({row["text"] for row in found[0]}) == 9
    assert capsys.readouterr().out.count("the mat and") >= 9


def test_a_repetition_penalty_writes_other_words(folder, capsys):
    options = {"temperature": 0.0, "max_new_tokens": 8}
    write(folder, prompt="a cat", **options)
    assert len(set(capsys.readouterr().out.split())) < 5
    write(folder, prompt="a cat", repetition_penalty=1e6, **options)
    assert sorted(capsys.readouterr().out.split()) == sorted(set(WORDS) - {"<unk>"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": None}, "give --model"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0"),
        ({"temperature": -1}, "temperature: -1"),
        ({"temperature": float("nan")}, "temperature: nan"),
        ({"top_p": 1.1}, "top_p: 1.1"),
        ({"top_k": -1}, "top_k: -1"),
        ({"mem_len": -1}, "mem_len: -1"),
        ({"num_texts": 0}, "num_texts: 0"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: 0.0"),
        ({"prompt": "a", "prompt_file": "b"}, "both given"),
        ({"model": None, "size": ABSOLUTE, "mem_len": 3}, "mem_len: 3 positions of memory"),
    ],
)
def test_options_that_cannot_work_are_named(folder, options, message, capsys):
    if options.get("size"):
        options = options | {"vocabulary": str(folder)}
    with pytest.raises(ConfigError, match=message):
        write(folder, **options)
    assert not capsys.readouterr().out
