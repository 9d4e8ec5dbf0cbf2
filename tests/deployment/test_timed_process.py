"""The answering side: its lines of JSON, what it imports, and memory as the system counts it."""

import io
import json
import subprocess
import sys

import numpy as np
import psutil
import pytest
import torch

from nlpapp.deployment import timed_process
from nlpapp.deployment.export import export_classifier, export_encoder, export_language_model
from nlpapp.deployment.runtime import Predictor
from nlpapp.deployment.torch_predictor import torch_predictor
from nlpapp.models.generation import generate_ids
from nlpapp.models.language_models import TransformerXLSizeConfig, transformer_xl_config
from nlpapp.models.transformer_xl import TransformerXLLMHeadModel
from nlpapp.text.vocabulary import SymbolVocabulary
from tests.deployment.models import build_model, load_tokenizer

TEXTS = ["a good film", "the cat sat on the mat .", "bad"]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder):
    return load_tokenizer(tiny_tokenizer_folder)


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    model = build_model("bert", labels={0: "no", 1: "yes"})
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    export_classifier(model, tokenizer, folder / "bundle", max_seq_length=12, int8=False)
    return folder


def ask(answer, *questions):
    answers = io.StringIO()
    lines = io.StringIO("".join(json.dumps(question) + "\n" for question in questions))
    timed_process.answer_questions(answer, {"load_ms": 1.5}, lines, answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_each_question_has_one_answer_with_the_memory_so_far():
    batches = []

    def answer(batch):
        batches.append(batch)
        return [{"label": text} for text in batch["texts"]]

    both = {"texts": ["a", "b"], "pairs": None}
    facts, times, predictions = ask(answer, {"time": [both, both]}, {"predict": both})
    assert facts["load_ms"] == 1.5
    assert len(times["seconds"]) == 2 and min(times["seconds"]) >= 0
    assert predictions["predictions"] == [{"label": "a"}, {"label": "b"}]
    assert batches == [both] * 3
    peaks = [line["peak_bytes"] for line in (facts, times, predictions)]
    assert min(peaks) > 1e6


def test_vectors_are_timed_but_not_sent():
    _, found = ask(lambda batch: np.zeros((1, 4)), {"predict": {"texts": ["a"]}})
    assert found["predictions"] is None


def test_peak_memory_grows_with_what_is_used_and_stays():
    before = timed_process.peak_bytes()
    assert before >= psutil.Process().memory_info().rss * 0.9
    ballast = np.ones(40_000_000)
    grown = timed_process.peak_bytes()
    assert grown >= psutil.Process().memory_info().rss * 0.9
    size = ballast.nbytes
    del ballast
    # The system counts in batches of pages for each core; what was used is not forgotten.
    assert timed_process.peak_bytes() >= grown - 0.1 * size


def test_both_kinds_answer_as_the_libraries_do(folders, tokenizer):
    bundle, facts = timed_process.open_bundle(
        {"folder": str(folders / "bundle"), "precision": "fp32", "threads": 1}
    )
    assert facts["load_ms"] > 0
    pairs = ["great", "a dog ran", "the mat"]
    expected = Predictor(folders / "bundle").predict(TEXTS, pairs)
    assert bundle({"texts": TEXTS, "pairs": pairs}) == expected
    torch_answer, facts = timed_process.open_torch(
        {
            "folder": str(folders / "model"),
            "task": "classifier",
            "threads": 1,
            "load_model": "nlpapp.models.pretrained:load_classifier",
            "load_tokenizer": "tests.deployment.models:load_tokenizer",
            "max_seq_length": 12,
        }
    )
    model = build_model("bert", labels={0: "no", 1: "yes"})
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    for batch in ({"texts": TEXTS, "pairs": pairs}, {"texts": TEXTS}):
        found = torch_answer(batch)
        same = torch_predictor(model, tokenizer, max_seq_length=12)(TEXTS, batch.get("pairs"))
        for row, other in zip(found, same, strict=True):
            assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


def test_encoders_answer_with_vectors(folders, tokenizer, tmp_path):
    answer, _ = timed_process.open_torch(
        {
            "folder": str(folders / "model"),
            "task": "encoder",
            "threads": 1,
            "load_model": "nlpapp.deployment.torch_predictor:load_encoder",
            "load_tokenizer": "tests.deployment.models:load_tokenizer",
            "max_seq_length": 12,
        }
    )
    found = answer({"texts": TEXTS, "pairs": None})
    model = build_model("bert", labels={0: "no", 1: "yes"}).bert.eval()
    export_encoder(model, tokenizer, tmp_path / "b", max_seq_length=12, int8=False, batches=4)
    bundle, _ = timed_process.open_bundle(
        {"folder": str(tmp_path / "b"), "precision": "fp32", "threads": 1, "task": "encoder"}
    )
    assert found.shape == (3, 16)
    np.testing.assert_allclose(bundle({"texts": TEXTS, "pairs": None}), found, atol=1e-4)
    assert bundle({"texts": TEXTS, "pairs": TEXTS}).shape == (3, 16)


@pytest.fixture(scope="module")
def language_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    symbols = ["<unk>", "<eos>", *"a good film the cat sat on mat . bad".split()]  # noqa: SIM905
    vocabulary = SymbolVocabulary("words", symbols)
    size = TransformerXLSizeConfig(num_layers=2, hidden_size=16, num_heads=2, mem_len=8)
    torch.manual_seed(1)
    config = transformer_xl_config(size, vocab_size=len(vocabulary))
    model = TransformerXLLMHeadModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    model.save_pretrained(folder / "model")
    vocabulary.save_pretrained(folder / "model")
    export_language_model(model, vocabulary, folder / "bundle", int8=False, batches=4)
    return folder, model, vocabulary


def test_language_models_continue_each_text_alike(language_models):
    folder, model, vocabulary = language_models
    common = {"task": "language-model", "threads": 1}
    specification = common | {
        "folder": str(folder / "model"),
        "load_model": "nlpapp.deployment.torch_predictor:load_language_model",
        "load_tokenizer": "nlpapp.text.vocabulary:load_vocabulary",
        "generate": "nlpapp.models.generation:generate_ids",
    }
    torch_answer, facts = timed_process.open_torch(specification)
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    bundle, _ = timed_process.open_bundle(
        common | {"folder": str(folder / "bundle"), "precision": "fp32"}
    )
    batch = {"texts": ["the cat sat", "bad\nfilm"], "pairs": None}
    found = torch_answer(batch)
    assert found == bundle(batch)
    ids = [vocabulary.end_id, *vocabulary.encode("the cat sat")]
    new = list(
        generate_ids(
            model,
            ids,
            max_new_tokens=timed_process.NEW_TOKENS,
            rng=np.random.default_rng(5),
            temperature=0,
            forbidden=[vocabulary.unknown_id],
        )
    )
    assert found[0]["text"] == vocabulary.decode([*ids[1:], *new])


def run(specification, questions=""):
    command = [sys.executable, "-m", "nlpapp.deployment.timed_process", json.dumps(specification)]
    return subprocess.run(command, input=questions, capture_output=True, text=True, timeout=60)


def test_a_bundle_is_timed_without_torch(folders):
    code = (
        "import sys; from nlpapp.deployment import timed_process as t;"
        f"given = dict(folder={str(folders / 'bundle')!r}, precision='fp32', threads=1);"
        "t.open_bundle(given)[0]({'texts': ['a']});"
        "print([name for name in ('torch', 'transformers', 'psutil') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_error_is_the_only_line(tmp_path):
    done = run({"folder": str(tmp_path), "precision": "int8", "threads": 1})
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "error": f"{tmp_path} is not a bundle: it has no manifest.json. Make one with nlpapp "
        "export.",
        "kind": "CheckpointError",
    }
