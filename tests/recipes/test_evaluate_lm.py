import math

import pytest

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.language_models import (
    TransformerXLSizeConfig,
    transformer_xl_config,
)
from nlpapp.models.pretrained import save_model_folder
from nlpapp.models.transformer_xl import TransformerXLLMHeadModel
from nlpapp.recipes import evaluate_lm
from nlpapp.text.vocabulary import SymbolVocabulary, count_symbols

LINES = ["a cat sat on a mat", "", "a cat ran", "<unk> sat"]
SIZE = TransformerXLSizeConfig(num_layers=1, hidden_size=8, num_heads=1, inner_size=8, mem_len=8)


@pytest.fixture
def folder(tmp_path):
    """A model whose weights are all zero: each word has probability 1 / V."""
    vocabulary = count_symbols("words", LINES)
    model = TransformerXLLMHeadModel(transformer_xl_config(SIZE, vocab_size=len(vocabulary)))
    for parameter in model.parameters():
        parameter.detach().zero_()
    save_model_folder(
        model, tmp_path / "model", tokenizer=vocabulary, fingerprint=vocabulary.fingerprint()
    )
    (tmp_path / "text.txt").write_text("".join(line + "\n" for line in LINES), encoding="utf-8")
    return tmp_path


def score(folder, name="score", **options):
    arguments = {
        "model": str(folder / "model"),
        "text_file": str(folder / "text.txt"),
        "output_dir": str(folder / name),
    }
    return evaluate_lm.run(evaluate_lm.Config(**arguments | options))


@pytest.mark.parametrize(
    "options", [{}, {"mem_len": 0}, {"segment_length": 1, "batch_size": 1}, {"batch_size": 50}]
)
def test_figures_of_uniform_probabilities_are_literals(folder, options):
    metrics = score(folder, **options)
    tokens = 6 + 0 + 3 + 2 + 4  # words, and the end of each line
    assert metrics["predicted_tokens"] == tokens
    assert metrics["perplexity"] == pytest.approx(8)  # a cat sat on mat ran <unk> <eos>
    assert metrics["bits_per_token"] == pytest.approx(3)
    characters = len((folder / "text.txt").read_text())
    assert metrics["bits_per_character"] == pytest.approx(3 * tokens / characters)
    assert metrics["unknown_rate"] == pytest.approx(1 / tokens)
    assert metrics["loss"] == pytest.approx(math.log(8))
    assert (folder / "score" / "report.html").is_file()


def test_another_vocabulary_is_refused(folder):
    other = folder / "other"
    other.mkdir()
    SymbolVocabulary(
        "words", ["a", "cat", "on", "sat", "mat", "ran", "<eos>", "<unk>"]
    ).save_pretrained(other)
    with pytest.raises(ConfigError, match="trained with another vocabulary"):
        score(folder, vocabulary=str(other))


def test_a_folder_without_a_vocabulary_is_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match="no vocabulary"):
        score(folder, model=str(tmp_path / "nowhere"))


def test_options_that_cannot_work_are_named(folder):
    with pytest.raises(ConfigError, match="mem_len: -1"):
        score(folder, mem_len=-1)
    with pytest.raises(ConfigError, match="give --model"):
        score(folder, model=None)
    with pytest.raises(ConfigError, match="at least 1"):
        score(folder, segment_length=0)
