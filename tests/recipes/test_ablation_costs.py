import numpy as np
import pytest
import torch

from nlpapp.data.classification import Examples
from nlpapp.deployment import benchmark
from nlpapp.deployment.runtime import Predictor
from nlpapp.models.pretrained import load_classifier, save_model_folder
from nlpapp.recipes import ablation
from nlpapp.recipes.ablation_costs import measure_costs
from nlpapp.recipes.ablation_plan import Variant, plan_variants
from tests.deployment.models import build_model, load_tokenizer


class Process:
    """Answers in as many seconds as a table says, and notes what it was asked."""

    facts = {"parameters": 123}

    def __init__(self, subject, seen):
        self.subject, self.seen = subject, seen

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def time(self, batches):
        self.seen.append([self.subject.name, *(batch["texts"] for batch in batches)])
        slow = 10 if self.subject.name == "teacher" else 1
        return [slow * (0.002 if len(batch["texts"]) == 1 else 0.016) for batch in batches]


@pytest.fixture
def models(tmp_path, tiny_tokenizer_folder):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    for name, kind in (
        ("teacher", "bert"),
        ("labels/seed-5/model", "bilstm"),
        ("logits/seed-5/model", "bilstm"),
    ):
        folder = tmp_path / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        model = build_model(kind, labels={0: "a", 1: "b"})
        if name.startswith("logits"):
            with torch.no_grad():
                model.get_parameter("classifier.bias").add_(torch.tensor([-9.0, 9.0]))
        save_model_folder(model, folder, tokenizer=tokenizer)
    return tmp_path


def test_a_teacher_without_a_tokenizer_reads_with_the_one_of_the_options(
    models, tiny_tokenizer_folder, monkeypatch
):
    for path in (models / "teacher").glob("*token*"):
        path.unlink()
    (models / "teacher" / "vocab.txt").unlink(missing_ok=True)
    config = ablation.Config(
        output_dir=str(models),
        teacher=str(models / "teacher"),
        tokenizer=str(tiny_tokenizer_folder),
        variants=[Variant(name="labels")],
        seed=5,
        seeds=1,
        max_seq_length=24,
    )
    monkeypatch.setattr(benchmark.Subject, "start", lambda subject, threads: Process(subject, []))
    examples = Examples(
        texts_a=["the cat"], labels=np.array([0]), label_names=("a", "b"), source="dev"
    )
    rows = measure_costs(config, examples, ["accuracy"], plan_variants(config))
    found = [(row["model"], row["kind"]) for row in rows]
    assert found[:2] == [("teacher", "fp32"), ("teacher", "int8")]
    assert found[2:] == [("labels", kind) for kind in ("pytorch", "fp32", "int8")]


def test_each_shape_is_timed_once_as_model_and_as_bundle(
    models, tiny_tokenizer_folder, monkeypatch
):
    config = ablation.Config(
        output_dir=str(models),
        teacher=str(models / "teacher"),
        variants=[Variant(name="labels"), Variant(name="logits")],
        seed=5,
        seeds=1,
        rounds=30,
        max_seq_length=24,
    )
    seen = []
    monkeypatch.setattr(benchmark.Subject, "start", lambda subject, threads: Process(subject, seen))
    examples = Examples(
        texts_a=["the cat", " ", "a dog"],
        texts_b=None,
        labels=np.array([0, 1, 0]),
        label_names=("a", "b"),
        source="dev",
    )
    rows = measure_costs(config, examples, ["accuracy"], plan_variants(config))
    assert [(row["model"], row["kind"]) for row in rows] == [
        (name, kind)
        for name in ("teacher", "labels", "logits")
        for kind in ("pytorch", "fp32", "int8")
    ]
    assert {asked[0] for asked in seen} == {"teacher", "labels"}
    assert {text for asked in seen for batch in asked[1:] for text in batch} == {"the cat", "a dog"}
    teacher, _, _, labels, bundle, int8, logits, _, other = rows
    assert teacher["p50_ms"] == teacher["p95_ms"] == pytest.approx(20)
    assert labels["batch_32_p50_ms"] == labels["batch_32_p95_ms"] == pytest.approx(16)
    assert labels["texts_per_second_32"] == pytest.approx(2000)
    assert (labels["rounds"], labels["batch_32_rounds"]) == (30, 3)
    assert labels | {"model": "logits"} == logits
    assert teacher["parameters"] == 123
    student = build_model("bilstm", labels={0: "a", 1: "b"})
    assert bundle["parameters"] == student.num_parameters()
    folder = models / "bundles" / "1" / "0"
    whole, small = ((folder / name).stat().st_size for name in ("model.onnx", "model.int8.onnx"))
    assert bundle["bytes"] - whole == int8["bytes"] - small > 0  # the vocabulary, labels, options
    # What 8 bits cost in accuracy is each model's own, though one of a shape is timed.
    blank = load_tokenizer(tiny_tokenizer_folder)([" "], return_tensors="pt")
    for row, place, name in ((int8, 1, "labels"), (other, 2, "logits")):
        predictor = Predictor(models / "bundles" / str(place) / "0", precision="int8")
        found = list(np.argmax(predictor.logits(["the cat", "a dog"]), axis=1))
        with torch.no_grad():
            logits = load_classifier(models / name / "seed-5" / "model")(**blank).logits
        found.insert(1, int(logits.argmax()))
        assert row["accuracy"] == pytest.approx(np.mean(found == examples.labels))
    assert "accuracy" not in bundle
