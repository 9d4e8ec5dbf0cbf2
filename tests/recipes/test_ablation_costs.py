import numpy as np
import pytest

from nlpapp.data.classification import Examples
from nlpapp.deployment import benchmark
from nlpapp.models.pretrained import save_model_folder
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
        save_model_folder(build_model(kind, labels={0: "a", 1: "b"}), folder, tokenizer=tokenizer)
    return tmp_path


def test_each_shape_is_timed_once_as_model_and_as_bundle(models, monkeypatch):
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
    rows = measure_costs(config, examples, plan_variants(config))
    assert [(row["model"], row["kind"]) for row in rows] == [
        (name, kind) for name in ("teacher", "labels", "logits") for kind in ("pytorch", "fp32")
    ]
    assert {asked[0] for asked in seen} == {"teacher", "labels"}
    assert {text for asked in seen for batch in asked[1:] for text in batch} == {"the cat", "a dog"}
    teacher, _, labels, bundle, logits, _ = rows
    assert teacher["p50_ms"] == teacher["p95_ms"] == pytest.approx(20)
    assert labels["batch_32_p50_ms"] == labels["batch_32_p95_ms"] == pytest.approx(16)
    assert labels["texts_per_second_32"] == pytest.approx(2000)
    assert labels | {"model": "logits"} == logits
    assert teacher["parameters"] == 123
    student = build_model("bilstm", labels={0: "a", 1: "b"})
    assert bundle["parameters"] == student.num_parameters()
    assert bundle["bytes"] == (models / "bundles" / "1" / "model.onnx").stat().st_size
