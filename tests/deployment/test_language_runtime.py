import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from nlpapp.deployment.export import export_language_model
from nlpapp.deployment.language_runtime import LanguageModel, next_token_probabilities
from nlpapp.deployment.runtime import Predictor, open_bundle
from nlpapp.errors import CheckpointError, ConfigError, DataError
from nlpapp.models import generation
from nlpapp.models.transformer_xl import TransformerXLConfig, TransformerXLLMHeadModel
from nlpapp.text.vocabulary import ByteVocabulary, SymbolVocabulary, TokenizerVocabulary
from tests.deployment.models import build_language_model, load_tokenizer

WORDS = ["<eos>", "<unk>", *(f"w{index}" for index in range(78))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language") / "bundle"
    model = build_language_model()
    vocabulary = SymbolVocabulary("words", WORDS)
    metrics = export_language_model(
        model, vocabulary, folder, formats=["fp16", "safetensors"], batches=30, max_seq_length=16
    )
    return folder, model, vocabulary, metrics


def test_every_format_is_near_pytorch(made):
    metrics = made[3]
    assert metrics["fp32_max_difference"] <= 1e-4 and metrics["fp32_label_agreement"] == 1
    assert metrics["safetensors_max_difference"] <= 1e-5
    assert metrics["fp16_max_difference"] < 0.5 and metrics["int8_label_agreement"] > 0.7


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.7}])
def test_generation_is_the_models_own(made, options):
    folder, model, vocabulary, _ = made
    prompt = [0, *vocabulary.encode("w3 w9 " * 300)]  # longer than a segment
    expected = generation.generate_ids(
        model,
        prompt,
        max_new_tokens=20,
        rng=np.random.default_rng(5),
        forbidden=[1],
        **options,
    )
    reader = LanguageModel(folder)
    found = reader.generate_ids(prompt, max_new_tokens=20, rng=np.random.default_rng(5), **options)
    assert list(found) == list(expected)


def test_without_a_memory_generation_is_the_models_own(tmp_path):
    model = build_language_model(mem_len=0)
    vocabulary = SymbolVocabulary("words", WORDS)
    export_language_model(model, vocabulary, tmp_path / "bundle", int8=False, batches=6)
    prompt = [0, *vocabulary.encode("w3 w9 " * 300)]  # longer than what is read for a token
    for ids in ([0, 5, 11], prompt):
        options = {"max_new_tokens": 12, "temperature": 0.0}
        expected = generation.generate_ids(
            model, ids, rng=np.random.default_rng(0), forbidden=[1], **options
        )
        found = LanguageModel(tmp_path / "bundle").generate_ids(
            ids, rng=np.random.default_rng(0), **options
        )
        assert list(found) == list(expected)


def test_a_certain_choice_needs_room_for_one_row_of_a_large_vocabulary():
    logits = np.zeros(300_000, np.float32)
    logits[7] = 1
    tracemalloc.start()
    found = next_token_probabilities(logits, temperature=0, top_k=0, top_p=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[7] == found.sum() == 1
    assert peak < 10 * 300_000 * 8


def test_text_comes_from_the_vocabulary(made):
    reader = LanguageModel(made[0])
    text = reader.generate("w5 w6", max_new_tokens=4, seed=1)
    assert text.startswith("w5 w6") and len(text.split()) <= 6
    assert text == LanguageModel(made[0]).generate("w5 w6", max_new_tokens=4, seed=1)
    ids = reader.vocabulary.encode("w5 other\nw6")
    assert ids == [0, 7, 1, 0, 8]
    assert reader.vocabulary.decode(ids[1:]) == made[2].decode(ids[1:])


def test_pieces_of_a_tokenizer_characters_and_bytes(tiny_tokenizer_folder, tmp_path):
    model = build_language_model(mem_len=3)
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    kinds = {
        "pieces": TokenizerVocabulary(tokenizer),
        "letters": SymbolVocabulary("characters", ["<eos>", *"abcd "]),
        "bytes": ByteVocabulary(),
    }
    texts = {"pieces": "the cat sat", "letters": "a bad cab", "bytes": "a b\u00e4d c\u4e2db"}
    for name, vocabulary in kinds.items():
        export_language_model(model, vocabulary, tmp_path / name, int8=False, batches=6)
        reader = LanguageModel(tmp_path / name)
        text = texts[name]
        assert reader.vocabulary.encode(text)[1:] == vocabulary.encode(text)
        ids = vocabulary.encode(text) + [vocabulary.end_id] + vocabulary.encode(text)
        assert reader.vocabulary.decode(ids) == vocabulary.decode(ids)
    cut = "a\u4e2d".encode()[:-1]  # a character that lacks a byte, at the end of a line
    assert reader.vocabulary.decode([*cut, 10, 98]) == vocabulary.decode([*cut, 10, 98])
    with pytest.raises(DataError, match="'z' is not in the vocabulary"):
        LanguageModel(tmp_path / "letters").generate("abz")


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "top_k": 4}, {"temperature": 0.0}, {"top_p": 0.5}]
)
def test_probabilities_are_those_of_the_models_room(options):
    logits = np.random.default_rng(0).normal(size=30)
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | options
    np.testing.assert_allclose(
        next_token_probabilities(logits, **settings),
        generation.next_token_probabilities(logits, **settings),
        atol=1e-12,
    )


def test_kinds_and_options_that_do_not_fit_are_refused(made, tmp_path):
    folder, model, vocabulary, _ = made
    with pytest.raises(CheckpointError, match="'language-model', which LanguageModel opens"):
        Predictor(folder)
    with pytest.raises(CheckpointError, match="LanguageModel opens"):
        open_bundle(folder)
    with pytest.raises(ConfigError, match="top_p 0"):
        LanguageModel(folder).generate("w1", top_p=0)
    with pytest.raises(ConfigError, match="temperature nan"):
        LanguageModel(folder).generate("w1", temperature=float("nan"))
    for name in ("int8-static", "torch-export"):
        with pytest.raises(ConfigError, match=f"{name} is not possible for a Transformer-XL"):
            export_language_model(model, vocabulary, tmp_path / "b", formats=[name])
    config = TransformerXLConfig(
        vocab_size=len(vocabulary), hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, mem_len=0, position_embedding_type="absolute",
    )  # fmt: skip
    baseline = TransformerXLLMHeadModel(config)
    with pytest.raises(ConfigError, match="absolute positions.* cannot be exported"):
        export_language_model(baseline, vocabulary, tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["kind"] == "language-model" and manifest["mem_len"] == 7


def test_predict_py_generates_with_numpy_and_onnxruntime_alone(made):
    from tests.deployment.test_standalone import BLOCKED

    command = [sys.executable, "-c", BLOCKED, str(made[0] / "predict.py"), "w5 w6"]
    command += ["--max_new_tokens", "6", "--temperature", "0", "--precision", "fp32"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    expected = LanguageModel(made[0]).generate("w5 w6", max_new_tokens=6, temperature=0)
    assert result.stdout.split() == expected.split()


def test_importing_it_needs_no_pytorch():
    code = (
        "import sys, nlpapp.deployment.language_runtime;"
        "print([m for m in ('torch', 'transformers', 'onnx') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
