import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.evaluation.context_windows import window_losses
from nlpapp.models.language_models import (
    TransformerXLSizeConfig,
    transformer_xl_config,
)
from nlpapp.models.pretrained import load_pretrained, save_model_folder
from nlpapp.models.transformer_xl import TransformerXLLMHeadModel
from nlpapp.recipes import evaluate_lm
from nlpapp.text.vocabulary import SymbolVocabulary, count_symbols, load_vocabulary
from nlpapp.training.processes import process_state

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
    assert metrics["word_perplexity"] == pytest.approx(8)
    assert (metrics["words"], metrics["characters"]) == (tokens, characters)
    assert (folder / "score" / "report.html").is_file()


@pytest.fixture
def trained(tmp_path):
    """A model with weights worth comparing, and a text of 300 letters."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    (tmp_path / "letters.txt").write_text("".join(rng.choice(list("abcd"), 300)) + "\n")
    vocabulary = count_symbols("characters", ["abcd"])
    model = TransformerXLLMHeadModel(transformer_xl_config(SIZE, vocab_size=len(vocabulary)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    fingerprint = vocabulary.fingerprint()
    save_model_folder(model, tmp_path / "model", tokenizer=vocabulary, fingerprint=fingerprint)
    return tmp_path


def test_what_context_is_worth_is_measured_on_request(trained):
    text = {"text_file": str(trained / "letters.txt")}
    plain = score(trained, "plain", **text)
    assert not [name for name in plain if "sliding" in name or "effective" in name]
    assert not (trained / "plain" / "plots").exists()
    options = {"by_position": True, "sliding_window": 16, "window_tokens": 8, "segment_length": 16}
    options |= {"effective_context": 24, "effective_context_step": 8, "batch_size": 1}
    metrics = score(trained, "full", **text, **options)
    assert metrics["sliding_attention_length"] == 16
    assert metrics["sliding_speed_up"] > 0 and metrics["sliding_window_seconds"] > 0
    model = load_pretrained(AutoModelForCausalLM, trained / "model").eval()
    ids = np.array(
        load_vocabulary(trained / "model").encode((trained / "letters.txt").read_text()[:300])
    )
    targets = np.arange(17, 25)
    expected = window_losses(model, ids, targets, window=16, batch_size=3).mean()
    assert metrics["sliding_window_loss"] == pytest.approx(float(expected), rel=1e-5)
    for share in (10, 50, 100):
        assert metrics[f"effective_context_{share}_percent"] in (8, 16, 24)
    assert (trained / "full" / "plots" / "loss_by_position.png").stat().st_size > 1000
    assert "Loss by position" in (trained / "full" / "report.html").read_text(encoding="utf-8")


def save_other(trained, vocabulary):
    torch.manual_seed(1)
    model = TransformerXLLMHeadModel(transformer_xl_config(SIZE, vocab_size=len(vocabulary)))
    fingerprint = vocabulary.fingerprint()
    save_model_folder(model, trained / "other", tokenizer=vocabulary, fingerprint=fingerprint)
    return str(trained / "other")


CONTEXT = {"effective_context": 24, "effective_context_step": 8, "effective_context_tokens": 20}


def test_effective_context_is_relative_to_a_group_of_models(trained):
    other = save_other(trained, load_vocabulary(trained / "model"))
    text = {"text_file": str(trained / "letters.txt")}
    metrics = score(trained, "group", compared_with=[other], **text, **CONTEXT)
    for share in (10, 50, 100):
        assert metrics[f"effective_context_{share}_percent"] in (8, 16, 24)
        assert metrics[f"compared_1_effective_context_{share}_percent"] in (8, 16, 24)
    page = (trained / "group" / "report.html").read_text(encoding="utf-8")
    assert "compared 1 effective context" in page and "Effective context" in page
    assert (trained / "group" / "plots" / "effective_context.png").is_file()


def test_a_group_has_one_vocabulary_and_something_to_compare(trained):
    text = {"text_file": str(trained / "letters.txt")}
    other = save_other(trained, count_symbols("characters", ["abce"]))
    with pytest.raises(ConfigError, match="other was trained with another vocabulary"):
        score(trained, "group", compared_with=[other], **text, **CONTEXT)
    with pytest.raises(ConfigError, match="compared_with: .*other would not be used"):
        score(trained, "group", compared_with=[other], **text)


def test_windows_are_read_on_the_device_of_the_process(trained, monkeypatch):
    """A device that computes nothing stands for a GPU."""
    seen = []

    def measure(models, *inputs, **options):
        seen.extend(parameter.device.type for model in models for parameter in model.parameters())
        raise InterruptedError

    monkeypatch.setitem(process_state()._shared_state, "device", torch.device("meta"))
    monkeypatch.setattr(evaluate_lm, "measure_effective_context", measure)
    with pytest.raises(InterruptedError):
        score(trained, text_file=str(trained / "letters.txt"), **CONTEXT)
    assert set(seen) == {"meta"}


def test_absolute_positions_have_no_memory_to_evaluate_with(trained):
    size = dataclasses.replace(SIZE, mem_len=0, absolute_positions=True)
    options = {"model": None, "vocabulary": str(trained / "model"), "size": size}
    options |= {"text_file": "nowhere.txt"}  # which is not looked for
    with pytest.raises(ConfigError, match="mem_len: 8 positions of memory"):
        score(trained, "absolute", mem_len=8, **options)
    with pytest.raises(ConfigError, match="sliding_window: 16 is compared with a memory"):
        score(trained, "absolute", sliding_window=16, **options)


def test_another_clamp_changes_the_scores(trained):
    text = {"text_file": str(trained / "letters.txt")}
    losses = [
        score(trained, f"clamp-{clamp}", clamp_len=clamp, **text)["loss"]
        for clamp in (None, 1000, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 16}, "cannot load the model in .*size mismatch|mismatch"),
        ({"num_hidden_layers": 9}, r"transformer.layers.\d.*is missing.*in all"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(trained, change, message):
    path = trained / "model" / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | change))
    with pytest.raises(CheckpointError, match=message):
        score(trained, text_file=str(trained / "letters.txt"))


def test_weights_of_more_than_the_model_are_refused(trained):
    path = trained / "model" / "model.safetensors"
    weights = load_file(path)
    norm = weights["transformer.layers.0.attention_norm.weight"]
    save_file(
        weights | {"transformer.layers.1.attention_norm.weight": norm.clone()},
        path,
        {"format": "pt"},
    )
    with pytest.raises(CheckpointError, match=r"transformer.layers.1.attention_norm.*is unknown"):
        score(trained, text_file=str(trained / "letters.txt"))


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
    with pytest.raises(ConfigError, match="sliding_window: -1"):
        score(folder, sliding_window=-1)
    with pytest.raises(ConfigError, match="clamp_len: 0"):
        score(folder, clamp_len=0)
    with pytest.raises(ConfigError, match="effective_context: 40 must be at least twice"):
        score(folder, effective_context=40)
    with pytest.raises(ConfigError, match="has 15 tokens; a sliding window of 64"):
        score(folder, "short", sliding_window=64)
    with pytest.raises(ConfigError, match="15 tokens, too few for a context of 64"):
        score(folder, "shorter", effective_context=64)
