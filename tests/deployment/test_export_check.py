import numpy as np
import pytest

from nlpapp.deployment.export import DevSet, export_classifier
from nlpapp.errors import CheckpointError
from tests.deployment.models import build_model, load_tokenizer

TEXTS = ["the cat sat", "a bad film", " ", "great , good", "the dog ran over the hill"]


def accuracy_of(first_answers):
    """Accuracy with the labels that the first logits scored (PyTorch's) give."""
    known = {}

    def score(logits):
        labels = known.setdefault("labels", logits.argmax(1))
        changed = first_answers - 1 if len(known) > 1 else 0
        known["calls"] = known.get("calls", 0) + 1
        return {"accuracy": float((logits.argmax(1) == labels).mean()) - max(0, changed)}

    return score


def export(folder, tokenizer, **options):
    model = build_model("bert")
    dev = DevSet(texts=TEXTS, metric="accuracy", **options)
    return export_classifier(model, tokenizer, folder, max_seq_length=12, batches=8, dev=dev)


def test_metrics_of_pytorch_and_each_model_are_kept(tiny_tokenizer_folder, tmp_path):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    metrics = export(tmp_path / "b", tokenizer, score=accuracy_of(1), max_metric_drop=1.0)
    assert metrics["dev_rows"] == 5 and metrics["dev_pytorch_accuracy"] == 1
    assert metrics["dev_fp32_accuracy"] == 1 and metrics["dev_fp32_max_difference"] <= 1e-4
    assert metrics["dev_int8_drop"] == 1 - metrics["dev_int8_accuracy"]
    assert "dev_int8_max_difference" in metrics and "accuracy" in (
        tmp_path / "b" / "README.md"
    ).read_text(encoding="utf-8")


def test_too_great_a_loss_of_the_small_model_is_refused(tiny_tokenizer_folder, tmp_path):
    calls = []

    def score(logits):
        calls.append(logits)
        return {"accuracy": [0.9, 0.9, 0.85][len(calls) - 1]}  # PyTorch, fp32, int8

    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    with pytest.raises(CheckpointError, match="int8 model loses 0.0500 of accuracy.*0.9000"):
        export(tmp_path / "b", tokenizer, score=score, max_metric_drop=0.04)
    assert not list(tmp_path.iterdir())
    calls.clear()
    assert export(tmp_path / "b", tokenizer, score=score, max_metric_drop=0.06)


def test_a_tokenizer_that_reads_otherwise_is_refused(tiny_tokenizer_folder, tmp_path, monkeypatch):
    from tokenizers import normalizers

    from nlpapp.deployment import export as module

    right = module.write_tokenizer

    def other(tokenizer, folder, *, max_seq_length):
        backend = tokenizer.backend_tokenizer
        before, backend.normalizer = backend.normalizer, normalizers.Replace("a", "o")
        right(tokenizer, folder, max_seq_length=max_seq_length)
        backend.normalizer = before

    monkeypatch.setattr(module, "write_tokenizer", other)
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    with pytest.raises(CheckpointError, match="Is the tokenizer the one"):
        export(tmp_path / "b", tokenizer, score=lambda logits: {"accuracy": 1.0})
    assert np.array(TEXTS).shape == (5,)
